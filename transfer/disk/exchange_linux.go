package disk

import (
	"errors"
	"io/fs"

	"golang.org/x/sys/unix"
)

func exchange(d osDir, a, b string) error {
	dir, err := d.root.Open(".")
	if err != nil {
		return err
	}
	defer dir.Close()
	fd := int(dir.Fd())
	err = unix.Renameat2(fd, a, fd, b, unix.RENAME_EXCHANGE)
	if err == unix.EINVAL || err == unix.ENOSYS || err == unix.EOPNOTSUPP {
		return errors.ErrUnsupported
	}
	if err != nil {
		return &fs.PathError{Op: "rename", Path: a, Err: err}
	}
	return nil
}
