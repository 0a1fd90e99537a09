package disk

import "errors"

// A Version tells one content of a file from another without reading it, as well as the system can.
type Version struct {
	Size         int64
	MTime, CTime int64 // nanoseconds since the Unix epoch; ctime 0 where there is none
	Inode        uint64
}

// ErrChanged is the error of a file that is not of the version it was.
var ErrChanged = errors.New("the file changed")

// SameVersion returns ErrChanged if a file is not of the given version.
func SameVersion(f File, version Version) error {
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if VersionOf(info) != version {
		return ErrChanged
	}
	return nil
}
