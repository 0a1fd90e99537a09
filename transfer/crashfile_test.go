//go:build unix

package transfer

import (
	"errors"
	"io"
	"io/fs"
	"kwikcp/transfer/disk"
	"math"
	"slices"
	"syscall"
	"time"
)

// An openedDisk is an open directory.
type openedDisk struct {
	*crashDisk
	closed bool
}

// at takes the lock and looks a name up.
func (d *openedDisk) at(op, name string) (node int, unlock func(), err error) {
	d.mu.Lock()
	node, ok := d.names[name]
	switch {
	case d.closed:
		err = &fs.PathError{Op: op, Path: name, Err: fs.ErrClosed}
	case !ok:
		err = &fs.PathError{Op: op, Path: name, Err: fs.ErrNotExist}
	}
	return node, d.mu.Unlock, err
}

func (d *openedDisk) opened(name string, write bool) (disk.File, error) {
	node, unlock, err := d.at("open", name)
	defer unlock()
	if err != nil {
		return nil, err
	}
	if write && d.nodes[node].mode&0o200 == 0 { // the process is not root's
		return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrPermission}
	}
	d.open++
	return &diskFile{d: d.crashDisk, index: node, write: write}, nil
}

func (d *openedDisk) Open(name string) (disk.File, error)     { return d.opened(name, false) }
func (d *openedDisk) OpenPart(name string) (disk.File, error) { return d.opened(name, true) }

func (d *openedDisk) Create(name string) (disk.File, error) {
	_, unlock, err := d.at("open", name)
	defer unlock()
	if err == nil {
		return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrExist}
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	node := len(d.nodes)
	d.did(diskOp{kind: "create", node: node, mode: 0o600, mtime: time.Unix(1, 0)})
	d.did(diskOp{kind: "link", node: node, name: name})
	d.open++
	return &diskFile{d: d.crashDisk, index: node, write: true}, nil
}

func (d *openedDisk) Stat(name string) (fs.FileInfo, error) {
	node, unlock, err := d.at("stat", name)
	defer unlock()
	if err != nil {
		return nil, err
	}
	return d.nodes[node].info(name), nil
}

func (d *openedDisk) Lstat(name string) (fs.FileInfo, error) { return d.Stat(name) }

func (d *openedDisk) Rename(old, new string) error {
	node, unlock, err := d.at("rename", old)
	defer unlock()
	if err == nil {
		d.did(diskOp{kind: "rename", node: node, name: old, to: new})
	}
	return err
}

// RenameNew does what osDir's does.
func (d *openedDisk) RenameNew(old, new string) error {
	node, unlock, err := d.at("rename", old)
	defer unlock()
	if err != nil {
		return err
	}
	if _, ok := d.names[new]; ok {
		return &fs.PathError{Op: "rename", Path: new, Err: fs.ErrExist}
	}
	d.did(diskOp{kind: "link", node: node, name: new})
	d.did(diskOp{kind: "unlink", node: node, name: old})
	return nil
}

func (d *openedDisk) Remove(name string) error {
	node, unlock, err := d.at("remove", name)
	defer unlock()
	if err == nil {
		d.did(diskOp{kind: "unlink", node: node, name: name})
	}
	return err
}

func (d *openedDisk) Chtimes(name string, mtime time.Time) error {
	node, unlock, err := d.at("chtimes", name)
	defer unlock()
	if err == nil {
		d.did(diskOp{kind: "chtimes", node: node, mtime: mtime})
	}
	return err
}

func (d *openedDisk) Sync() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.did(diskOp{kind: "syncdir"})
	return nil
}

func (d *openedDisk) Close() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return fs.ErrClosed
	}
	d.closed = true
	d.open--
	return nil
}

// A diskFile is an open file.
type diskFile struct {
	d      *crashDisk
	index  int
	write  bool
	closed bool
}

// use takes the lock.
func (f *diskFile) use(write bool) (n *diskNode, unlock func(), err error) {
	f.d.mu.Lock()
	switch {
	case f.closed:
		err = fs.ErrClosed
	case write && !f.write:
		err = syscall.EBADF
	}
	return f.d.nodes[f.index], f.d.mu.Unlock, err
}

func (f *diskFile) ReadAt(p []byte, off int64) (int, error) {
	n, unlock, err := f.use(false)
	defer unlock()
	if err != nil {
		return 0, err
	}
	got := copy(p, n.data[min(off, int64(len(n.data))):])
	if got < len(p) {
		return got, io.EOF
	}
	return got, nil
}

func (f *diskFile) WriteAt(p []byte, off int64) (int, error) {
	_, unlock, err := f.use(true)
	defer unlock()
	if err != nil {
		return 0, err
	}
	if len(p) > 0 {
		f.d.did(diskOp{kind: "write", node: f.index, off: off, data: slices.Clone(p), mtime: time.Unix(2, 0)})
	}
	return len(p), nil
}

// PunchHole may be torn like a write of zeros.
func (f *diskFile) PunchHole(start, end int64) error {
	n, unlock, err := f.use(true)
	defer unlock()
	if err == nil && !f.d.punches {
		err = errors.ErrUnsupported
	}
	if end = min(end, int64(len(n.data))); err == nil && start < end {
		f.d.did(diskOp{kind: "write", node: f.index, off: start, data: make([]byte, end-start), mtime: time.Unix(2, 0)})
	}
	return err
}

func (f *diskFile) Truncate(size int64) error {
	_, unlock, err := f.use(true)
	defer unlock()
	if err == nil {
		f.d.did(diskOp{kind: "truncate", node: f.index, off: size, mtime: time.Unix(3, 0)})
	}
	return err
}

func (f *diskFile) Chmod(mode fs.FileMode) error {
	_, unlock, err := f.use(false)
	defer unlock()
	if err == nil {
		f.d.did(diskOp{kind: "chmod", node: f.index, mode: mode})
	}
	return err
}

func (f *diskFile) Sync() error {
	_, unlock, err := f.use(false)
	defer unlock()
	if err == nil {
		f.d.did(diskOp{kind: "sync", node: f.index})
	}
	return err
}

// Checkpoint promises nothing.
func (f *diskFile) Checkpoint() error { return nil }

func (f *diskFile) Stat() (fs.FileInfo, error) {
	n, unlock, err := f.use(false)
	defer unlock()
	if err != nil {
		return nil, err
	}
	return n.info("file"), nil
}

func (f *diskFile) NextData(off int64) (start, end int64, ok bool) {
	n, unlock, _ := f.use(false)
	defer unlock()
	if !f.d.sparse {
		return off, math.MaxInt64, true
	}
	const block = 4096
	hole := func(off int64) bool {
		off -= off % block
		return !slices.ContainsFunc(n.data[off:min(off+block, int64(len(n.data)))], func(b byte) bool { return b != 0 })
	}
	for start = off; start < int64(len(n.data)) && hole(start); {
		start += block - start%block
	}
	if start >= int64(len(n.data)) {
		return 0, 0, false
	}
	for end = start; end < int64(len(n.data)) && !hole(end); {
		end += block - end%block
	}
	return start, end, true
}

// CloneFrom takes over the content of another file of the disk.
func (f *diskFile) CloneFrom(other disk.File) error {
	from, ok := other.(*diskFile)
	n, unlock, err := f.use(true)
	defer unlock()
	if err != nil || !ok || from.d != f.d || !f.d.clones {
		return errors.ErrUnsupported
	}
	data := slices.Clone(f.d.nodes[from.index].data)
	if len(n.data) > 0 {
		f.d.did(diskOp{kind: "truncate", node: f.index, mtime: time.Unix(4, 0)})
	}
	f.d.did(diskOp{kind: "write", node: f.index, data: data, mtime: time.Unix(4, 0)})
	return nil
}

func (f *diskFile) TryLock() (bool, error) {
	n, unlock, err := f.use(false)
	defer unlock()
	if err != nil || n.locked != nil {
		return n.locked == f, err
	}
	n.locked = f
	f.d.locks++
	return true, nil
}

func (f *diskFile) Close() error {
	n, unlock, err := f.use(false)
	defer unlock()
	if err != nil {
		return err
	}
	f.closed = true
	f.d.open--
	if n.locked == f {
		n.locked = nil
		f.d.locks--
	}
	return nil
}

func (n *diskNode) info(name string) fs.FileInfo {
	return diskInfo{name, int64(len(n.data)), n.mode, n.mtime, n.stat}
}

type diskInfo struct {
	name  string
	size  int64
	mode  fs.FileMode
	mtime time.Time
	stat  *syscall.Stat_t
}

func (i diskInfo) Name() string       { return i.name }
func (i diskInfo) Size() int64        { return i.size }
func (i diskInfo) Mode() fs.FileMode  { return i.mode }
func (i diskInfo) ModTime() time.Time { return i.mtime }
func (i diskInfo) IsDir() bool        { return false }
func (i diskInfo) Sys() any           { return i.stat }
