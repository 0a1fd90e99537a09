package disk

import (
	"errors"

	"golang.org/x/sys/unix"
)

// CloneFrom implements Cloner with the ioctl FICLONE, which Btrfs, XFS and others have within one file system.
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
