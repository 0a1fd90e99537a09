package transfer

import (
	"errors"
	"io/fs"
	"kwikcp/transfer/disk"
	"kwikcp/transfer/internal/partfile"

	transferpb "kwikcp/transfer/internal/wire/proto"
)

// This file gives entries of the target what they have on the server besides content, time and
// permission bits.

// wantedMetadata returns what a mirror requests of entries.
func (m *mirror) wantedMetadata() *transferpb.MetadataRequest {
	return &transferpb.MetadataRequest{Links: true, Owners: true, Traits: true}
}

// noteTop takes the server's description of the listed directory. A server that does not know the
// request sends none.
func (p *plan) noteTop(top *Entry) {
	if top != nil {
		p.links.isTold = true
		p.top = top
	}
}

// applyTop gives the target the time of the listed directory, and its mode if the mirror made the
// target. The lock file must be gone.
func (m *mirror) applyTop() error {
	if m.top == nil || m.NoPreserve || m.DryRun {
		return nil
	}
	d, err := disk.OpenMeta(m.root)
	if errors.Is(err, errors.ErrUnsupported) {
		return nil
	}
	if err != nil {
		return err
	}
	defer d.Close()
	info, err := m.root.Lstat(".")
	if err != nil {
		return err
	}
	if mode := m.top.Mode &^ disk.Umask; m.madeTarget && info.Mode().Perm() != mode {
		if err := d.Chmod(".", mode); err != nil {
			return err
		}
	}
	if info.ModTime().Equal(m.top.MTime) {
		return nil
	}
	return d.Chtimes(".", m.top.MTime)
}

// applyLinkMetadata gives a symlink the time of its entry where the system can set it. there
// describes the link; nil if it is new.
func (m *mirror) applyLinkMetadata(h *disk.CachedDir, name string, e Entry, there fs.FileInfo) error {
	if m.NoPreserve || m.DryRun || there != nil && there.ModTime().Equal(e.MTime) {
		return nil
	}
	d, err := disk.OpenMeta(h.TreeDir)
	if errors.Is(err, errors.ErrUnsupported) {
		return nil
	}
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Chtimes(name, e.MTime)
}

// refreshMetadata gives a file in place, whose content is up to date, the mode of its entry. It
// returns false if the file must be replaced for that.
func (p *plan) refreshMetadata(f *mirrorFile) bool {
	if p.NoPreserve || p.DryRun {
		return true
	}
	want := partfile.Metadata{Mode: f.entry.Mode, MTime: f.entry.MTime}
	switch {
	case f.local.Mode() == want.Mode&^disk.Umask:
		return true
	case disk.Links(f.local) > 1:
		f.detach = true
		return false
	}
	place := p.placeOf(f)
	file, info := place.Existing()
	if file == nil {
		return false
	}
	defer file.Close()
	return place.ApplyMetadata(file, info, want) == nil
}

// writesThrough reports whether a file in place has other names and lacks metadata of its entry. The
// other names would get that, too.
func (m *mirror) writesThrough(info fs.FileInfo, f *mirrorFile) bool {
	if m.NoPreserve || disk.Links(info) < 2 {
		return false
	}
	want := metadataOf(f.manifest, false)
	return info.Mode() != want.Mode&^disk.Umask || !info.ModTime().Equal(want.MTime)
}
