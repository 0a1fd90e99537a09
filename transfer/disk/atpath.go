package disk

import (
	"errors"
	"io/fs"
	"os"
	"syscall"
)

var (
	// ErrMoved is returned by [CheckPath] if the path leads to another directory.
	ErrMoved = errors.New("another directory is in its place: it was moved, replaced, unmounted or mounted over")
	// ErrRemoved is returned by [CheckPath] if the path leads to no directory.
	ErrRemoved = errors.New("the directory is gone: it was moved, removed or unmounted")
)

// CheckPath returns nil if a path of the operating system still leads to the open directory that
// was opened there. It compares device and inode. Otherwise it returns a *fs.PathError with
// ErrMoved, ErrRemoved or the system's error. A directory that is not the operating system's, as
// tests have, has no path, and the result is nil, unless its FileInfo is a pathChecker.
//
// It makes two system calls, so that it may be called every second.
func CheckPath(d Dir, path string) error {
	open, err := d.Stat(".")
	if err != nil {
		return &fs.PathError{Op: "stat", Path: path, Err: Cause(err)}
	}
	if simulated, ok := open.(pathChecker); ok {
		return simulated.CheckPath(path)
	}
	if isSystem := os.SameFile(open, open); !isSystem {
		return nil
	}
	there, err := os.Stat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ENOTDIR), err == nil && !there.IsDir():
		return &fs.PathError{Op: "stat", Path: path, Err: ErrRemoved}
	case err != nil:
		return err
	case !os.SameFile(open, there):
		return &fs.PathError{Op: "stat", Path: path, Err: ErrMoved}
	}
	return nil
}

// A pathChecker is the FileInfo of a directory of a simulated disk that knows its path.
type pathChecker interface{ CheckPath(path string) error }
