package transfer

import (
	"errors"
	"io/fs"
	"kwikcp/transfer/disk"
	"kwikcp/transfer/internal/partfile"
	"os"
	"path/filepath"
	"strings"
)

// This file finds out which temporary files belong to other transfers. Mirrors may have nested
// targets, and gets write into the targets of mirrors. A part file belongs to the process that
// holds its lock. A mirror also has temporary files that it does not keep open: small files, and
// part files of its Pool. All that are below a target belong to the mirror that holds the lock of
// that target.

// isOthers reports whether the temporary file at a path of the target belongs to another transfer.
// h is its directory.
func (m *mirror) isOthers(h *disk.CachedDir, at string) bool {
	name := disk.Base(at)
	return strings.HasSuffix(name, ".part") && isHeld(h, name) || m.isOthersTree(disk.Parent(at))
}

// isOthersPart reports whether there is a part file of a file that belongs to another mirror. It may
// not be locked now.
func (m *mirror) isOthersPart(f *mirrorFile, h *disk.CachedDir) bool {
	_, err := h.Lstat(partfile.PartName(f.name))
	return err == nil && m.isOthersTree(f.dir.path)
}

// isOthersTarget reports whether another mirror has this directory as its target.
func (m *mirror) isOthersTarget(dir string) bool {
	isOwn := dir == "" && m.lock != nil
	if isOwn {
		return false
	}
	h, err := m.cache.Acquire(dir)
	if err != nil {
		return false
	}
	defer m.cache.Release(h)
	return isHeld(h, mirrorLock)
}

// isOthersTree reports whether another mirror has a target that is or contains a directory of this
// mirror's target.
func (m *mirror) isOthersTree(dir string) bool {
	for {
		if m.isOthersTarget(dir) {
			return true
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
		if d, err := disk.OpenDir(above.Path); err == nil {
			held := isHeld(d, mirrorLock)
			d.Close()
			if held {
				return true
			}
		}
	}
	return false
}

// isHeld reports whether another process, or another mirror of this one, holds the lock of a file.
// It takes the lock for a moment if it is free. A file that this user cannot open is another
// user's.
func isHeld(d disk.Dir, name string) bool {
	f, err := d.OpenPart(name)
	if errors.Is(err, fs.ErrPermission) {
		f, err = d.Open(name)
	}
	if err != nil {
		return !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, disk.ErrNotAFile)
	}
	defer f.Close()
	free, err := f.TryLock()
	return err != nil || !free
}
