// Package source has the roots that servers serve: local directories, web servers and buckets. A
// server only reads them.
package source

import (
	"context"
	"io"
	"io/fs"

	"kwikcp/transfer/disk"
)

// A Dir is a directory of a root. Names are slash-separated and relative to it. They never lead out
// of it. Infos are of the version that [disk.VersionOf] returns. The methods are safe for
// concurrent use. They return the errors of [fs] and [disk] for what is missing or of another kind,
// and an [Unavailable] if a store does not answer.
type Dir interface {
	// Open opens a regular file, following links that stay inside. It returns disk.ErrNotAFile for
	// anything else. It sends one request at most. ctx bounds the open, and not the reads: those
	// end when the caller closes the object.
	Open(ctx context.Context, name string) (Object, error)
	// Stat describes what the name leads to, following links that stay inside.
	Stat(ctx context.Context, name string) (fs.FileInfo, error)
	// Lstat describes what has the name, without following a link in its last component.
	Lstat(ctx context.Context, name string) (fs.FileInfo, error)
	// Readlink returns the target of a symbolic link.
	Readlink(ctx context.Context, name string) (string, error)
	// Names returns the names in the directory, in no order. It returns disk.ErrTooManyEntries if
	// there are more than limit.
	Names(ctx context.Context, limit int) ([]string, error)
	// Sub opens a directory in this one. name is one component, and a link is not followed. It
	// returns disk.ErrNotADirectory for anything else. The caller closes the directory.
	Sub(ctx context.Context, name string) (Dir, error)
	// At opens a directory at any depth below this one, following links that stay inside; "." is
	// this one. It returns disk.ErrNotADirectory for anything else. The caller closes the
	// directory.
	At(ctx context.Context, name string) (Dir, error)
	// Close closes the directory. Objects and directories that were opened through it stay open.
	Close() error
}

// A Root is the directory that a server serves.
type Root interface {
	Dir
	// Caps returns what the root can do. It does not change.
	Caps() Caps
	// Check returns an error while the root cannot be read at all.
	Check(ctx context.Context) error
}

// Caps are the capabilities of a root.
type Caps struct {
	// IsRemote is set if bytes arrive over a network. A secondary does not hash such files: each
	// byte would be fetched for that alone.
	IsRemote bool
	// Parallel is how many files are opened at a time, so that many small ones do not wait for one
	// another. It is 0 where that is as fast as the cores.
	Parallel int
}

// An Object is an open file of one version: it never returns bytes of another. Except for Close,
// its methods may be called at the same time.
type Object interface {
	// ReadAt reads as io.ReaderAt does. If the file was replaced since it was opened, and the old
	// content is gone, the error matches disk.ErrChanged.
	io.ReaderAt
	// Stat describes the file as it is now; an object of a store as it was opened.
	Stat() (fs.FileInfo, error)
	// Close ends the reads that run. It may be called again.
	Close() error
}

// A Prefetcher is an Object that can fetch bytes before they are read.
type Prefetcher interface {
	// Prefetch begins to fetch the bytes [start, end), which will be read soon. It does not block,
	// and fetches no more than its cache can keep.
	Prefetch(start, end int64)
}

// A Sparse is an Object that knows where its file has data.
type Sparse interface {
	// NextData is that of disk.File.
	NextData(off int64) (start, end int64, ok bool)
}

// An Unavailable is the error of a store that does not answer, or answers that it cannot now.
type Unavailable struct {
	// Root names the store for people; it has no secrets.
	Root string
	Err  error
}

func (e *Unavailable) Error() string { return e.Root + " is not available: " + e.Err.Error() }

// Unwrap returns the cause.
func (e *Unavailable) Unwrap() error { return e.Err }

var _ Sparse = disk.File(nil)
