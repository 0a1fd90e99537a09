//go:build unix

package transfertest

import "syscall"

// Mkfifo makes a FIFO.
func Mkfifo(path string) error { return syscall.Mkfifo(path, 0o666) }
