//go:build !unix

package cmd

// openFileLimit returns 0: the system has no such limit.
func openFileLimit() int64 { return 0 }
