package transfertest

import "errors"

// Mkfifo fails: Windows has no FIFOs in directories.
func Mkfifo(string) error { return errors.New("Windows has no FIFOs in directories") }
