package transfer

import (
	"os"

	"golang.org/x/sys/unix"
)

// Checkpoint has the kernel write what is dirty, and what is needed to find it again.
func (f osFile) Checkpoint() error {
	conn, err := f.SyscallConn()
	if err != nil {
		return err
	}
	if failed := conn.Control(func(fd uintptr) {
		for {
			if err = unix.Fdatasync(int(fd)); err != unix.EINTR {
				return
			}
		}
	}); failed != nil {
		return failed
	}
	return os.NewSyscallError("fdatasync", err)
}
