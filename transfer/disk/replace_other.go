//go:build !linux

package disk

func (d osDir) checkReplaceable(string) error { return nil }
func (d osDir) mayCreate() error              { return nil }
func (d osDir) holdsAnyName() bool            { return false }
