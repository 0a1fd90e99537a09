//go:build !linux

package disk

// OpenVolume returns nil: there is no call that syncs one file system and reports errors.
func (d osDir) OpenVolume() (Volume, error) { return nil, nil }

// IsMountPoint returns false: files are no mount points on these systems.
func IsMountPoint(TreeDir, string) bool { return false }
