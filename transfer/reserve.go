package transfer

import (
	"errors"
	"fmt"
	"kwikcp/internal/rangeset"
	"kwikcp/transfer/disk"
	"syscall"
)

// A size that a manifest claims is proved when the last group is (package integrity), and decides nothing before: until then a part
// file just grows. So the last group of a large file is fetched first. From then on the room for what is missing is reserved, so that a disk that is too small is noticed at once and
// not after hours, and so that nobody else takes the room meanwhile. Whether there is enough is the file system's to say. Where
// it cannot reserve, writing finds out.

// reserveFrom is how many missing bytes are worth it: fewer are written, or found to have no room, soon enough.
const reserveFrom = 16 << 20

// A SpaceError says that a file does not fit. It is an ENOSPC, EDQUOT or EFBIG to errors.Is.
type SpaceError struct {
	Needed int64 // bytes that are not in the file yet
	Free   int64 // bytes that the file system has free for this user; -1 if that is not known
	Err    error // the system's word
}

func (e *SpaceError) Error() string {
	if e.Free < 0 {
		return fmt.Sprintf("%v: %d more bytes are needed", e.Err, e.Needed)
	}
	return fmt.Sprintf("%v: %d more bytes are needed, %d are free", e.Err, e.Needed, e.Free)
}

func (e *SpaceError) Unwrap() error { return e.Err }

// first returns which bytes to fetch before all others: the last group, where what it proves leads to a reservation. Elsewhere
// to write it so far beyond the file's end has no use, and on a file system without holes a price.
func (p *partFile) first() (last rangeset.Range, ok bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.tree == nil || p.window != nil {
		return last, false
	}
	size := p.tree.Size()
	if size-p.had.Total() < reserveFrom || p.had.Contains(size-1) {
		return last, false
	}
	if room, ok := p.file.(disk.Allocator); !ok || room.Allocate(0, 1) != nil {
		return last, false
	}
	unit := p.tree.GroupSize().Bytes()
	return rangeset.Range{Start: (size - 1) - (size-1)%unit, End: size}, true
}

// reserve reserves room for what is missing, once the last group of the file is proved. It may be called by several goroutines at
// once; one of them does it. An error is one of LocalError, after which the transfer cannot end well.
func (p *partFile) reserve() error {
	room, ok := p.file.(disk.Allocator)
	if !ok || p.window != nil {
		return nil
	}
	p.mu.Lock()
	var missing rangeset.Set
	due := !p.reserved && p.tree != nil && p.tree.Size() > 0 && p.had.Contains(p.tree.Size()-1)
	if due {
		p.reserved = true
		missing.Add(0, p.tree.Size())
		for r := range p.had.All() {
			missing.Sub(r.Start, r.End)
		}
	}
	p.mu.Unlock()
	if !due || missing.Total() < reserveFrom {
		return nil
	}
	if err := allocate(room, missing); err != nil {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.refused = true
		return p.wrap(err)
	}
	return nil
}

// allocate reserves room for ranges of a file that is whole up to its last byte. Errors that say nothing about room are none.
func allocate(room disk.Allocator, missing rangeset.Set) error {
	needed := missing.Total()
	last, _ := missing.Last()
	// One byte says whether the file system reserves at all. If it does not, it may well compress, and what is free says little.
	err := room.Allocate(last.End-1, last.End)
	if err == nil {
		// What cannot fit is not even begun: for a moment it would take the last bytes from everybody.
		if free, ok := room.Free(); ok && free < needed {
			return &SpaceError{Needed: needed, Free: free, Err: syscall.ENOSPC}
		}
	}
	for r := range missing.All() {
		if err != nil {
			break
		}
		err = room.Allocate(r.Start, r.End)
	}
	if !errors.Is(err, syscall.ENOSPC) && !errors.Is(err, disk.ErrQuota) && !errors.Is(err, syscall.EFBIG) {
		return nil
	}
	free, ok := room.Free()
	if !ok || !errors.Is(err, syscall.ENOSPC) { // a quota or a limit has less
		free = -1
	}
	return &SpaceError{Needed: needed, Free: free, Err: cause(err)}
}

// release gives back what was reserved in vain, so that a file that does not fit does not fill the disk. Nobody may be writing any
// more.
func (p *partFile) release() {
	room, ok := p.file.(disk.Allocator)
	if !ok || !p.refused {
		return
	}
	for at := int64(0); ; {
		r, ok := p.had.NextMissing(at, p.tree.Size())
		if !ok {
			return
		}
		room.Release(r.Start, r.End)
		at = r.End
	}
}
