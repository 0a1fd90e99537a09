package disk

import (
	"errors"
	"io"
	"io/fs"
	"os"
)

// A TreeDir is a Dir in which there may be directories: what is mirrored from and to.
type TreeDir interface {
	Dir
	// Names returns what is in the directory, in no order, and ErrTooManyEntries if that is more than limit.
	Names(limit int) ([]string, error)
	// Sub opens a directory in this one. name is one component, and no link is followed.
	Sub(name string) (TreeDir, error)
	// At opens a directory at any depth below this one, following links that stay inside.
	At(name string) (TreeDir, error)
	// Mkdir makes a directory for this user alone.
	Mkdir(name string) error
	Readlink(name string) (string, error)
	Symlink(target, name string) error
	// ChmodDir sets the mode of a directory in this one; no link is followed.
	ChmodDir(name string, mode fs.FileMode) error
	// OpenVolume returns the file system that the directory is on, nil if it cannot be synced as a whole.
	OpenVolume() (Volume, error)
}

// A Volume is a file system that can be synced as a whole, contents and names: one wait for many files.
type Volume interface {
	Sync() error
	Close() error
}

// ErrTooManyEntries is a directory with more entries than can be sorted in memory.
var ErrTooManyEntries = errors.New("there is too much in the directory")

// OpenTree opens a directory of the operating system. With create it makes it if it is missing; its parent must be there.
func OpenTree(path string, create bool) (TreeDir, error) {
	if create {
		if err := os.Mkdir(path, 0o777); err != nil && !errors.Is(err, fs.ErrExist) {
			return nil, err
		}
	}
	root, err := os.OpenRoot(path)
	if err != nil {
		return nil, err
	}
	return osDir{root}, nil
}

func (d osDir) Names(limit int) ([]string, error) {
	f, err := d.root.Open(".")
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var names []string
	for {
		some, err := f.Readdirnames(4096)
		names = append(names, some...)
		switch {
		case len(names) > limit:
			return nil, ErrTooManyEntries
		case err == io.EOF:
			return names, nil
		case err != nil:
			return nil, err
		}
	}
}

func (d osDir) Sub(name string) (TreeDir, error) {
	before, err := d.root.Lstat(name)
	if err != nil {
		return nil, err
	}
	if !before.IsDir() {
		return nil, &fs.PathError{Op: "open", Path: name, Err: ErrNotADirectory}
	}
	sub, err := d.root.OpenRoot(name)
	if err != nil {
		return nil, err
	}
	if after, err := sub.Stat("."); err != nil || !os.SameFile(before, after) {
		sub.Close()
		return nil, &fs.PathError{Op: "open", Path: name, Err: ErrReplaced}
	}
	return osDir{sub}, nil
}

var ErrNotADirectory = errors.New("not a directory")

func (d osDir) At(name string) (TreeDir, error) {
	info, err := d.root.Stat(name) // a FIFO would make an open wait
	if err != nil {
		return nil, err
	}
	if !info.IsDir() {
		return nil, &fs.PathError{Op: "open", Path: name, Err: ErrNotADirectory}
	}
	sub, err := d.root.OpenRoot(name)
	if err != nil {
		return nil, err
	}
	return osDir{sub}, nil
}

func (d osDir) Mkdir(name string) error              { return d.root.Mkdir(name, 0o700) }
func (d osDir) Readlink(name string) (string, error) { return d.root.Readlink(name) }
func (d osDir) Symlink(target, name string) error    { return d.root.Symlink(target, name) }

// ChmodDir opens nothing, since the mode may not allow that.
func (d osDir) ChmodDir(name string, mode fs.FileMode) error {
	info, err := d.root.Lstat(name)
	if err != nil {
		return err
	}
	if !info.IsDir() {
		return &fs.PathError{Op: "chmod", Path: name, Err: ErrNotADirectory}
	}
	return d.root.Chmod(name, mode)
}
