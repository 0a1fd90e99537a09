package integrity

import (
	"sync"

	"kwikcp/internal/rangeset"
)

// Progress receives from [Build] and [Builder.Run] how far a file is hashed without a
// gap. So the file can be served while the rest is hashed. All bytes before the
// offset end are hashed. cvs are the chaining values of the groups between the end of
// the previous call and this one. Concatenated, the cvs of all calls are those of
// [Tree.CVs]; [GrowingTree.Append] takes them.
//
// Calls are in file order, one at a time, each with a larger end. It is the start
// of a group, or the size of the file in the last call. They are at least 1 MiB
// apart, except for the last. cvs is empty in a file of one group. An empty file
// causes no call.
//
// cvs is memory of the tree or of its Builder. It may be kept and read for any time,
// but must not be changed. It proves no particular file before Build returns: the
// file may have changed, or the next read may fail.
//
// A call occupies one worker of Build while the others continue. Build does not
// return before the call does.
type Progress func(end int64, cvs []byte)

// prefix tracks how far a file is hashed without a gap, while workers finish their
// blocks in any order.
type prefix struct {
	parts    *parts
	progress Progress // may be nil

	mu        sync.Mutex   // guards all below
	hashed    rangeset.Set // of bytes; at most one range more than there are workers
	end       int64        // of the last report
	reporting bool         // a worker is in progress, and checks hashed again after it
}

// newPrefix returns the prefix of a file that is hashed up to end.
func newPrefix(parts *parts, end int64, progress Progress) *prefix {
	f := &prefix{parts: parts, progress: progress, end: end}
	if end > 0 {
		f.hashed.Add(0, end)
	}
	return f
}

// add records that the bytes [start, end) are hashed, and reports a longer prefix.
// Blocks that finish while another worker reports are left to that worker.
func (f *prefix) add(start, end int64) {
	f.mu.Lock()
	f.hashed.Add(start, end)
	if f.reporting {
		f.mu.Unlock()
		return
	}
	f.reporting = true
	f.mu.Unlock()
	for from, to := f.grow(); from < to; from, to = f.grow() {
		if f.progress != nil {
			f.progress(to, f.parts.values(from, to))
		}
	}
}

// grow moves the end of the prefix, at most to the end of a part, and returns the
// bytes by which it grew. It ends the reporting if the prefix did not grow.
func (f *prefix) grow() (from, to int64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	from, to = f.end, f.end
	if first, ok := f.hashed.First(); ok && first.Start == 0 {
		to = min(first.End, (from/partBytes+1)*partBytes)
	}
	f.end = to
	f.reporting = from < to
	return from, to
}
