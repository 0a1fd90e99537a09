package transfer

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"kwikcp/transfer/disk"
	"slices"
	"sync"
	"testing"
	"time"
)

// A faultyDir is a Dir whose n-th operation fails, counted over the directory and its files. It
// can also run a function between two operations, as another process would.
type faultyDir struct {
	disk.Dir
	*faults
}

type faults struct {
	mu    sync.Mutex
	fail  int      // which operation fails, counted from 1; 0 for none
	with  error    // how; io.ErrShortWrite for a write of less that says nothing
	only  []string // the operations that count; nil for all
	stays bool     // all that count fail from then on
	after func(op string)
	under func(string) (disk.Dir, error) // opens the directory below; nil for the system's directories

	ops    []string // the operations so far, with the failed one
	counts int      // how many of them count
	first  string   // that failed
	open   int      // files and directories that are open
}

// step counts an operation and reports whether it fails.
func (f *faults) step(op, name string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.ops = append(f.ops, op)
	if f.only != nil && !slices.Contains(f.only, op) {
		return nil
	}
	f.counts++
	if f.fail == 0 || f.counts < f.fail || f.counts > f.fail && !f.stays {
		return nil
	}
	if f.first == "" {
		f.first = op
	}
	return &fs.PathError{Op: op, Path: name, Err: f.with}
}

// opened counts files and directories that are open.
func (f *faults) opened(n int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.open += n
}

// failed returns the first operation that failed, "" if none did.
func (f *faults) failed() string { return f.first }

func (f *faults) done(op string) {
	if f.after != nil {
		f.after(op)
	}
}

// opener returns an OpenDir for openPart and Get: the directories of the system with the faults.
func (f *faults) opener() func(string) (disk.Dir, error) {
	return func(path string) (disk.Dir, error) {
		if err := f.step("opendir", path); err != nil {
			return nil, err
		}
		under := f.under
		if under == nil {
			under = disk.OpenDir
		}
		d, err := under(path)
		if err != nil {
			return nil, err
		}
		f.opened(1)
		return faultyDir{d, f}, nil
	}
}

func (f *faults) file(op, name string, open func() (disk.File, error)) (disk.File, error) {
	if err := f.step(op, name); err != nil {
		return nil, err
	}
	x, err := open()
	if err != nil {
		return nil, err
	}
	f.opened(1)
	f.done(op)
	return faultyFile{x, f, name}, nil
}

func (d faultyDir) Open(name string) (disk.File, error) {
	return d.file("open", name, func() (disk.File, error) { return d.Dir.Open(name) })
}

func (d faultyDir) OpenPart(name string) (disk.File, error) {
	return d.file("openpart", name, func() (disk.File, error) { return d.Dir.OpenPart(name) })
}

func (d faultyDir) Create(name string) (disk.File, error) {
	return d.file("create", name, func() (disk.File, error) { return d.Dir.Create(name) })
}

func (d faultyDir) Lstat(name string) (fs.FileInfo, error) {
	if err := d.step("lstat", name); err != nil {
		return nil, err
	}
	return d.Dir.Lstat(name)
}

func (d faultyDir) Stat(name string) (fs.FileInfo, error) {
	if err := d.step("stat", name); err != nil {
		return nil, err
	}
	return d.Dir.Stat(name)
}

func (d faultyDir) Rename(old, new string) error {
	if err := d.step("rename", old); err != nil {
		return err
	}
	return d.Dir.Rename(old, new)
}

func (d faultyDir) RenameNew(old, new string) error {
	if err := d.step("renamenew", old); err != nil {
		return err
	}
	return d.Dir.RenameNew(old, new)
}

func (d faultyDir) Remove(name string) error {
	if err := d.step("remove", name); err != nil {
		return err
	}
	return d.Dir.Remove(name)
}

func (d faultyDir) Chtimes(name string, mtime time.Time) error {
	if err := d.step("chtimes", name); err != nil {
		return err
	}
	return d.Dir.Chtimes(name, mtime)
}

func (d faultyDir) Sync() error {
	if err := d.step("syncdir", "."); err != nil {
		return err
	}
	return d.Dir.Sync()
}

func (d faultyDir) Close() error {
	d.opened(-1)
	d.Dir.Close()
	return d.step("closedir", ".")
}

type faultyFile struct {
	disk.File
	*faults
	name string
}

func (f faultyFile) WriteAt(p []byte, off int64) (int, error) {
	if err := f.step("write", f.name); err != nil {
		n, _ := f.File.WriteAt(p[:len(p)/2], off) // as a full disk does
		if errors.Is(err, io.ErrShortWrite) {
			err = nil
		}
		return n, err
	}
	return f.File.WriteAt(p, off)
}

func (f faultyFile) Stat() (fs.FileInfo, error) {
	if err := f.step("fstat", f.name); err != nil {
		return nil, err
	}
	return f.File.Stat()
}

func (f faultyFile) Chmod(mode fs.FileMode) error {
	if err := f.step("chmod", f.name); err != nil {
		return err
	}
	return f.File.Chmod(mode)
}

func (f faultyFile) Truncate(size int64) error {
	if err := f.step("truncate", f.name); err != nil {
		return err
	}
	return f.File.Truncate(size)
}

func (f faultyFile) ReadAt(p []byte, off int64) (int, error) {
	if err := f.step("read", f.name); err != nil {
		n, _ := f.File.ReadAt(p[:len(p)/2], off)
		return n, err
	}
	return f.File.ReadAt(p, off)
}

func (f faultyFile) Sync() error {
	if err := f.step("sync", f.name); err != nil {
		return err
	}
	return f.File.Sync()
}

// Checkpoint is one of the operations that can fail. Allocate, Release and Free reserve no
// space on systems without reservations.
func (f faultyFile) Checkpoint() error {
	if err := f.step("checkpoint", f.name); err != nil {
		return err
	}
	defer f.done("checkpoint")
	return f.File.Checkpoint()
}

func (f faultyFile) Allocate(start, end int64) error {
	if err := f.step("allocate", f.name); err != nil {
		return err
	}
	if room, ok := f.File.(disk.Allocator); ok {
		return room.Allocate(start, end)
	}
	return errors.ErrUnsupported
}

func (f faultyFile) Release(start, end int64) {
	if room, ok := f.File.(disk.Allocator); ok && f.step("release", f.name) == nil {
		room.Release(start, end)
	}
}

func (f faultyFile) PunchHole(start, end int64) error {
	if err := f.step("punch", f.name); err != nil {
		return err
	}
	if puncher, ok := f.File.(disk.Puncher); ok {
		return puncher.PunchHole(start, end)
	}
	return errors.ErrUnsupported
}

func (f faultyFile) Free() (int64, bool) {
	if room, ok := f.File.(disk.Allocator); ok && f.step("free", f.name) == nil {
		return room.Free()
	}
	return 0, false
}

func (f faultyFile) TryLock() (bool, error) {
	if err := f.step("lock", f.name); err != nil {
		return false, err
	}
	return f.File.TryLock()
}

func (f faultyFile) Close() error {
	f.opened(-1)
	f.File.Close()
	return f.step("close", f.name)
}

// everyFault calls f with the first operation failing, then with the second, and so on. It ends
// when f performs fewer operations than that.
func everyFault(t *testing.T, with error, f func(t *testing.T, faults *faults)) {
	t.Helper()
	for n := 1; ; n += faultStep {
		x := &faults{fail: n, with: with}
		if !t.Run(fmt.Sprint(n), func(t *testing.T) { f(t, x) }) {
			return
		}
		if x.failed() == "" {
			if n < 10 {
				t.Fatalf("only %d operations: %q", n-1, x.ops)
			}
			return
		}
	}
}
