package transfer

import (
	"io/fs"
	"kwikcp/transfer/disk"
)

// lookUp is the function lookUp, with ErrElsewhere for what the mirror must leave.
func (m *mirror) lookUp(h *disk.CachedDir, name string) (found occupant, info fs.FileInfo, err error) {
	found, info, err = lookUp(h, name)
	if err == nil && found != occupantNone && m.isElsewhere(h, name, info) {
		return found, info, ErrElsewhere
	}
	return found, info, err
}

// isElsewhere reports whether the mirror must leave an entry: a directory on another file system,
// or a file that something is mounted on. Devices of files tell nothing: they differ on an overlay.
func (m *mirror) isElsewhere(h *disk.CachedDir, name string, info fs.FileInfo) bool {
	switch {
	case !m.OneFileSystem:
		return false
	case info.IsDir():
		return disk.DeviceOf(info) != m.device
	}
	return disk.IsMountPoint(h.TreeDir, name)
}
