package disk

import "os"

// Process returns the number of this process. It is of use only where files cannot be locked.
func Process() (machine string, id int) { return "local", os.Getpid() }

// IsRunning returns true: a file of another process is left alone.
func IsRunning(int) bool { return true }

// SameOwner returns true: files have no owner that decides who may change them.
func SameOwner(_, _ os.FileInfo) bool { return true }
