//go:build !linux

package transfer

// StartSync does nothing: there is no call for it here, and Sync does the whole work.
func (f osFile) StartSync() {}
