//go:build unix

package disk

import (
	"errors"
	"io/fs"
	"slices"
	"syscall"

	"golang.org/x/sys/unix"
)

func linkInto(from osDir, name string, to osDir, as string) error {
	a, err := from.root.Open(".")
	if err != nil {
		return err
	}
	defer a.Close()
	b, err := to.root.Open(".")
	if err != nil {
		return err
	}
	defer b.Close()
	if err := unix.Linkat(int(a.Fd()), name, int(b.Fd()), as, 0); err != nil {
		return &fs.PathError{Op: "link", Path: name, Err: err}
	}
	return nil
}

// CannotLink reports whether an error of LinkInto means that the two directories are on different
// file systems, or that the file can have no second name. A copy may succeed.
func CannotLink(err error) bool {
	errno, ok := errors.AsType[syscall.Errno](err)
	return errors.Is(err, errors.ErrUnsupported) || ok && slices.Contains([]syscall.Errno{
		syscall.EXDEV, syscall.EPERM, syscall.EACCES, syscall.EMLINK, syscall.EOPNOTSUPP, syscall.ENOSYS,
	}, errno)
}
