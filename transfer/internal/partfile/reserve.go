package partfile

import (
	"errors"
	"syscall"

	"kwikcp/internal/rangeset"
	"kwikcp/transfer/disk"
)

// The last group verifies the size that a manifest claims (package integrity). Until then the
// claim decides nothing, and a part file just grows. The client therefore fetches the last
// group of a large file first. Then it reserves free space for the missing bytes. A disk that
// is too small causes an error at once and not after hours, and no other program takes the
// space meanwhile. The file system decides whether there is enough. If it cannot reserve space,
// a write fails later.

// reserveFrom is how many missing bytes are worth a reservation: fewer are written, or found
// not to fit, soon enough.
const reserveFrom = 16 << 20

// IsLarge reports whether free space for a file of this size is reserved.
func IsLarge(size int64) bool { return size >= reserveFrom }

// Priority returns the bytes to fetch before all others: the last group, if it leads to a
// reservation. Elsewhere a write so far beyond the file's end has no use, and on a file system
// without holes a price.
func (p *PartFile) Priority() (last rangeset.Range, ok bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.state != Proved {
		return last, false
	}
	size := p.tree.Size()
	missing := p.unallocated()
	if !p.wantsReservation(missing.Total()) || p.had.Contains(size-1) {
		return last, false
	}
	first, _ := missing.First()
	if err := p.file.Allocate(first.Start, first.Start+1); err != nil {
		p.noteUnreserved(err)
		return last, false
	}
	unit := p.tree.GroupBytes()
	return rangeset.Range{Start: (size - 1) - (size-1)%unit, End: size}, true
}

// reserve reserves free space for the missing bytes, once the last group of the file is
// verified. It may be called by several goroutines at once; one of them does it. After an error
// the transfer cannot succeed.
func (p *PartFile) reserve() error {
	missing := p.dueReservation()
	if !p.wantsReservation(missing.Total()) {
		return nil
	}
	err := allocate(p.file, missing)
	if _, isSpace := errors.AsType[*disk.SpaceError](err); isSpace {
		return err
	}
	p.noteUnreserved(err)
	return nil
}

// wantsReservation reports whether free space is to be reserved for so many missing bytes. auto
// reserves none where the file system compresses: reserved blocks are stored as they are, and
// the free space says little about what fits.
func (p *PartFile) wantsReservation(missing int64) bool {
	switch p.Preallocate {
	case disk.PreallocateNone:
		return false
	case disk.PreallocateFull:
		return missing > 0
	}
	return IsLarge(missing) && !p.file.compresses()
}

// noteUnreserved notes that the system refused to reserve space. On a file system of which that is
// known it is not asked.
func (p *PartFile) noteUnreserved(err error) {
	_, isRefusal := errors.AsType[syscall.Errno](err)
	if isRefusal || p.Preallocate == disk.PreallocateFull && err != nil {
		p.place.Lacks.Note(disk.OpReserve, err)
	}
}

// dueReservation returns the bytes for which space is to be reserved now, once: those of
// unallocated when the last group is verified.
func (p *PartFile) dueReservation() (missing rangeset.Set) {
	p.mu.Lock()
	defer p.mu.Unlock()
	isProved := p.state == Proved && p.tree.Size() > 0 && p.had.Contains(p.tree.Size()-1)
	if p.reserved || !isProved {
		return missing
	}
	p.reserved = true
	return p.unallocated()
}

// unallocated returns the bytes that are missing and for which space is reserved: not those of
// holes. It is empty if the file has holes that are not known. Called with the lock held.
func (p *PartFile) unallocated() (missing rangeset.Set) {
	skips := p.holes != nil && p.blank
	if skips && p.holes.More {
		return missing
	}
	missing.Add(0, p.tree.Size())
	for r := range p.had.All() {
		missing.Sub(r.Start, r.End)
	}
	if skips {
		for r := range p.holes.Ranges.All() {
			missing.Sub(r.Start, r.End)
		}
	}
	return missing
}

// allocate reserves space for ranges of a file that is complete up to its last byte. An error that
// concerns space is a *disk.SpaceError.
func allocate(space disk.Allocator, missing rangeset.Set) error {
	needed := missing.Total()
	last, _ := missing.Last()
	// One byte tells whether the file system reserves at all. If it does not, it may well
	// compress, and the free space means little.
	err := space.Allocate(last.End-1, last.End)
	if err == nil {
		// A reservation that cannot fit is not begun: for a moment it would take the last bytes
		// from every program.
		if free, ok := space.Free(); ok && free < needed {
			return &disk.SpaceError{Needed: needed, Free: free, Err: syscall.ENOSPC}
		}
	}
	for r := range missing.All() {
		if err != nil {
			break
		}
		err = space.Allocate(r.Start, r.End)
	}
	isFull := errors.Is(err, syscall.ENOSPC)
	if !isFull && !errors.Is(err, disk.ErrQuota) && !errors.Is(err, syscall.EFBIG) {
		return err
	}
	free, ok := space.Free()
	if !ok || !isFull { // a quota or a limit has less
		free = -1
	}
	return &disk.SpaceError{Needed: needed, Free: free, Err: disk.Cause(err)}
}

// release gives back the space that this transfer, or an earlier one that was killed, reserved for
// bytes that are missing. A transfer that ended takes no more than what it has. No method may use
// the file any more.
func (p *PartFile) release() {
	info, err := p.file.Stat()
	if err != nil {
		return
	}
	next, size := p.nextHole, info.Size()
	if p.tree != nil { // its bytes were proved
		next, size = p.had.NextMissing, p.tree.Size()
	}
	for at := int64(0); ; {
		r, ok := next(at, size)
		if !ok {
			return
		}
		p.file.Release(r.Start, r.End)
		at = r.End
	}
}

// nextHole returns the first range at or after off, and before size, that has no content.
func (p *PartFile) nextHole(off, size int64) (hole rangeset.Range, ok bool) {
	for off < size {
		start, end, isThere := p.file.NextData(off)
		if !isThere {
			start = size
		}
		if start > off {
			return rangeset.Range{Start: off, End: min(start, size)}, true
		}
		off = end
	}
	return hole, false
}
