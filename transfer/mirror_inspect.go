package transfer

import (
	"errors"
	"io/fs"
	"kwikcp/transfer/disk"
	"kwikcp/transfer/internal/partfile"
)

// This file is about what a target has in the place of a file.

// mustCompare reports whether a file is in Recheck, or below an entry of it.
func (m *mirror) mustCompare(path string) bool {
	if len(m.Recheck) == 0 {
		return false
	}
	for ; path != ""; path = disk.Parent(path) {
		if m.Recheck[path] {
			return true
		}
	}
	return m.Recheck["."]
}

// claimPart finds the part file of a file, which is not extra then.
func (p *plan) claimPart(f *mirrorFile) {
	if len(f.dir.parts) > 0 {
		part := partfile.PartName(f.name)
		f.resumes = f.dir.parts[part]
		delete(f.dir.parts, part)
	}
}

// inspect finds the local file of a file, and its checksums.
func (p *plan) inspect(f *mirrorFile, mayExist bool) error {
	if p.Checksums != nil {
		f.checksums = p.Checksums(f.entry.Path)
	}
	if !mayExist {
		return nil
	}
	h, err := p.cache.Acquire(f.dir.path)
	if err != nil {
		return err
	}
	defer p.cache.Release(h)
	found, info, err := p.lookUp(h, f.name)
	if err != nil {
		return err
	}
	if f.dir.isAside && (found == occupantDir || found == occupantSpecial) {
		return p.removeOwn(h, f.name)
	}
	switch found {
	case occupantDir:
		return errDirInTheWay
	case occupantSpecial:
		if !p.Specials {
			return disk.ErrNotAFile
		}
	case occupantFile:
		f.local = info
	}
	return nil
}

// An occupant is the type of what is in an entry's place in the target.
type occupant int

const (
	occupantNone occupant = iota
	occupantFile
	occupantDir
	occupantLink
	occupantSpecial // a device, FIFO or socket
)

// lookUp returns what has a name in a directory. info is nil for occupantNone.
func lookUp(h *disk.CachedDir, name string) (found occupant, info fs.FileInfo, err error) {
	info, err = h.Lstat(name)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return occupantNone, nil, nil
	case err != nil:
		return occupantNone, nil, err
	case info.IsDir():
		return occupantDir, info, nil
	case info.Mode().IsRegular():
		return occupantFile, info, nil
	case info.Mode()&fs.ModeSymlink != 0:
		return occupantLink, info, nil
	}
	return occupantSpecial, info, nil
}
