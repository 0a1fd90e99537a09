package disk

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"time"
)

// osDir is a TreeDir of the operating system. os.Root keeps names inside, whatever links they
// pass.
type osDir struct{ root *os.Root }

// OpenDir opens a directory of the operating system. The caller closes it. This user need not be
// able to read the directory, where the system can open it then.
func OpenDir(path string) (Dir, error) {
	root, err := os.OpenRoot(path)
	if errors.Is(err, fs.ErrPermission) {
		if d, err := openWriteOnly(path); err == nil {
			return d, nil
		}
	}
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

// openRegular opens a regular file. It does not block, as an open of a FIFO would.
func (d osDir) openRegular(name string, flag int) (File, error) {
	f, err := d.root.OpenFile(name, flag|openNonblock, 0)
	if err != nil {
		return nil, err
	}
	return regular(f, name)
}

func (d osDir) Create(name string) (File, error) {
	if err := checkName("create", name); err != nil {
		return nil, err
	}
	f, err := d.root.OpenFile(name, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, asNameError("create", name, err)
	}
	return osFile{f}, nil
}

func (d osDir) Lstat(name string) (fs.FileInfo, error) {
	if err := checkName("lstat", name); err != nil {
		return nil, err
	}
	info, err := d.root.Lstat(name)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		err = asNameError("lstat", name, err)
	}
	return info, err
}

func (d osDir) Rename(old, new string) error {
	if err := checkName("rename", new); err != nil {
		return err
	}
	err := d.root.Rename(old, new)
	if err == nil {
		return nil
	}
	if _, gone := d.root.Lstat(old); gone != nil {
		return err
	}
	return asNameError("rename", new, err)
}

func (d osDir) Stat(name string) (fs.FileInfo, error) { return d.root.Stat(name) }
func (d osDir) Remove(name string) error              { return d.root.Remove(name) }
func (d osDir) Close() error                          { return d.root.Close() }
func (d osDir) Chtimes(name string, mtime time.Time) error {
	if isFar := !time.Unix(0, mtime.UnixNano()).Equal(mtime); isFar { // for package os it would wrap around
		return chtimesFar(d.root, name, mtime)
	}
	return d.root.Chtimes(name, mtime, mtime)
}

// RenameNew adds the new name and then removes the old one. No call that all systems have does both
// and fails if the new name is taken. After a crash in between the file has two names.
func (d osDir) RenameNew(old, new string) error {
	if err := checkName("rename", new); err != nil {
		return err
	}
	err := d.root.Link(old, new)
	if err == nil {
		d.root.Remove(old)
		return nil
	}
	if errors.Is(err, fs.ErrExist) {
		return err
	}
	// The file system has no hard links. Between Lstat and Rename another process may create a
	// file.
	if _, err := d.root.Lstat(new); err == nil {
		return &fs.PathError{Op: "rename", Path: new, Err: fs.ErrExist}
	}
	return d.Rename(old, new)
}

func (d osDir) Sync() error {
	f, err := d.root.Open(".")
	if err != nil {
		return err
	}
	defer f.Close()
	return syncDir(f)
}

// OpenTree opens a directory of the operating system. If create is set and there is none, it
// creates it with mode 0777 less the umask; its parent must exist. The caller closes the
// directory.
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
	after, err := sub.Stat(".") // it fails without the permission to search the directory
	if err == nil && !os.SameFile(before, after) {
		err = &fs.PathError{Op: "open", Path: name, Err: ErrReplaced}
	}
	if err != nil {
		sub.Close()
		return nil, err
	}
	return osDir{sub}, nil
}

func (d osDir) At(name string) (TreeDir, error) {
	info, err := d.root.Stat(name) // an open of a FIFO would block
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

func (d osDir) Mkdir(name string) error {
	if err := checkName("mkdir", name); err != nil {
		return err
	}
	err := d.root.Mkdir(name, 0o700)
	if err != nil {
		err = asNameError("mkdir", name, err)
	}
	return err
}

func (d osDir) Readlink(name string) (string, error) { return d.root.Readlink(name) }
func (d osDir) Symlink(target, name string) error    { return d.root.Symlink(target, name) }

// ChmodDir does not open the directory: its mode may not allow that.
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
