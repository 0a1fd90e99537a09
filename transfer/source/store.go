package source

import (
	"context"
	"io"
	"iter"
	"time"
)

// A store is a web server or bucket below a prefix. newRemote makes a Root of it. Names are
// slash-separated and relative to the prefix. The methods are safe for concurrent use. Their
// errors match fs.ErrNotExist, fs.ErrPermission or disk.ErrChanged where one of them applies, and
// else are an *Unavailable. A store itself repeats what is throttled or fails for a moment. It does
// so with jitter, for as long as ctx allows and at most about a minute.
type store interface {
	// stat describes an object, with one request. It need not look for directories, but may
	// return one that it finds.
	stat(ctx context.Context, name string) (objectInfo, error)
	// get requests the bytes [start, end) of an object, and returns them as they arrive. end may
	// exceed the size, and an empty object has no bytes. With a pinned version the error matches
	// disk.ErrChanged if the object is another one. info describes the object that the bytes are
	// of. The reader ends with io.ErrUnexpectedEOF if bytes are missing. The caller closes it.
	get(ctx context.Context, name string, pinned *objectInfo, start, end int64) (
		body io.ReadCloser, info objectInfo, err error)
	// list yields the entries of a directory, "" for the top, in no order, with names of one
	// component. The caller leaves out and counts those that no file system can hold: an empty
	// name, one of an object and of a directory. A directory without entries does not
	// exist. A store without listings returns an error that matches errors.ErrUnsupported.
	list(ctx context.Context, dir string) iter.Seq2[objectInfo, error]
	// describe names the store for people, without secrets.
	describe() string
	close() error
}

// An objectInfo describes an object, or a directory of a listing.
type objectInfo struct {
	name  string // one component in a listing, the whole name elsewhere
	isDir bool
	size  int64 // bytes; unknownSize in a listing that does not tell it
	mtime time.Time
	// tag identifies the version: an entity tag, or the ID of a version where the store has
	// versions. It is "" if the store has none of them, and weak if it starts with W/.
	tag string
	// versionID requests this version of a bucket with versions; "" elsewhere.
	versionID string
}

// unknownSize is the size of an object whose listing has only its name.
const unknownSize = -1
