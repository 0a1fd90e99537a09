package disk

import (
	"errors"
	"io/fs"
	"os"

	"golang.org/x/sys/windows"
)

const openNonblock = 0 // there are no FIFOs among a directory's files

// ErrQuota is the system's error if the user's quota on the file system is used up.
var ErrQuota error = windows.ERROR_DISK_QUOTA_EXCEEDED

// Umask holds the permission bits that the process does not give to new files: none here.
const Umask fs.FileMode = 0

// syncDir does nothing: Windows makes names durable itself, and refuses to flush a directory.
func syncDir(*os.File) error { return nil }

// PrivateToUser returns true: the access control list of the directory decides who can create a
// file in it.
func PrivateToUser(fs.FileInfo) bool { return true }

func tryLock(f *os.File) (bool, error) {
	const flags = windows.LOCKFILE_EXCLUSIVE_LOCK | windows.LOCKFILE_FAIL_IMMEDIATELY
	beyond := &windows.Overlapped{OffsetHigh: 1 << 30} // a byte that no file has: locks here keep others from reading
	err := windows.LockFileEx(windows.Handle(f.Fd()), flags, 0, 1, 0, beyond)
	if errors.Is(err, windows.ERROR_LOCK_VIOLATION) || errors.Is(err, windows.ERROR_IO_PENDING) {
		return false, nil
	}
	return err == nil, err
}

// VersionOf returns the version of a file: its size and time.
func VersionOf(info fs.FileInfo) Version {
	if v, ok := info.Sys().(Versioned); ok {
		return v.Version()
	}
	return Version{Size: info.Size(), MTime: info.ModTime().UnixNano()}
}

// DeviceOf returns 0: no file system is synced as a whole here.
func DeviceOf(fs.FileInfo) uint64 { return 0 }
