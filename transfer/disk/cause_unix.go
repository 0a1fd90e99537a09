//go:build unix

package disk

import "syscall"

var (
	systemBusyErrnos   []syscall.Errno
	systemAbsentErrnos []syscall.Errno
	failedErrnos       []syscall.Errno
)
