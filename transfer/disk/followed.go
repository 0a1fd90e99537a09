package disk

import (
	"errors"
	"io/fs"
	"sync"
	"syscall"
	"time"
)

// followInterval is the time after which an operation of a FollowedDir checks the path again.
const followInterval = time.Second

// ErrUnmounted is returned by a [FollowedDir] if an empty directory of another file system is in
// the place of the one that was opened. It is taken for the mount point of one that was unmounted.
var ErrUnmounted = errors.New("an empty directory of another file system is in its place: is it mounted?")

// A goneError is the error of a FollowedDir whose path leads to no directory that may be used. It
// is never about a name in the directory, whatever its cause is.
type goneError struct {
	path  string
	cause error
}

func (e *goneError) Error() string { return e.path + ": " + e.cause.Error() }
func (e *goneError) Unwrap() error { return e.cause }

// A FollowReport tells what happened to the directory of a FollowedDir. If Gone is set, operations
// fail with it. If Replaced is set, another directory is used from now on. The zero FollowReport
// means that the directory is back.
type FollowReport struct {
	Gone     error
	Replaced bool
}

// A FollowedDir is a TreeDir that is always the directory to which its path leads. It notices
// that the directory was moved, replaced, unmounted or mounted over. [FollowedDir.Check] looks for
// that, as do the first operation after a second and one that finds nothing. While there is no
// directory, operations fail with the error of the path, and not as if names were missing. Files
// and directories that were opened before stay open.
type FollowedDir struct {
	path   string
	open   func(path string) (TreeDir, error)
	report func(FollowReport)

	mu       sync.Mutex // guards the fields below; not held while the disk is used
	current  *followedRoot
	gone     error // why the path does not lead to a directory that may be used; nil if it does
	checked  time.Time
	checking bool
	closed   bool
}

// A followedRoot is an open directory. It is closed when it was replaced and no operation uses it.
type followedRoot struct {
	dir     TreeDir
	users   int
	retired bool
}

// Follow opens the directory of a path of the operating system by a function, and again when the
// path leads to another directory. report is called for each change, by the goroutine that notices
// it. The caller closes the directory.
func Follow(path string, open func(path string) (TreeDir, error), report func(FollowReport)) (*FollowedDir, error) {
	dir, err := open(path)
	if err != nil {
		return nil, err
	}
	return &FollowedDir{
		path: path, open: open, report: report, current: &followedRoot{dir: dir}, checked: time.Now(),
	}, nil
}

// Check follows the path now. It returns the error for which operations fail; nil if they do not.
// If another goroutine is checking, it returns what is known.
func (d *FollowedDir) Check() error {
	d.mu.Lock()
	if d.checking || d.closed {
		defer d.mu.Unlock()
		return d.gone
	}
	d.checking = true
	root := d.current
	root.users++
	d.mu.Unlock()
	next, gone := d.look(root.dir)
	d.mu.Lock()
	if d.closed && next != nil {
		next.Close()
		next = nil
	}
	var event *FollowReport
	switch {
	case next != nil:
		d.current.retired = true
		d.current = &followedRoot{dir: next}
		event = &FollowReport{Replaced: true}
	case gone != nil && (d.gone == nil || d.gone.Error() != gone.Error()):
		event = &FollowReport{Gone: gone}
	case gone == nil && d.gone != nil:
		event = &FollowReport{}
	}
	d.gone, d.checking, d.checked = gone, false, time.Now()
	d.release(root)
	d.mu.Unlock()
	if event != nil {
		d.report(*event)
	}
	return gone
}

// look returns the directory that is in the place of an open one; nil if that is still there. The
// error is why none may be used.
func (d *FollowedDir) look(open TreeDir) (next TreeDir, gone error) {
	err := CheckPath(open, d.path)
	switch {
	case errors.Is(err, ErrRemoved), errors.Is(err, syscall.ELOOP):
		return nil, &goneError{d.path, ErrRemoved}
	case !errors.Is(err, ErrMoved):
		return nil, nil // if the path cannot be looked up, the open directory stays
	}
	next, err = d.open(d.path)
	if err != nil {
		return nil, &goneError{d.path, Cause(err)}
	}
	if isMountPoint(open, next) {
		next.Close()
		return nil, &goneError{d.path, ErrUnmounted}
	}
	return next, nil
}

// isMountPoint reports whether next may be the mount point of an old directory that was unmounted:
// it is empty and on another file system.
func isMountPoint(old, next TreeDir) bool {
	before, err := old.Stat(".")
	if err != nil {
		return false
	}
	after, err := next.Stat(".")
	if err != nil || DeviceOf(before) == DeviceOf(after) {
		return false
	}
	return isEmpty(next)
}

// isEmpty reports whether a directory has nothing but what mkfs puts into it.
func isEmpty(d TreeDir) bool {
	names, err := d.Names(1)
	return err == nil && (len(names) == 0 || names[0] == "lost+found")
}

// IsEmpty reports whether the directory is open and has no entries.
func (d *FollowedDir) IsEmpty() bool {
	empty, err := follow(d, func(dir TreeDir) (bool, error) { return isEmpty(dir), nil })
	return err == nil && empty
}

// acquire returns the directory, which the caller releases.
func (d *FollowedDir) acquire() (*followedRoot, error) {
	d.mu.Lock()
	isDue := d.gone != nil || time.Since(d.checked) >= followInterval
	d.mu.Unlock()
	if isDue {
		d.Check()
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	switch {
	case d.closed:
		return nil, fs.ErrClosed
	case d.gone != nil:
		return nil, d.gone
	}
	d.current.users++
	return d.current, nil
}

// release ends a use of a directory. The lock must be held.
func (d *FollowedDir) release(root *followedRoot) {
	if root.users--; root.users == 0 && root.retired {
		root.dir.Close()
	}
}

// follow calls f with the directory. If f finds nothing, the directory may have been removed, and f
// is called again if another one is in its place.
func follow[T any](d *FollowedDir, f func(TreeDir) (T, error)) (result T, err error) {
	for range 2 {
		root, failed := d.acquire()
		if failed != nil {
			return result, failed
		}
		result, err = f(root.dir)
		d.mu.Lock()
		d.release(root)
		d.mu.Unlock()
		if err == nil || ClassOf(err) != CauseAbsent {
			return result, err
		}
		if gone := d.Check(); gone != nil {
			return result, gone
		}
		d.mu.Lock()
		isCurrent := root == d.current
		d.mu.Unlock()
		if isCurrent {
			return result, err
		}
	}
	return result, err
}

func (d *FollowedDir) do(f func(TreeDir) error) error {
	_, err := follow(d, func(dir TreeDir) (struct{}, error) { return struct{}{}, f(dir) })
	return err
}

// Close implements [Dir].
func (d *FollowedDir) Close() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return nil
	}
	d.closed, d.current.retired = true, true
	if d.current.users > 0 {
		return nil
	}
	return d.current.dir.Close()
}

// Open implements [Dir], as do the other methods.
func (d *FollowedDir) Open(name string) (File, error) {
	return follow(d, func(dir TreeDir) (File, error) { return dir.Open(name) })
}

// Create implements [Dir].
func (d *FollowedDir) Create(name string) (File, error) {
	return follow(d, func(dir TreeDir) (File, error) { return dir.Create(name) })
}

// OpenPart implements [Dir].
func (d *FollowedDir) OpenPart(name string) (File, error) {
	return follow(d, func(dir TreeDir) (File, error) { return dir.OpenPart(name) })
}

// Lstat implements [Dir].
func (d *FollowedDir) Lstat(name string) (fs.FileInfo, error) {
	return follow(d, func(dir TreeDir) (fs.FileInfo, error) { return dir.Lstat(name) })
}

// Stat implements [Dir].
func (d *FollowedDir) Stat(name string) (fs.FileInfo, error) {
	return follow(d, func(dir TreeDir) (fs.FileInfo, error) { return dir.Stat(name) })
}

// Rename implements [Dir].
func (d *FollowedDir) Rename(old, new string) error {
	return d.do(func(dir TreeDir) error { return dir.Rename(old, new) })
}

// RenameNew implements [Dir].
func (d *FollowedDir) RenameNew(old, new string) error {
	return d.do(func(dir TreeDir) error { return dir.RenameNew(old, new) })
}

// Remove implements [Dir].
func (d *FollowedDir) Remove(name string) error {
	return d.do(func(dir TreeDir) error { return dir.Remove(name) })
}

// Chtimes implements [Dir].
func (d *FollowedDir) Chtimes(name string, mtime time.Time) error {
	return d.do(func(dir TreeDir) error { return dir.Chtimes(name, mtime) })
}

// Sync implements [Dir].
func (d *FollowedDir) Sync() error { return d.do(func(dir TreeDir) error { return dir.Sync() }) }

// Names implements [TreeDir].
func (d *FollowedDir) Names(limit int) ([]string, error) {
	return follow(d, func(dir TreeDir) ([]string, error) { return dir.Names(limit) })
}

// Sub implements [TreeDir].
func (d *FollowedDir) Sub(name string) (TreeDir, error) {
	return follow(d, func(dir TreeDir) (TreeDir, error) { return dir.Sub(name) })
}

// At implements [TreeDir].
func (d *FollowedDir) At(name string) (TreeDir, error) {
	return follow(d, func(dir TreeDir) (TreeDir, error) { return dir.At(name) })
}

// Mkdir implements [TreeDir].
func (d *FollowedDir) Mkdir(name string) error {
	return d.do(func(dir TreeDir) error { return dir.Mkdir(name) })
}

// Readlink implements [TreeDir].
func (d *FollowedDir) Readlink(name string) (string, error) {
	return follow(d, func(dir TreeDir) (string, error) { return dir.Readlink(name) })
}

// Symlink implements [TreeDir].
func (d *FollowedDir) Symlink(target, name string) error {
	return d.do(func(dir TreeDir) error { return dir.Symlink(target, name) })
}

// ChmodDir implements [TreeDir].
func (d *FollowedDir) ChmodDir(name string, mode fs.FileMode) error {
	return d.do(func(dir TreeDir) error { return dir.ChmodDir(name, mode) })
}

// OpenVolume implements [TreeDir].
func (d *FollowedDir) OpenVolume() (Volume, error) {
	return follow(d, func(dir TreeDir) (Volume, error) { return dir.OpenVolume() })
}
