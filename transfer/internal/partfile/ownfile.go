package partfile

import (
	"context"
	"errors"

	"kwikcp/transfer/disk"
)

// ErrChanged reports that another process changed the part file during the transfer.
var ErrChanged = errors.New("another process changed it during the transfer")

// An ownFile is the open part file. It makes one change at a time. Before each it compares the
// version of the file with that after the last one. If they differ, another process changed it. Two
// fstat(2) calls are cheap next to a write. A change that the version does not show, within one
// tick of the file system's clock and of the same size, is not noticed.
type ownFile struct {
	disk.File
	isTimed bool // the times of its file system can be relied on

	mu      turn
	last    disk.Version // after the last change of this process
	isKnown bool         // last is known
	isAlien bool         // another process made a change, or may have
	failure error        // why the version was not known; the first one
}

// A turn is a mutex that is held while the disk works. Goroutines that wait for a sync.Mutex keep
// the clock of a synctest bubble from advancing, and so a simulated disk from its work.
type turn chan struct{}

func (t turn) Lock()   { t <- struct{}{} }
func (t turn) Unlock() { <-t }

func newOwnFile(f disk.File) *ownFile {
	w := &ownFile{File: f, isTimed: disk.HasReliableTimes(f), mu: make(turn, 1)}
	w.last, w.isKnown = w.version()
	return w
}

// reopened returns the file after it was closed and opened again.
func (w *ownFile) reopened(f disk.File) *ownFile {
	n := newOwnFile(f)
	n.isAlien = w.isAlien
	return n
}

// version returns the version of the file, as far as its file system's times can be relied on. It
// is called with the lock held, or before the file is used.
func (w *ownFile) version() (v disk.Version, ok bool) {
	info, err := w.File.Stat()
	if err != nil {
		if w.failure == nil {
			w.failure = err
		}
		return v, false
	}
	v = disk.VersionOf(info)
	if !w.isTimed {
		v.MTime, v.CTime = 0, 0
	}
	return v, true
}

// look notices changes by others. It is called with the lock held.
func (w *ownFile) look() {
	now, ok := w.version()
	if !ok || !w.isKnown || now != w.last {
		w.isAlien = true
	}
	w.last, w.isKnown = now, ok
}

// change makes a change. sizeAfter returns the size that the file must have after it, given that
// before; nil if the size does not change.
func (w *ownFile) change(do func() error, sizeAfter func(before int64) int64) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.look()
	want := w.last.Size
	if sizeAfter != nil {
		want = sizeAfter(want)
	}
	err := do()
	w.last, w.isKnown = w.version()
	if err == nil && w.isKnown && w.last.Size != want {
		w.isAlien = true
	}
	return err
}

// takeAlien reports whether another process may have changed the file since the last call. failure
// is why that is not known.
func (w *ownFile) takeAlien() (isAlien bool, failure error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.look()
	isAlien, failure = w.isAlien, w.failure
	w.isAlien, w.failure = false, nil
	return isAlien, failure
}

// WriteAt implements disk.File.
func (w *ownFile) WriteAt(p []byte, off int64) (n int, err error) {
	err = w.change(func() error {
		n, err = w.File.WriteAt(p, off)
		isBeyond := n == 0 && off > w.last.Size && w.isKnown
		if isBeyond && disk.IsAbsent(disk.OpPunch, err) && w.fill(w.last.Size, off) == nil {
			n, err = w.File.WriteAt(p, off)
		}
		return err
	}, func(before int64) int64 {
		if len(p) == 0 {
			return before
		}
		return max(before, off+int64(len(p)))
	})
	return n, err
}

// fillStep is how many zeros are written at once.
const fillStep = 1 << 20

// fill writes zeros, for a file system that takes no bytes beyond the end of a file.
func (w *ownFile) fill(start, end int64) error {
	zeros := make([]byte, min(fillStep, end-start))
	for start < end {
		n, err := w.File.WriteAt(zeros[:min(int64(len(zeros)), end-start)], start)
		if err != nil {
			return err
		}
		start += int64(n)
	}
	return nil
}

// Truncate implements disk.File. If the file system lets no file grow without a write, zeros are
// written.
func (w *ownFile) Truncate(size int64) error {
	return w.change(func() error {
		err := w.File.Truncate(size)
		isLonger := w.isKnown && size > w.last.Size
		if isLonger && disk.IsAbsent(disk.OpPunch, err) {
			return w.fill(w.last.Size, size)
		}
		return err
	}, func(int64) int64 { return size })
}

// Allocate implements disk.Allocator.
func (w *ownFile) Allocate(start, end int64) error {
	space, ok := w.File.(disk.Allocator)
	if !ok {
		return errors.ErrUnsupported
	}
	return w.change(func() error { return space.Allocate(start, end) }, nil)
}

// Release implements disk.Allocator.
func (w *ownFile) Release(start, end int64) {
	if space, ok := w.File.(disk.Allocator); ok {
		w.change(func() error {
			space.Release(start, end)
			return nil
		}, nil)
	}
}

// Free implements disk.Allocator.
func (w *ownFile) Free() (n int64, ok bool) {
	space, ok := w.File.(disk.Allocator)
	if !ok {
		return 0, false
	}
	return space.Free()
}

// PunchHole implements disk.Puncher.
func (w *ownFile) PunchHole(start, end int64) error {
	puncher, ok := w.File.(disk.Puncher)
	if !ok {
		return errors.ErrUnsupported
	}
	return w.change(func() error { return puncher.PunchHole(start, end) }, nil)
}

// CloneFrom implements disk.Cloner.
func (w *ownFile) CloneFrom(f disk.File) error {
	to, ok := w.File.(disk.Cloner)
	if !ok {
		return errors.ErrUnsupported
	}
	info, err := f.Stat()
	if err != nil {
		return err
	}
	return w.change(func() error { return to.CloneFrom(f) }, func(int64) int64 { return info.Size() })
}

// compresses reports whether the file system stores the file compressed.
func (w *ownFile) compresses() bool { return disk.Compresses(w.File) }

// CheckUnchanged returns nil if the file has the bytes that were verified. It reads them again only
// if another process changed the file. ErrChanged means that some are wrong: a transfer that
// follows fetches those.
func (p *PartFile) CheckUnchanged() error {
	isAlien, failure := p.file.takeAlien()
	switch {
	case !isAlien:
		return nil
	case p.window != nil && failure != nil:
		return failure
	case p.window != nil: // its groups are not in it as a whole
		return ErrChanged
	}
	if failure != nil { // the version is not known yet
		if _, err := p.file.takeAlien(); err != nil {
			return err
		}
	}
	info, err := p.file.Stat()
	if err != nil {
		return err
	}
	right, err := Survey(context.Background(), withHoles{p.file}, min(info.Size(), p.tree.Size()), p.tree, nil)
	if err != nil {
		return err
	}
	isAlien, failure = p.file.takeAlien()
	if failure != nil {
		return failure
	}
	if !isAlien && info.Size() == p.tree.Size() && right.Total() == p.tree.Size() {
		return nil
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.had = right
	return ErrChanged
}

// contentVersion returns the version of an open file for CheckContent. Mode and owner do not count.
func contentVersion(f disk.File) (v disk.Version, err error) {
	info, err := f.Stat()
	if err != nil {
		return v, err
	}
	v = disk.VersionOf(info)
	v.CTime = 0
	if !disk.HasReliableTimes(f) {
		v.MTime = 0
	}
	return v, nil
}

// CheckContent returns nil if the file with a name has the version that WriteNew or Version
// returned.
func CheckContent(d disk.Dir, name string, want disk.Version) error {
	info, err := d.Lstat(name)
	if err != nil {
		return err
	}
	have := disk.VersionOf(info)
	have.CTime = 0
	if want.MTime == 0 {
		have.MTime = 0
	}
	if have != want {
		return ErrChanged
	}
	return nil
}
