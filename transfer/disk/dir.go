package disk

import (
	"errors"
	"io/fs"
	"time"
)

// A Dir is an open directory that files are served from or received into. Names are slash-separated and relative to
// it. They never lead out of it, whatever links they pass. The methods are safe for concurrent use.
//
// [OpenDir] opens a directory of the operating system.
type Dir interface {
	// Open opens an existing regular file for reading, following links that stay inside. It does not block, as an
	// open of a FIFO would, and returns ErrNotAFile for anything else than a regular file. The caller closes the file.
	Open(name string) (File, error)
	// Create creates a file with mode 0600 for reading and writing. It returns fs.ErrExist if the name is taken.
	// The caller closes the file.
	Create(name string) (File, error)
	// OpenPart opens an existing regular file for reading and writing. It does not follow a link in the last component
	// of the name. The caller closes the file.
	OpenPart(name string) (File, error)
	// Lstat describes what has the name, without following a link in its last component.
	Lstat(name string) (fs.FileInfo, error)
	// Stat describes what the name leads to, following links that stay inside.
	Stat(name string) (fs.FileInfo, error)
	// Rename renames a file, and replaces what has the new name.
	Rename(old, new string) error
	// RenameNew renames a file. It returns fs.ErrExist if the new name is taken.
	RenameNew(old, new string) error
	// Remove removes a file or an empty directory.
	Remove(name string) error
	// Chtimes sets the access and modification times of what the name leads to.
	Chtimes(name string, mtime time.Time) error
	// Sync makes the names in the directory durable.
	Sync() error
	// Close closes the directory. Files and directories that were opened through it stay open.
	Close() error
}

// A TreeDir is a Dir that may contain directories, which are opened as TreeDirs as well.
//
// [OpenTree] opens one of the operating system.
type TreeDir interface {
	Dir
	// Names returns the names in the directory, in no order. It returns ErrTooManyEntries if there are more than limit.
	Names(limit int) ([]string, error)
	// Sub opens a directory in this one. name is one component, and a link is not followed. It returns
	// ErrNotADirectory for anything else. The caller closes the directory.
	Sub(name string) (TreeDir, error)
	// At opens a directory at any depth below this one, following links that stay inside; "." is this one. It returns
	// ErrNotADirectory for anything else. The caller closes the directory.
	At(name string) (TreeDir, error)
	// Mkdir creates a directory with mode 0700.
	Mkdir(name string) error
	// Readlink returns the target of a symbolic link.
	Readlink(name string) (string, error)
	// Symlink creates a symbolic link. target may lead anywhere, also outside.
	Symlink(target, name string) error
	// ChmodDir sets the mode of a directory in this one, without opening it. A link is not followed.
	ChmodDir(name string, mode fs.FileMode) error
	// OpenVolume returns the file system of the directory, nil if it cannot be synced as a whole. The caller closes it.
	OpenVolume() (Volume, error)
}

// A Volume is a file system that can be synced as a whole, so that one sync makes many files durable.
type Volume interface {
	// Sync makes all contents and names durable. It reports the writes that failed since the volume was opened.
	Sync() error
	Close() error
}

// The errors of this package.
var (
	// ErrNotAFile is returned for what is not a regular file, such as a directory, device, FIFO or socket.
	ErrNotAFile = errors.New("not a regular file")
	// ErrNotADirectory is returned for what is not a directory.
	ErrNotADirectory = errors.New("not a directory")
	// ErrReplaced is returned if another process replaces a file or directory while it is opened.
	ErrReplaced = errors.New("it is being replaced")
	// ErrTooManyEntries is returned if a directory has more entries than the caller's limit.
	ErrTooManyEntries = errors.New("there are too many entries in the directory")
	// ErrChanged is returned if a file is not of the expected version.
	ErrChanged = errors.New("the file changed")
)
