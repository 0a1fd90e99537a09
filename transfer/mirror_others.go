package transfer

import (
	"kwikcp/transfer/disk"
	"kwikcp/transfer/internal/partfile"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// This file finds out which temporary files belong to other transfers. Mirrors may have nested
// targets, and gets write into the targets of mirrors. A part file belongs to the process that
// holds its lock. A mirror also has temporary files that it does not keep open: small files, and
// part files of its Pool. All that are below a target belong to the mirror that holds the lock of
// that target.

// isOthers reports whether the temporary file at a path of the target belongs to another transfer.
// h is its directory. An error means that it is not known.
func (m *mirror) isOthers(h *disk.CachedDir, at string) (bool, error) {
	if name := disk.Base(at); strings.HasSuffix(name, ".part") {
		if held, err := partfile.IsHeld(h, name); held || err != nil {
			return held, err
		}
	}
	return m.isOthersTree(disk.Parent(at))
}

// mayRemoveTemp reports whether a temporary file is none of a mirror that is running. Where files
// cannot be locked, that is known only of one that has not changed for a day.
func (m *mirror) mayRemoveTemp(h *disk.CachedDir, name string) bool {
	if m.lock != nil && !m.lock.IsUnlocked() {
		return true
	}
	info, err := h.Lstat(name)
	if err != nil {
		return false
	}
	changed := max(disk.VersionOf(info).CTime, info.ModTime().UnixNano())
	return time.Since(time.Unix(0, changed)) > 24*time.Hour
}

// isOthersPart reports whether there is a part file of a file that may belong to another mirror,
// even if it is not locked now.
func (m *mirror) isOthersPart(f *mirrorFile, h *disk.CachedDir) bool {
	if _, err := h.Lstat(partfile.PartName(f.name)); err != nil {
		return false
	}
	others, err := m.isOthersTree(f.dir.path)
	return others || err != nil
}

// isOthersTarget reports whether another mirror has this directory as its target.
func (m *mirror) isOthersTarget(dir string) (bool, error) {
	isOwn := dir == "" && m.lock != nil
	if isOwn {
		return false, nil
	}
	h, err := m.cache.Acquire(dir)
	if err != nil {
		return false, err
	}
	defer m.cache.Release(h)
	return partfile.IsHeld(h, mirrorLock)
}

// isOthersTree reports whether another mirror has a target that is or contains a directory of this
// mirror's target.
func (m *mirror) isOthersTree(dir string) (bool, error) {
	for {
		if others, err := m.isOthersTarget(dir); others || err != nil {
			return others, err
		}
		if dir == "" {
			break
		}
		dir = disk.Parent(dir)
	}
	for _, above := range m.above {
		if _, err := os.Lstat(filepath.Join(above.Path, mirrorLock)); err != nil {
			continue
		}
		d, err := disk.OpenDir(above.Path)
		if err != nil {
			continue
		}
		held, err := partfile.IsHeld(d, mirrorLock)
		d.Close()
		if held || err != nil {
			return held, err
		}
	}
	return false, nil
}
