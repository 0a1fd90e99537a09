//go:build unix

package disk

import (
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// chtimesFar sets the times of an entry to one that nanoseconds of 64 bits do not reach.
func chtimesFar(root *os.Root, name string, mtime time.Time) error {
	at, err := unix.TimeToTimespec(mtime)
	if err != nil {
		return &fs.PathError{Op: "utimensat", Path: name, Err: err}
	}
	dir, err := root.Open(filepath.Dir(name))
	if err != nil {
		return err
	}
	defer dir.Close()
	times := []unix.Timespec{at, at}
	if err := unix.UtimesNanoAt(int(dir.Fd()), filepath.Base(name), times, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return &fs.PathError{Op: "utimensat", Path: name, Err: err}
	}
	return nil
}
