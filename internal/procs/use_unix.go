//go:build unix

package procs

import (
	"syscall"
	"time"
)

// use returns what the process has taken, and whether that is known.
func use() (usage, bool) {
	var r syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &r); err != nil {
		return usage{}, false
	}
	return usage{time.Duration(r.Utime.Nano() + r.Stime.Nano()), int64(r.Inblock)}, true
}
