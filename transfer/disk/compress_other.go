//go:build !linux

package disk

func (f osFile) compresses() bool { return false }

// hasReliableTimes is false: network file systems are not told from others here.
func (f osFile) hasReliableTimes() bool { return false }
