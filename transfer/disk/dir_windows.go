package disk

import (
	"errors"
	"io/fs"
	"os"

	"golang.org/x/sys/windows"
)

const openNonblock = 0 // there are no FIFOs among a directory's files

var ErrQuota error = windows.ERROR_DISK_QUOTA_EXCEEDED

const Umask fs.FileMode = 0

// syncDir does nothing: Windows keeps its directories by itself and refuses to flush one.
func syncDir(*os.File) error { return nil }

// OnlyOurs trusts the directory: its access control list decides who can make a file in it.
func OnlyOurs(fs.FileInfo) bool { return true }

func tryLock(f *os.File) (bool, error) {
	err := windows.LockFileEx(windows.Handle(f.Fd()), windows.LOCKFILE_EXCLUSIVE_LOCK|windows.LOCKFILE_FAIL_IMMEDIATELY, 0, 1, 0, &windows.Overlapped{OffsetHigh: 1 << 30})
	if errors.Is(err, windows.ERROR_LOCK_VIOLATION) || errors.Is(err, windows.ERROR_IO_PENDING) {
		return false, nil
	}
	return err == nil, err
}

func VersionOf(info fs.FileInfo) Version {
	return Version{Size: info.Size(), MTime: info.ModTime().UnixNano()}
}

// DeviceOf tells no file systems apart: none is synced as a whole here.
func DeviceOf(fs.FileInfo) uint64 { return 0 }
