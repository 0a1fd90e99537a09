package disk

import "fmt"

// A Preallocation says whether a transfer reserves free space for a file before it writes it. The
// zero value is PreallocateAuto.
type Preallocation string

const (
	// PreallocateAuto reserves space for large files, except where that defeats compression.
	PreallocateAuto Preallocation = "auto"
	// PreallocateNone reserves none. A file that does not fit is found out when the disk is full.
	PreallocateNone Preallocation = "none"
	// PreallocateFull reserves space for each file, wherever the system can.
	PreallocateFull Preallocation = "full"
)

// ParsePreallocation parses a Preallocation.
func ParsePreallocation(text string) (Preallocation, error) {
	switch p := Preallocation(text); p {
	case PreallocateAuto, PreallocateNone, PreallocateFull:
		return p, nil
	}
	return "", fmt.Errorf("%q is neither auto, none nor full", text)
}

// Compresses reports whether the file system of an open file compresses its content, or may do so
// unnoticed.
func Compresses(f File) bool {
	c, ok := f.(interface{ compresses() bool })
	return ok && c.compresses()
}

// HasReliableTimes reports whether the times of an open file change with its content, and at no
// other time. Network file systems take times from the server, later than the change.
func HasReliableTimes(f File) bool {
	t, ok := f.(interface{ hasReliableTimes() bool })
	return ok && t.hasReliableTimes()
}
