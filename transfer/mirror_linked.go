package transfer

import (
	"io/fs"
	"kwikcp/transfer/disk"
	"slices"
)

// This file is about files in place that have several names. Metadata written to one name would
// reach the others, which may be outside of the target. So such a file is replaced by a copy that
// has the metadata, unless the copy would lack it as well.

// writesThrough reports whether a file in place has other names and lacks metadata of its entry.
// The other names would get that, too.
func (m *mirror) writesThrough(h *disk.CachedDir, info fs.FileInfo, f *mirrorFile) bool {
	if m.NoPreserve || disk.Links(info) < 2 {
		return false
	}
	if !m.sameTime(info.ModTime(), f.manifest.MTime) {
		return true
	}
	return m.lacksMetadata(h.TreeDir, f.name, info, f.entry) && m.gains(h, f, info)
}

// gains reports whether a copy of a file in place would have metadata of its entry that the file
// lacks. It makes an empty file to find out what the system refuses. If there is nothing to gain
// that is counted as lost.
func (m *mirror) gains(h *disk.CachedDir, f *mirrorFile, info fs.FileInfo) bool {
	if !m.keepsMore() {
		return true // only permission bits can be missing
	}
	temp := m.freshName(f.name)
	file, err := h.Create(temp)
	if err != nil {
		return true // so does the copy, and reports the error
	}
	defer h.Remove(temp)
	file.Close()
	lost, err := m.tryMore(h.TreeDir, temp, f.entry)
	if err != nil {
		return true
	}
	made, err := h.Lstat(temp)
	if err != nil || !m.isEquallyPoor(h.TreeDir, temp, made, f, info) {
		return true
	}
	m.notKept.addAll(lost)
	return false
}

// isEquallyPoor reports whether a new file lacks the same metadata of an entry as the one in place.
func (m *mirror) isEquallyPoor(
	h disk.TreeDir, temp string, made fs.FileInfo, f *mirrorFile, there fs.FileInfo,
) bool {
	madeOwner, _ := disk.OwnerOf(made)
	owner, _ := disk.OwnerOf(there)
	if madeOwner != owner || made.Mode() != there.Mode() {
		return false
	}
	if f.entry.metadata == nil || !m.Xattrs && !m.ACLs {
		return true
	}
	d, err := disk.OpenMeta(h)
	if err != nil {
		return true
	}
	defer d.Close()
	ofMade, err := m.xattrChanges(d, temp, f.entry)
	if err != nil {
		return true
	}
	ofThere, err := m.xattrChanges(d, f.name, f.entry)
	return err != nil || slices.EqualFunc(ofMade, ofThere, func(a, b xattrChange) bool {
		return a.name == b.name && a.isRemoved == b.isRemoved
	})
}
