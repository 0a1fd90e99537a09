//go:build unix

package disk

import (
	"io/fs"
	"syscall"

	"golang.org/x/sys/unix"
)

func linksOf(info fs.FileInfo) uint64 {
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		return uint64(st.Nlink)
	}
	return 0
}

func ownerOf(info fs.FileInfo) (o Owner, ok bool) {
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return o, false
	}
	return Owner{st.Uid, st.Gid}, true
}

func deviceNumber(info fs.FileInfo) (d Device, ok bool) {
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return d, false
	}
	return Device{unix.Major(uint64(st.Rdev)), unix.Minor(uint64(st.Rdev))}, true
}
