package disk

import (
	"errors"

	"golang.org/x/sys/unix"
)

// CloneFrom shares the blocks of another file of the same file system (ioctl FICLONE; Btrfs, XFS and others can).
func (f osFile) CloneFrom(other File) error {
	from, ok := other.(osFile)
	if !ok {
		return errors.ErrUnsupported
	}
	to, err := f.SyscallConn()
	if err != nil {
		return err
	}
	source, err := from.SyscallConn()
	if err != nil {
		return err
	}
	var cloned error
	err = to.Control(func(dest uintptr) {
		if err := source.Control(func(src uintptr) { cloned = unix.IoctlFileClone(int(dest), int(src)) }); err != nil {
			cloned = err
		}
	})
	return errors.Join(err, cloned)
}
