package partfile

import (
	"errors"
	"io/fs"

	"kwikcp/transfer/disk"
)

// MirrorLock is the name of the file whose lock a mirror holds in its target, so that each target
// has at most one mirror.
const MirrorLock = ".kwikcp-mirror.part"

// IsHeld reports whether another process, or another File of this one, holds the lock of a file. It
// takes the lock for a moment if it is free. A file that this user cannot open is another user's.
// One of this user counts as free. A transfer gave it the mode of the target just before the
// rename, and its owner may not read that. An error means that it is not known.
func IsHeld(d disk.Dir, name string) (held bool, err error) {
	f, err := d.OpenPart(name)
	if errors.Is(err, fs.ErrPermission) {
		f, err = d.Open(name)
	}
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, disk.ErrNotAFile):
		return false, nil
	case errors.Is(err, fs.ErrPermission):
		info, err := d.Lstat(name)
		return err == nil && !disk.PrivateToUser(info), err
	case err != nil:
		return false, err
	}
	defer f.Close()
	free, err := f.TryLock()
	return !free && err == nil, err
}
