package transfer

import (
	"kwikcp/transfer/disk"
	"kwikcp/transfer/internal/partfile"
)

// looksUpToDate reports whether the file in place has the size and time of the listing, and no
// part file beside it. A file with checksums is always read.
func (f *mirrorFile) looksUpToDate() bool {
	if f.resumes || f.local == nil || len(f.checksums) > 0 {
		return false
	}
	return f.local.Size() == f.entry.Size && f.local.ModTime().Equal(f.entry.MTime)
}

// keepQuickly gives a file that looks up to date the mode of the listing: a new mode on the server
// changes no time. It reports false if the file cannot be opened for that. Its content is not read.
func (p *plan) keepQuickly(f *mirrorFile) (bool, error) {
	hasMode := f.local.Mode() == f.entry.Mode&^disk.Umask
	if hasMode || p.NoPreserve || p.DryRun {
		return true, nil
	}
	h, err := p.cache.Acquire(f.dir.path)
	if err != nil {
		return false, err
	}
	defer p.cache.Release(h)
	at := p.placeOf(f)
	file, info := at.Existing()
	if file == nil || disk.VersionOf(info) != disk.VersionOf(f.local) {
		if file != nil {
			file.Close()
		}
		return false, nil
	}
	defer file.Close()
	return true, at.ApplyMetadata(file, info, partfile.Metadata{Mode: f.entry.Mode, MTime: f.entry.MTime})
}
