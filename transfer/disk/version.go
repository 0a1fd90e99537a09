package disk

import (
	"io/fs"
	"os"
)

// A Version tells one content of a file from another without reading it, as reliably as the
// system allows. Versions can be compared with ==. [VersionOf] returns the version of a file.
type Version struct {
	Size         int64 // bytes
	MTime, CTime int64 // nanoseconds since the Unix epoch; CTime is 0 if the system has none
	// Device and Inode identify the file, whatever its names. Both are 0 if the system does not
	// tell them.
	Device, Inode uint64
	// Tag identifies the content of an object of a store, among those that have its name. It is
	// derived from the entity tag or the version, and is 0 for other files.
	Tag [16]byte
}

// A Versioned is the Sys value of a file's description which tells the version itself.
type Versioned interface{ Version() Version }

// IsIdentified reports whether the version tells its file apart from all others, so that files of
// one version are one file. Two objects of a store may have the same tag.
func (v Version) IsIdentified() bool { return !v.IsTagged() && v.Device != 0 && v.Inode != 0 }

// IsTagged reports whether a store tells the version.
func (v Version) IsTagged() bool { return v.Tag != [16]byte{} }

// CheckVersion returns ErrChanged if a file is not of the given version.
func CheckVersion(f interface{ Stat() (fs.FileInfo, error) }, version Version) error {
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if VersionOf(info) != version {
		return ErrChanged
	}
	return nil
}

// SameFile reports whether two descriptions are of the same file. Descriptions by a Dir that is
// not the operating system's are if their Sys values are equal, or identify the same file. Objects
// of a store have one name each, which descriptions do not tell.
func SameFile(a, b fs.FileInfo) bool {
	if VersionOf(a).IsTagged() || VersionOf(b).IsTagged() {
		return false
	}
	if os.SameFile(a, b) || a.Sys() != nil && a.Sys() == b.Sys() {
		return true
	}
	v, w := VersionOf(a), VersionOf(b)
	return v.IsIdentified() && v.Device == w.Device && v.Inode == w.Inode
}
