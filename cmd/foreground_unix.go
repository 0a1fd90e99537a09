//go:build unix

package cmd

import (
	"os"
	"os/signal"
	"syscall"

	"golang.org/x/sys/unix"
)

// isForeground reports whether a terminal belongs to this process's job, and not to the shell or to
// another job. It is true for a terminal that does not control the process.
func isForeground(terminal *os.File) bool {
	group, err := unix.IoctlGetInt(int(terminal.Fd()), unix.TIOCGPGRP)
	return err != nil || group == unix.Getpgrp()
}

// notifyContinued has a value sent when a job goes on that was stopped (Ctrl-Z).
func notifyContinued() (continued chan os.Signal, stop func()) {
	continued = make(chan os.Signal, 1)
	signal.Notify(continued, syscall.SIGCONT)
	return continued, func() { signal.Stop(continued) }
}
