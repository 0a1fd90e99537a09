//go:build unix

package disk

import (
	"errors"
	"io/fs"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

const openNonblock = syscall.O_NONBLOCK

var ErrQuota error = unix.EDQUOT

// Umask is the process's; there is no way to read it but to set it, which is safe before main.
var Umask = func() fs.FileMode {
	m := syscall.Umask(0)
	syscall.Umask(m)
	return fs.FileMode(m)
}()

func syncDir(f *os.File) error { return f.Sync() }

// OnlyOurs reports whether a file is this user's, has no other name, and could not be written by anybody else. A file that is
// not the operating system's is.
func OnlyOurs(info fs.FileInfo) bool {
	st, ok := info.Sys().(*syscall.Stat_t)
	return !ok || int(st.Uid) == os.Geteuid() && st.Nlink == 1 && info.Mode().Perm()&0o022 == 0
}

func tryLock(f *os.File) (bool, error) {
	for {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if errors.Is(err, unix.EWOULDBLOCK) {
			return false, nil
		}
		if err != unix.EINTR { // as package os does for its calls
			return err == nil, err
		}
	}
}

// VersionOf returns the version of a file. A file that is not the operating system's has its size and time alone.
func VersionOf(info fs.FileInfo) Version {
	v := Version{Size: info.Size(), MTime: info.ModTime().UnixNano()}
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		v.CTime, v.Inode = ctimeOf(st), uint64(st.Ino)
	}
	return v
}

// DeviceOf returns the file system that a file is on.
func DeviceOf(info fs.FileInfo) uint64 {
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		return uint64(st.Dev)
	}
	return 0
}
