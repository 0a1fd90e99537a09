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

// ErrQuota is the system's error if the user's quota on the file system is used up.
var ErrQuota error = unix.EDQUOT

// Umask holds the permission bits that the process does not give to new files. The only way to
// read it is to set it, which is safe before main.
var Umask = func() fs.FileMode {
	m := syscall.Umask(0)
	syscall.Umask(m)
	return fs.FileMode(m)
}()

func syncDir(f *os.File) error { return f.Sync() }

// PrivateToUser reports whether only this user can have written to a file. The user owns such a
// file, it has one name, and neither group nor others may write to it. It returns true if the
// FileInfo is not from the operating system.
func PrivateToUser(info fs.FileInfo) bool {
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return true
	}
	isOwn := int(st.Uid) == os.Geteuid()
	isWritable := info.Mode().Perm()&0o022 != 0
	return isOwn && st.Nlink == 1 && !isWritable
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

// VersionOf returns the version of a file. That of a file that is not the operating system's has
// size and time alone.
func VersionOf(info fs.FileInfo) Version {
	if v, ok := info.Sys().(Versioned); ok {
		return v.Version()
	}
	v := Version{Size: info.Size(), MTime: info.ModTime().UnixNano()}
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		v.CTime, v.Device, v.Inode = ctimeOf(st), uint64(st.Dev), uint64(st.Ino)
	}
	return v
}

// DeviceOf returns a number that identifies the file system of a file, 0 if it is not known.
func DeviceOf(info fs.FileInfo) uint64 {
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		return uint64(st.Dev)
	}
	return 0
}
