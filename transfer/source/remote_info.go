package source

import (
	"io/fs"
	"time"

	"github.com/zeebo/blake3"

	"kwikcp/transfer/disk"
)

// A remoteInfo describes an object or a directory of a store. A store has neither modes nor links.
type remoteInfo struct {
	name string // one component
	objectInfo
}

const (
	remoteFileMode = fs.FileMode(0o644)
	remoteDirMode  = fs.ModeDir | 0o755
)

func (i *remoteInfo) Name() string { return i.name }
func (i *remoteInfo) IsDir() bool  { return i.isDir }

func (i *remoteInfo) Size() int64 {
	if i.isDir {
		return 0
	}
	return i.size
}

func (i *remoteInfo) Mode() fs.FileMode {
	if i.isDir {
		return remoteDirMode
	}
	return remoteFileMode
}

// ModTime returns the time of an object: the epoch without one, so that it is the same on every
// server. Directories of stores have no time: theirs is the zero time.Time.
func (i *remoteInfo) ModTime() time.Time {
	switch {
	case i.isDir:
		return time.Time{}
	case i.mtime.IsZero():
		return time.Unix(0, 0)
	}
	return i.mtime
}

// Sys returns the identity of the object and its version, for disk.SameFile and disk.VersionOf.
func (i *remoteInfo) Sys() any { return remoteSys{i.objectInfo.name, i.version()} }

// A remoteSys names a version of an object. It is comparable.
type remoteSys struct {
	object  string
	version disk.Version
}

// Version implements disk.Versioned.
func (s remoteSys) Version() disk.Version { return s.version }

// version returns the version of an object: its size and time, and a hash of its tag.
func (i *remoteInfo) version() disk.Version {
	if i.isDir {
		return disk.Version{}
	}
	return disk.Version{Size: i.Size(), MTime: i.ModTime().UnixNano(), Tag: i.objectInfo.versionTag()}
}

// identity returns the tag, or else the ID of the version. A listing has no IDs.
func (o *objectInfo) identity() string {
	if o.tag != "" {
		return o.tag
	}
	return o.versionID
}

// versionTag hashes what identifies the version of an object; 0 if nothing does.
func (o *objectInfo) versionTag() (tag [16]byte) {
	if o.identity() == "" {
		return tag
	}
	sum := blake3.Sum256([]byte(o.identity()))
	return [16]byte(sum[:16])
}

// An objectKey identifies a version of an object of a store. It is comparable.
type objectKey struct {
	root    *remote
	name    string // of the whole object
	size    int64
	mtime   int64 // seconds since the Unix epoch: answers of one version may have finer times
	version string
}

// key returns what identifies the content that an info describes.
func (o *objectInfo) key(r *remote) objectKey {
	return objectKey{r, o.name, o.size, o.mtime.Unix(), o.identity()}
}
