package sim

import (
	"errors"
	"io"
	"io/fs"
	"math"
	"slices"
	"strings"
	"syscall"
	"time"

	"kwikcp/transfer/disk"
)

// A simDir is an open directory of a simDisk.
type simDir struct {
	m        *simMount
	node     *simNode
	isClosed bool
}

// find begins an operation on a name and looks for it.
func (d *simDir) find(op, name string, follow bool) (unlock func(), n *simNode, err error) {
	unlock, err = d.m.begin(d.m, op, name)
	if err == nil && d.isClosed {
		err = fs.ErrClosed
	}
	if err == nil {
		n, err = d.m.find(d.node, name, follow)
	}
	return unlock, n, wrap(op, name, err)
}

// wrap returns a *fs.PathError.
func wrap(op, name string, err error) error {
	if _, ok := errors.AsType[*fs.PathError](err); ok || err == nil {
		return err
	}
	return &fs.PathError{Op: op, Path: name, Err: err}
}

// slot begins an operation that changes a name.
func (d *simDir) slot(op, name string) (unlock func(), dir *simNode, base string, err error) {
	unlock, err = d.m.begin(d.m, op, name)
	if err == nil && d.isClosed {
		err = fs.ErrClosed
	}
	if err == nil {
		dir, base, err = d.m.parent(d.node, name, 0)
	}
	if err == nil {
		err = d.m.may(dir, 3)
	}
	return unlock, dir, base, wrap(op, name, err)
}

func (d *simDir) openFile(name string, follow, write bool) (disk.File, error) {
	unlock, n, err := d.find("open", name, follow)
	defer unlock()
	if err != nil {
		return nil, err
	}
	access := fs.FileMode(4)
	if write {
		access = 6
	}
	switch {
	case !n.mode.IsRegular():
		return nil, wrap("open", name, disk.ErrNotAFile)
	case d.m.may(n, access) != nil:
		return nil, wrap("open", name, syscall.EACCES)
	}
	return d.handle(n, write), nil
}

func (d *simDir) handle(n *simNode, write bool) *simFile {
	d.m.opened++
	d.m.simDisk.open++
	return &simFile{m: d.m, node: n, writes: write}
}

func (d *simDir) Open(name string) (disk.File, error)     { return d.openFile(name, true, false) }
func (d *simDir) OpenPart(name string) (disk.File, error) { return d.openFile(name, false, true) }

func (d *simDir) Create(name string) (disk.File, error) {
	n, unlock, err := d.add("create", name, 0o600, nil)
	defer unlock()
	if err != nil {
		return nil, err
	}
	return d.handle(n, true), nil
}

// add makes a new entry. prepare, which may be nil, is called before it has its name.
func (d *simDir) add(op, name string, mode fs.FileMode, prepare func(*simNode)) (*simNode, func(), error) {
	unlock, dir, base, err := d.slot(op, name)
	if err == nil && dir.names[base] != nil {
		err = wrap(op, name, syscall.EEXIST)
	}
	if err == nil && d.m.room >= 0 && d.m.used >= d.m.room {
		err = wrap(op, name, syscall.ENOSPC)
	}
	if err != nil {
		return nil, unlock, err
	}
	n := d.m.newNode(mode)
	n.device = dir.device
	if prepare != nil {
		prepare(n)
	}
	d.m.soil(n)
	d.m.setNames(nameChange{dir, base, n})
	return n, unlock, nil
}

func (d *simDir) Lstat(name string) (fs.FileInfo, error) { return d.stat("lstat", name, false) }
func (d *simDir) Stat(name string) (fs.FileInfo, error)  { return d.stat("stat", name, true) }

func (d *simDir) stat(op, name string, follow bool) (fs.FileInfo, error) {
	unlock, n, err := d.find("stat", name, follow)
	defer unlock()
	if err != nil {
		return nil, wrap(op, name, err)
	}
	return d.m.info(n, name), nil
}

func (d *simDir) Rename(old, new string) error {
	unlock, dir, base, err := d.slot("rename", old)
	defer unlock()
	if err != nil {
		return err
	}
	n := dir.names[base]
	to, as, err := d.m.parent(d.node, new, 0)
	switch {
	case err != nil:
		return wrap("rename", new, err)
	case n == nil:
		return wrap("rename", old, syscall.ENOENT)
	case to.names[as] == n:
		return nil // rename(2) does nothing then
	case to.names[as] != nil && to.names[as].mode.IsDir():
		return wrap("rename", new, syscall.EEXIST)
	}
	d.m.setNames(nameChange{dir, base, nil}, nameChange{to, as, n})
	return nil
}

func (d *simDir) RenameNew(old, new string) error {
	if _, err := d.Lstat(new); err == nil {
		return wrap("rename", new, syscall.EEXIST)
	}
	return d.Rename(old, new)
}

func (d *simDir) Remove(name string) error {
	unlock, dir, base, err := d.slot("remove", name)
	defer unlock()
	if err != nil {
		return err
	}
	switch n := dir.names[base]; {
	case n == nil:
		return wrap("remove", name, syscall.ENOENT)
	case len(n.names) > 0:
		return wrap("remove", name, syscall.ENOTEMPTY)
	}
	if !strings.HasPrefix(base, ".kwikcp-") {
		d.m.deletes++
	}
	d.m.setNames(nameChange{dir, base, nil})
	return nil
}

func (d *simDir) Chtimes(name string, mtime time.Time) error {
	unlock, n, err := d.find("chtimes", name, true)
	defer unlock()
	if err != nil {
		return err
	}
	if d.m.step > 0 {
		mtime = mtime.Truncate(d.m.step)
	}
	n.mtime, n.ctime = mtime, d.m.now()
	d.m.soil(n)
	return nil
}

func (d *simDir) Sync() error {
	unlock, err := d.m.begin(d.m, "sync", ".")
	defer unlock()
	if err == nil {
		d.m.syncNames(d.node)
	}
	return err
}

func (d *simDir) Close() error {
	d.m.mu.Lock()
	defer d.m.mu.Unlock()
	if d.isClosed {
		return fs.ErrClosed
	}
	d.isClosed = true
	d.m.closed()
	return nil
}

func (d *simDir) Names(limit int) ([]string, error) {
	unlock, err := d.m.begin(d.m, "readdir", ".")
	defer unlock()
	if err != nil {
		return nil, err
	}
	if err := d.m.may(d.node, 4); err != nil {
		return nil, wrap("open", ".", err)
	}
	var names []string
	for name := range d.node.names {
		names = append(names, name)
	}
	if len(names) > limit {
		return nil, disk.ErrTooManyEntries
	}
	return names, nil
}

func (d *simDir) Sub(name string) (disk.TreeDir, error) { return d.openDir(name, false) }
func (d *simDir) At(name string) (disk.TreeDir, error)  { return d.openDir(name, true) }

func (d *simDir) openDir(name string, follow bool) (disk.TreeDir, error) {
	unlock, n, err := d.find("opendir", name, follow)
	defer unlock()
	switch {
	case err != nil:
		return nil, err
	case !n.mode.IsDir():
		return nil, wrap("open", name, disk.ErrNotADirectory)
	case d.m.may(n, 4) != nil: // os.Root opens it for reading
		return nil, wrap("open", name, syscall.EACCES)
	}
	return d.m.opendir(n), nil
}

func (d *simDir) Mkdir(name string) error {
	_, unlock, err := d.add("mkdir", name, fs.ModeDir|0o700, func(n *simNode) {
		n.names, n.safe = make(map[string]*simNode), make(map[string]*simNode)
	})
	defer unlock()
	return err
}

func (d *simDir) Readlink(name string) (string, error) {
	unlock, n, err := d.find("readlink", name, false)
	defer unlock()
	switch {
	case err != nil:
		return "", err
	case n.mode&fs.ModeSymlink == 0:
		return "", wrap("readlink", name, syscall.EINVAL)
	}
	return n.target, nil
}

func (d *simDir) Symlink(target, name string) error {
	_, unlock, err := d.add("symlink", name, fs.ModeSymlink|0o777, func(n *simNode) { n.target = target })
	defer unlock()
	return err
}

func (d *simDir) ChmodDir(name string, mode fs.FileMode) error {
	unlock, n, err := d.find("chmod", name, false)
	defer unlock()
	switch {
	case err != nil:
		return err
	case !n.mode.IsDir():
		return wrap("chmod", name, disk.ErrNotADirectory)
	}
	n.mode, n.ctime = fs.ModeDir|mode.Perm(), d.m.now()
	d.m.soil(n)
	return nil
}

func (d *simDir) OpenVolume() (disk.Volume, error) {
	if !d.m.syncsWhole {
		return nil, nil
	}
	unlock, err := d.m.begin(d.m, "open", ".")
	defer unlock()
	if err != nil {
		return nil, err
	}
	d.m.opened++
	d.m.simDisk.open++
	return &simVolume{m: d.m}, nil
}

// LinkInto is used by disk.LinkInto.
func (d *simDir) LinkInto(name string, into disk.TreeDir, as string) error {
	to, ok := into.(*simDir)
	if !ok {
		return errors.ErrUnsupported
	}
	unlock, n, err := d.find("link", name, false)
	defer unlock()
	if err == nil {
		err = d.m.may(to.node, 3)
	}
	switch {
	case err != nil:
		return wrap("link", name, err)
	case n.device != to.node.device:
		return wrap("link", name, syscall.EXDEV)
	case n.mode.IsDir():
		return wrap("link", name, syscall.EPERM)
	case to.node.names[as] != nil:
		return wrap("link", as, syscall.EEXIST)
	}
	d.m.setNames(nameChange{to.node, as, n})
	return nil
}

// A simVolume syncs a whole simDisk.
type simVolume struct{ m *simMount }

func (v *simVolume) Sync() error {
	unlock, err := v.m.begin(v.m, "sync", "/")
	defer unlock()
	if err != nil {
		clear(v.m.dirty) // the kernel gives up what it could not write, and reports that once
		return err
	}
	for n := range v.m.dirty {
		v.m.sync(n)
	}
	v.m.syncNames(nil)
	return nil
}

func (v *simVolume) Close() error {
	v.m.mu.Lock()
	defer v.m.mu.Unlock()
	v.m.closed()
	return nil
}

// A simFile is an open file of a simDisk.
type simFile struct {
	m        *simMount
	node     *simNode
	writes   bool
	isClosed bool
}

func (f *simFile) begin(op string) (unlock func(), err error) {
	unlock, err = f.m.begin(f.m, op, "file")
	if err == nil && f.isClosed {
		err = fs.ErrClosed
	}
	return unlock, err
}

func (f *simFile) ReadAt(p []byte, off int64) (int, error) {
	unlock, err := f.begin("read")
	defer unlock()
	switch {
	case err != nil:
		return 0, err
	case off < 0:
		return 0, syscall.EINVAL
	case off >= int64(len(f.node.data)):
		return 0, io.EOF
	}
	n := copy(p, f.node.data[off:])
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

func (f *simFile) WriteAt(p []byte, off int64) (int, error) {
	unlock, err := f.begin("write")
	defer unlock()
	if err != nil {
		return 0, err
	}
	if !f.writes {
		return 0, syscall.EBADF
	}
	if err := f.resize(max(int64(len(f.node.data)), off+int64(len(p)))); err != nil {
		return 0, wrap("write", "file", err)
	}
	copy(f.node.data[off:], p)
	return len(p), nil
}

// resize changes the size, and makes the content writable.
func (f *simFile) resize(size int64) error {
	n := f.node
	more := size - int64(len(n.data))
	if more > 0 && f.m.room >= 0 && f.m.used+more > f.m.room {
		return syscall.ENOSPC
	}
	if n.isShared {
		n.data, n.isShared = slices.Clone(n.data), false
	}
	if more > 0 {
		n.data = append(n.data, make([]byte, more)...)
	}
	n.data = n.data[:size]
	if n.links > 0 {
		f.m.used += more
	}
	n.mtime, n.ctime = f.m.now(), f.m.now()
	f.m.soil(n)
	return nil
}

func (f *simFile) Truncate(size int64) error {
	unlock, err := f.begin("truncate")
	defer unlock()
	switch {
	case err != nil:
		return err
	case !f.writes || size < 0:
		return syscall.EINVAL
	}
	return f.resize(size)
}

func (f *simFile) Stat() (fs.FileInfo, error) {
	unlock, err := f.begin("stat")
	defer unlock()
	if err != nil {
		return nil, err
	}
	return f.m.info(f.node, "file"), nil
}

func (f *simFile) Chmod(mode fs.FileMode) error {
	unlock, err := f.begin("chmod")
	defer unlock()
	if err != nil {
		return err
	}
	f.node.mode, f.node.ctime = mode.Perm(), f.m.now()
	f.m.soil(f.node)
	return nil
}

// NextData knows no holes.
func (f *simFile) NextData(off int64) (start, end int64, ok bool) { return off, math.MaxInt64, true }

func (f *simFile) Sync() error {
	unlock, err := f.begin("sync")
	defer unlock()
	if err != nil {
		delete(f.m.dirty, f.node)
		return err
	}
	f.m.sync(f.node)
	return nil
}

func (f *simFile) Checkpoint() error { return f.Sync() }

func (f *simFile) TryLock() (bool, error) {
	unlock, err := f.begin("lock")
	defer unlock()
	if err != nil {
		return false, err
	}
	if f.node.locked != nil && f.node.locked != f {
		return false, nil
	}
	f.node.locked = f
	f.m.locks[f.node] = true
	return true, nil
}

func (f *simFile) Close() error {
	f.m.mu.Lock()
	defer f.m.mu.Unlock()
	if f.isClosed {
		return fs.ErrClosed
	}
	f.isClosed = true
	f.m.closed()
	if f.node.locked == f {
		f.node.locked = nil
		delete(f.m.locks, f.node)
	}
	return nil
}
