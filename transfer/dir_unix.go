//go:build unix

package transfer

import (
	"errors"
	"io/fs"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

const openNonblock = syscall.O_NONBLOCK

var errQuota error = unix.EDQUOT

// umask is the process's; there is no way to read it but to set it, which is safe before main.
var umask = func() fs.FileMode {
	m := syscall.Umask(0)
	syscall.Umask(m)
	return fs.FileMode(m)
}()

func syncDir(f *os.File) error { return f.Sync() }

// onlyOurs reports whether a file is this user's, has no other name, and could not be written by anybody else. A file that is
// not the operating system's is.
func onlyOurs(info fs.FileInfo) bool {
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

// versionOf returns the version of a file. A file that is not the operating system's has its size and time alone.
func versionOf(info fs.FileInfo) fileVersion {
	v := fileVersion{size: info.Size(), mtime: info.ModTime().UnixNano()}
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		v.ctime, v.inode = ctimeOf(st), uint64(st.Ino)
	}
	return v
}

// deviceOf returns the file system that a file is on.
func deviceOf(info fs.FileInfo) uint64 {
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		return uint64(st.Dev)
	}
	return 0
}
