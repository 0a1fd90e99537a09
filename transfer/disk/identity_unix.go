//go:build unix

package disk

import (
	"io/fs"
	"syscall"
)

// fileIDOf returns the identity of a file. ok is false if the FileInfo is not from the operating
// system.
func fileIDOf(info fs.FileInfo) (id fileID, ok bool) {
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return id, false
	}
	return fileID{uint64(st.Dev), uint64(st.Ino)}, true
}
