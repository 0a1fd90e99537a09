package integrity

import (
	"sync"

	"kwikcp/internal/rangeset"
)

// Progress is told by [Build] how far a file is hashed without a gap, so that it
// can be served while the rest is hashed: all before the offset end, and cvs are
// the chaining values of the groups between the end of the call before and this
// one. Put together, the cvs of all calls are what [Tree.CVs] returns, and what
// [GrowingTree.Append] takes.
//
// Calls come in file order, one at a time, each with a larger end: the start of
// a group, or the size of the file, which is the last one. How far apart they are
// is up to the workers, 1 MiB at least but for the last. In a file of one
// group cvs is empty, and in an empty file there is no call.
//
// cvs are the tree's own memory: they may be kept and read for ever, and must not
// be changed. The file is not proved to be any one file before Build returns: it
// may have changed, or reading may fail at the next byte.
//
// The call holds one of Build's workers, and Build does not return before it
// does; the other workers go on meanwhile.
type Progress func(end int64, cvs []byte)

// prefix follows how far a file is hashed without a gap, while workers end their
// blocks in any order.
type prefix struct {
	t        *Tree
	progress Progress

	mu        sync.Mutex
	hashed    rangeset.Set // of bytes; at most one range more than there are workers
	end       int64        // what was told last
	reporting bool         // some worker is in progress, and looks again after it
}

// add notes that the bytes [start, end) are hashed, and reports if that makes the
// prefix longer. What comes in while another worker reports is left to it.
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
		f.progress(to, f.cvs(from, to))
	}
}

// grow moves the end of the prefix, and returns what it has grown by. If it has
// not, nobody reports any more.
func (f *prefix) grow() (from, to int64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	from, to = f.end, f.end
	if first, ok := f.hashed.First(); ok && first.Start == 0 {
		to = first.End
	}
	f.end = to
	f.reporting = from < to
	return from, to
}

// cvs returns the chaining values of the groups in [from, to).
func (f *prefix) cvs(from, to int64) []byte {
	if f.t.cvs == nil {
		return nil
	}
	first, last := f.t.g.groupAt(from), f.t.g.groupAt(to-1)
	end := int64(last+1) * hashSize
	return f.t.cvs[int64(first)*hashSize : end : end]
}
