package sysmem

import "golang.org/x/sys/unix"

// systemLimit returns the machine's memory, 0 if it is unknown.
func systemLimit() int64 {
	n, err := unix.SysctlUint64("hw.memsize")
	if err != nil {
		return 0
	}
	return int64(n)
}
