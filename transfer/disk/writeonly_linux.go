package disk

import (
	"errors"
	"io/fs"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// A writeOnlyDir is a directory that this user may write to and not read (-wx), which os.Root
// cannot open. It is open as a place only (O_PATH). Names are single components, and no link is
// followed.
type writeOnlyDir struct{ f *os.File }

func openWriteOnly(path string) (Dir, error) {
	f, err := os.OpenFile(path, unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		return nil, err
	}
	return writeOnlyDir{f}, nil
}

func (d writeOnlyDir) fd() int { return int(d.f.Fd()) }

func (d writeOnlyDir) open(name string, flags int) (*os.File, error) {
	if name != "." && Base(name) != name || name == ".." {
		return nil, &fs.PathError{Op: "open", Path: name, Err: unix.EINVAL}
	}
	for {
		fd, err := unix.Openat(d.fd(), name, flags|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case err != nil:
			return nil, &fs.PathError{Op: "open", Path: name, Err: err}
		}
		return os.NewFile(uintptr(fd), name), nil
	}
}

func (d writeOnlyDir) openRegular(name string, flags int) (File, error) {
	f, err := d.open(name, flags|unix.O_NONBLOCK)
	if errors.Is(err, unix.ELOOP) {
		err = &fs.PathError{Op: "open", Path: name, Err: ErrNotAFile}
	}
	if err != nil {
		return nil, err
	}
	return regular(f, name)
}

func (d writeOnlyDir) Open(name string) (File, error)     { return d.openRegular(name, unix.O_RDONLY) }
func (d writeOnlyDir) OpenPart(name string) (File, error) { return d.openRegular(name, unix.O_RDWR) }

func (d writeOnlyDir) Create(name string) (File, error) {
	f, err := d.open(name, unix.O_RDWR|unix.O_CREAT|unix.O_EXCL)
	if err != nil {
		return nil, err
	}
	return osFile{f}, nil
}

func (d writeOnlyDir) Lstat(name string) (fs.FileInfo, error) {
	f, err := d.open(name, unix.O_PATH)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return f.Stat()
}

// Stat does not follow links, whose targets may be outside.
func (d writeOnlyDir) Stat(name string) (fs.FileInfo, error) { return d.Lstat(name) }

func (d writeOnlyDir) Rename(old, new string) error {
	return pathError("rename", old, unix.Renameat(d.fd(), old, d.fd(), new))
}

func (d writeOnlyDir) RenameNew(old, new string) error {
	err := unix.Linkat(d.fd(), old, d.fd(), new, 0)
	if err == nil {
		d.Remove(old)
		return nil
	}
	if errors.Is(err, fs.ErrExist) {
		return pathError("rename", new, err)
	}
	if _, err := d.Lstat(new); err == nil {
		return pathError("rename", new, fs.ErrExist)
	}
	return d.Rename(old, new)
}

func (d writeOnlyDir) Remove(name string) error {
	err := unix.Unlinkat(d.fd(), name, 0)
	if errors.Is(err, unix.EISDIR) {
		err = unix.Unlinkat(d.fd(), name, unix.AT_REMOVEDIR)
	}
	return pathError("remove", name, err)
}

func (d writeOnlyDir) Chtimes(name string, mtime time.Time) error {
	at, err := unix.TimeToTimespec(mtime)
	if err == nil {
		err = unix.UtimesNanoAt(d.fd(), name, []unix.Timespec{at, at}, unix.AT_SYMLINK_NOFOLLOW)
	}
	return pathError("chtimes", name, err)
}

// Sync fails: only a directory that was opened for reading can be synced.
func (d writeOnlyDir) Sync() error { return pathError("sync", ".", unix.EACCES) }

func (d writeOnlyDir) Close() error { return d.f.Close() }

func (d writeOnlyDir) checkReplaceable(name string) error { return checkReplaceable(d.f, name) }
func (d writeOnlyDir) mayCreate() error                   { return mayCreate(d.f) }
func (d writeOnlyDir) holdsAnyName() bool                 { return holdsAnyName(d.f) }
