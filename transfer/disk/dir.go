package disk

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"time"
)

// A Dir is a directory that files are served from or received into. Names are slash-separated, relative to it, and never
// lead out of it. [OpenDir] returns one of the operating system; the simulator has one in memory.
type Dir interface {
	// Open opens an existing regular file for reading. It never waits, and fails with ErrNotAFile for whatever is
	// not a regular file.
	Open(name string) (File, error)
	// Create makes a new file (mode 0600) for writing; fs.ErrExist if there is something of that name.
	Create(name string) (File, error)
	// OpenPart opens an existing regular file for reading and writing, following no link in its last component.
	OpenPart(name string) (File, error)
	Lstat(name string) (fs.FileInfo, error)
	Stat(name string) (fs.FileInfo, error)
	Rename(old, new string) error
	// RenameNew is Rename, but fails with fs.ErrExist if there is something of the new name.
	RenameNew(old, new string) error
	Remove(name string) error
	Chtimes(name string, mtime time.Time) error
	// Sync makes renames durable.
	Sync() error
	Close() error
}

// A File is an open file of a Dir. *os.File implements most of it.
type File interface {
	io.ReaderAt
	io.WriterAt
	io.Closer
	Stat() (fs.FileInfo, error)
	Chmod(mode fs.FileMode) error
	// Truncate cuts the file, or lets it grow by a hole, to a size in bytes.
	Truncate(size int64) error
	// NextData returns the first range at or after off that may hold anything but a hole; ok is false if there is none. It may
	// reach beyond the file's end, and where holes cannot be told it is all that comes. One goroutine at a time may call it.
	NextData(off int64) (start, end int64, ok bool)
	// Sync makes the content durable.
	Sync() error
	// Checkpoint makes what was written so far survive a power cut, where that is cheap enough to be done all the time; elsewhere it
	// does nothing. It may be called while other methods are. After an error some of it may be lost for good, although it can be read.
	Checkpoint() error
	// TryLock takes an exclusive lock that ends with the file's closing or the process. It reports false if another
	// process, or another File of this one, holds it.
	TryLock() (bool, error)
}

// An Allocator is what a File is if the system can reserve room for it.
type Allocator interface {
	// Allocate reserves room on disk for bytes [start, end). Neither content nor size change, and what has room is left
	// alone. An error is ENOSPC, EDQUOT or EFBIG, perhaps with a part of the room reserved, or another if the file system
	// does not reserve, or knows no holes. It may be called while other methods are.
	Allocate(start, end int64) error
	// Release gives the room of bytes [start, end) back. They are a hole then, or as they were.
	Release(start, end int64)
	// Free returns how many bytes the file system has free for this user; ok is false where that is not known.
	Free() (n int64, ok bool)
}

// A Cloner is what a File is if it can take over another one's content without a copy.
type Cloner interface {
	// CloneFrom replaces the whole content. An error means that nothing has changed and a copy has to do.
	CloneFrom(File) error
}

// ErrNotAFile is what is neither served nor received into: a directory, device, FIFO or socket.
var ErrNotAFile = errors.New("not a regular file")

var ErrReplaced = errors.New("it is being replaced")

// SameFile reports whether two descriptions are of one file of a Dir. Those of a Dir that is not the operating system's say
// so with equal Sys values.
func SameFile(a, b fs.FileInfo) bool {
	return os.SameFile(a, b) || a.Sys() != nil && a.Sys() == b.Sys()
}

// osDir is a Dir of the operating system. os.Root keeps names inside, whatever links there are.
type osDir struct{ root *os.Root }

// OpenDir opens a directory of the operating system.
func OpenDir(path string) (Dir, error) {
	root, err := os.OpenRoot(path)
	if err != nil {
		return nil, err
	}
	return osDir{root}, nil
}

func (d osDir) Open(name string) (File, error) { return d.openRegular(name, os.O_RDONLY) }

func (d osDir) OpenPart(name string) (File, error) {
	before, err := d.root.Lstat(name)
	if err != nil {
		return nil, err
	}
	if !before.Mode().IsRegular() {
		return nil, &fs.PathError{Op: "open", Path: name, Err: ErrNotAFile}
	}
	f, err := d.openRegular(name, os.O_RDWR)
	if err != nil {
		return nil, err
	}
	if after, err := f.Stat(); err != nil || !os.SameFile(before, after) {
		f.Close()
		return nil, &fs.PathError{Op: "open", Path: name, Err: ErrReplaced}
	}
	return f, nil
}

// OpenFile opens a regular file of the operating system for reading, wherever a link leads. Like [Dir]'s Open it never waits, and fails
// with ErrNotAFile for whatever else.
func OpenFile(path string) (File, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|openNonblock, 0)
	if err != nil {
		return nil, err
	}
	return regular(f, path)
}

// openRegular opens without waiting (a FIFO would block) and refuses what is not a regular file.
func (d osDir) openRegular(name string, flag int) (File, error) {
	f, err := d.root.OpenFile(name, flag|openNonblock, 0)
	if err != nil {
		return nil, err
	}
	return regular(f, name)
}

// regular takes over f, and closes it unless it is a regular file.
func regular(f *os.File, name string) (File, error) {
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = &fs.PathError{Op: "open", Path: name, Err: ErrNotAFile}
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return osFile{f}, nil
}

func (d osDir) Create(name string) (File, error) {
	f, err := d.root.OpenFile(name, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, err
	}
	return osFile{f}, nil
}

func (d osDir) Lstat(name string) (fs.FileInfo, error) { return d.root.Lstat(name) }
func (d osDir) Stat(name string) (fs.FileInfo, error)  { return d.root.Stat(name) }
func (d osDir) Rename(old, new string) error           { return d.root.Rename(old, new) }
func (d osDir) Remove(name string) error               { return d.root.Remove(name) }
func (d osDir) Close() error                           { return d.root.Close() }
func (d osDir) Chtimes(name string, mtime time.Time) error {
	return d.root.Chtimes(name, mtime, mtime)
}

// RenameNew gives the file its new name before it takes the old one, since there may be no other way to do both in one that fails if the
// new one is taken. If the old one stays, by a crash, the file has two names.
func (d osDir) RenameNew(old, new string) error {
	err := d.root.Link(old, new)
	if err == nil {
		d.root.Remove(old)
		return nil
	}
	if errors.Is(err, fs.ErrExist) {
		return err
	}
	// The file system has no such links. Between look and rename another process may make a file.
	if _, err := d.root.Lstat(new); err == nil {
		return &fs.PathError{Op: "rename", Path: new, Err: fs.ErrExist}
	}
	return d.root.Rename(old, new)
}

func (d osDir) Sync() error {
	f, err := d.root.Open(".")
	if err != nil {
		return err
	}
	defer f.Close()
	return syncDir(f)
}

type osFile struct{ *os.File }

func (f osFile) TryLock() (bool, error) { return tryLock(f.File) }
