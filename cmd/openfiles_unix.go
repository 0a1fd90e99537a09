//go:build unix

package cmd

import (
	"math"

	"golang.org/x/sys/unix"
)

// openFileLimit returns how many files the process may open, 0 if that is unknown. Package os has
// raised the limit as far as it may.
func openFileLimit() int64 {
	var r unix.Rlimit
	if unix.Getrlimit(unix.RLIMIT_NOFILE, &r) != nil {
		return 0
	}
	return int64(min(uint64(r.Cur), math.MaxInt64))
}
