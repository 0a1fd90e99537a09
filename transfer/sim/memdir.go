package sim

import (
	"fmt"
	"io"
	"io/fs"
	"kwikcp/transfer/disk"
	"math"
	"sync"
	"syscall"
	"time"
)

// A MemDir is a disk.Dir in memory, without subdirectories. It knows what would survive a power cut: contents that
// were synced, and names as of the last Sync.
//
// Several Dirs may be opened of it at once; each is closed on its own.
type MemDir struct {
	// OnWrite, if set, is called for every write and for every file that gets a name. It gets the
	// name and the new bytes. The lock is not held during the call.
	OnWrite func(name string, off int64, p []byte)
	// ReadDelay is how long each read takes.
	ReadDelay time.Duration

	mu      sync.Mutex
	files   map[string]*memFile
	durable map[string]*memFile // names as of the last Sync
	open    int                 // files and directories that are open
}

// A memFile is a file, whatever its names. Guarded by its directory's lock.
type memFile struct {
	data   []byte
	mode   fs.FileMode
	mtime  time.Time
	dirty  bool // written since the last Sync
	locked *memHandle
}

// NewMemDir returns an empty directory.
func NewMemDir() *MemDir {
	return &MemDir{files: make(map[string]*memFile), durable: make(map[string]*memFile)}
}

// Put places a file, durably, as if it had always been there.
func (d *MemDir) Put(name string, data []byte, mode fs.FileMode, mtime time.Time) {
	d.mu.Lock()
	defer d.mu.Unlock()
	f := &memFile{data: data, mode: mode, mtime: mtime}
	d.files[name], d.durable[name] = f, f
}

// Names returns the names of the files, in no order.
func (d *MemDir) Names() []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	var names []string
	for name := range d.files {
		names = append(names, name)
	}
	return names
}

// Content returns a copy of what a file holds, nil if there is none of that name.
func (d *MemDir) Content(name string) []byte {
	d.mu.Lock()
	defer d.mu.Unlock()
	if f := d.files[name]; f != nil {
		return append([]byte{}, f.data...)
	}
	return nil
}

// Durable returns the content that a power cut would leave under a name. ok is false if the
// name would be absent or its content incomplete.
func (d *MemDir) Durable(name string) (data []byte, mode fs.FileMode, mtime time.Time, ok bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	f := d.durable[name]
	if f == nil || f.dirty || f != d.files[name] {
		return nil, 0, time.Time{}, false
	}
	return f.data, f.mode, f.mtime, true
}

// Opened returns how many files and directories are open.
func (d *MemDir) Opened() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.open
}

// Dir opens the directory.
func (d *MemDir) Dir() disk.Dir {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.open++
	return &memDir{MemDir: d}
}

// A memDir is an open directory.
type memDir struct {
	*MemDir
	closed bool
}

// begin takes the lock for an operation on a name.
func (d *memDir) begin(op, name string) (unlock func(), f *memFile, err error) {
	d.mu.Lock()
	if d.closed {
		return d.mu.Unlock, nil, &fs.PathError{Op: op, Path: name, Err: fs.ErrClosed}
	}
	if f = d.files[name]; f == nil {
		err = &fs.PathError{Op: op, Path: name, Err: fs.ErrNotExist}
	}
	return d.mu.Unlock, f, err
}

func (d *memDir) handle(f *memFile, write bool) *memHandle {
	d.open++
	return &memHandle{dir: d.MemDir, file: f, write: write}
}

func (d *memDir) Open(name string) (disk.File, error) {
	unlock, f, err := d.begin("open", name)
	defer unlock()
	if err != nil {
		return nil, err
	}
	return d.handle(f, false), nil
}

func (d *memDir) OpenPart(name string) (disk.File, error) {
	unlock, f, err := d.begin("open", name)
	defer unlock()
	if err != nil {
		return nil, err
	}
	return d.handle(f, true), nil
}

func (d *memDir) Create(name string) (disk.File, error) {
	unlock, f, _ := d.begin("open", name)
	defer unlock()
	if f != nil || d.closed {
		return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrExist}
	}
	f = &memFile{mode: 0o600, mtime: time.Now()}
	d.files[name] = f
	return d.handle(f, true), nil
}

func (d *memDir) Stat(name string) (fs.FileInfo, error) {
	unlock, f, err := d.begin("stat", name)
	defer unlock()
	if err != nil {
		return nil, err
	}
	return f.info(name), nil
}

func (d *memDir) Lstat(name string) (fs.FileInfo, error) { return d.Stat(name) }

func (d *memDir) Rename(old, new string) error {
	unlock, f, err := d.begin("rename", old)
	if err != nil {
		unlock()
		return err
	}
	delete(d.files, old)
	d.files[new] = f
	data := f.data
	unlock()
	if d.OnWrite != nil {
		d.OnWrite(new, 0, data)
	}
	return nil
}

func (d *memDir) RenameNew(old, new string) error {
	if _, err := d.Stat(new); err == nil {
		return &fs.PathError{Op: "rename", Path: new, Err: fs.ErrExist}
	}
	return d.Rename(old, new)
}

func (d *memDir) Remove(name string) error {
	unlock, _, err := d.begin("remove", name)
	defer unlock()
	delete(d.files, name)
	return err
}

func (d *memDir) Chtimes(name string, mtime time.Time) error {
	unlock, f, err := d.begin("chtimes", name)
	defer unlock()
	if err == nil {
		f.mtime = mtime
	}
	return err
}

func (d *memDir) Sync() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	clear(d.durable)
	for name, f := range d.files {
		d.durable[name] = f
	}
	return nil
}

func (d *memDir) Close() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return fs.ErrClosed
	}
	d.closed = true
	d.open--
	return nil
}

// A memHandle is an open file. Like the file's content it is guarded by the directory's lock.
type memHandle struct {
	dir    *MemDir
	file   *memFile
	write  bool
	closed bool
}

func (h *memHandle) ReadAt(p []byte, off int64) (int, error) {
	if h.dir.ReadDelay > 0 {
		time.Sleep(h.dir.ReadDelay)
	}
	h.dir.mu.Lock()
	defer h.dir.mu.Unlock()
	switch {
	case h.closed:
		return 0, fs.ErrClosed
	case off < 0:
		return 0, syscall.EINVAL
	case off >= int64(len(h.file.data)):
		return 0, io.EOF
	}
	n := copy(p, h.file.data[off:])
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

func (h *memHandle) WriteAt(p []byte, off int64) (int, error) {
	names, err := h.writeAt(p, off)
	if err != nil {
		return 0, err
	}
	if h.dir.OnWrite != nil {
		for _, name := range names {
			h.dir.OnWrite(name, off, p)
		}
	}
	return len(p), nil
}

// writeAt writes and returns the file's names.
func (h *memHandle) writeAt(p []byte, off int64) (names []string, err error) {
	h.dir.mu.Lock()
	defer h.dir.mu.Unlock()
	switch {
	case h.closed:
		return nil, fs.ErrClosed
	case !h.write:
		return nil, syscall.EBADF
	case off < 0:
		return nil, syscall.EINVAL
	}
	f := h.file
	if end := off + int64(len(p)); end > int64(len(f.data)) {
		f.data = append(f.data, make([]byte, end-int64(len(f.data)))...)
	}
	copy(f.data[off:], p)
	f.dirty, f.mtime = true, time.Now()
	for name, other := range h.dir.files {
		if other == f {
			names = append(names, name)
		}
	}
	return names, nil
}

func (h *memHandle) Stat() (fs.FileInfo, error) {
	h.dir.mu.Lock()
	defer h.dir.mu.Unlock()
	if h.closed {
		return nil, fs.ErrClosed
	}
	return h.file.info("file"), nil
}

func (h *memHandle) Chmod(mode fs.FileMode) error {
	h.dir.mu.Lock()
	defer h.dir.mu.Unlock()
	if h.closed {
		return fs.ErrClosed
	}
	h.file.mode = mode
	return nil
}

func (h *memHandle) Truncate(size int64) error {
	h.dir.mu.Lock()
	defer h.dir.mu.Unlock()
	switch f := h.file; {
	case h.closed:
		return fs.ErrClosed
	case !h.write || size < 0:
		return syscall.EINVAL
	case size <= int64(len(f.data)):
		f.data = f.data[:size:size]
		f.dirty = true
	default:
		f.data = append(f.data, make([]byte, size-int64(len(f.data)))...)
		f.dirty = true
	}
	return nil
}

// NextData knows no holes.
func (h *memHandle) NextData(off int64) (start, end int64, ok bool) { return off, math.MaxInt64, true }

func (h *memHandle) Sync() error {
	h.dir.mu.Lock()
	defer h.dir.mu.Unlock()
	if h.closed {
		return fs.ErrClosed
	}
	h.file.dirty = false
	return nil
}

func (h *memHandle) Checkpoint() error { return nil }

func (h *memHandle) TryLock() (bool, error) {
	h.dir.mu.Lock()
	defer h.dir.mu.Unlock()
	if h.closed {
		return false, fs.ErrClosed
	}
	if h.file.locked != nil && h.file.locked != h {
		return false, nil
	}
	h.file.locked = h
	return true, nil
}

func (h *memHandle) Close() error {
	h.dir.mu.Lock()
	defer h.dir.mu.Unlock()
	if h.closed {
		return fs.ErrClosed
	}
	h.closed = true
	h.dir.open--
	if h.file.locked == h {
		h.file.locked = nil
	}
	return nil
}

// info returns a snapshot. Called with the directory's lock held.
func (f *memFile) info(name string) fs.FileInfo {
	return memInfo{file: f, name: name, size: int64(len(f.data)), mode: f.mode, mtime: f.mtime}
}

type memInfo struct {
	file  *memFile
	name  string
	size  int64
	mode  fs.FileMode
	mtime time.Time
}

func (i memInfo) Name() string       { return i.name }
func (i memInfo) Size() int64        { return i.size }
func (i memInfo) Mode() fs.FileMode  { return i.mode }
func (i memInfo) ModTime() time.Time { return i.mtime }
func (i memInfo) IsDir() bool        { return false }
func (i memInfo) Sys() any           { return i.file }
func (i memInfo) String() string     { return fmt.Sprintf("%s, %d bytes", i.name, i.size) }
