//go:build !linux

package disk

// OpenVolume returns none: there is no call that syncs one file system and says whether it could.
func (d osDir) OpenVolume() (Volume, error) { return nil, nil }
