package kwik

import "kwikcp/internal/rangeset"

// pageSize is the size of the pieces, in bytes, in which a reorderBuffer keeps what came in small frames.
const pageSize = 64 << 10

// A reorderBuffer holds what has come for an ordered reader and is not its turn yet. It keeps the blocks in which bytes came;
// bytes that would fill less than half of their block are copied to where they belong in pages, so that memory stays within
// twice the reader's window and a page, however small the frames of a source are. Runs that meet in a page become one. It
// has no lock: the stream aggregator owns it and guards it.
type reorderBuffer struct {
	runs  map[int64]bufferedRun // by the offset of the first byte; they are disjoint
	ends  map[int64]int64       // of the runs in pages: from one past the last byte to the offset of the first
	pages map[int64]*block      // by offset / pageSize
}

// A bufferedRun is a run of bytes in a block, of which it is one of the holders.
type bufferedRun struct {
	b    *block
	p    []byte
	page bool // the block is a page; the run does not pass its end
}

func newReorderBuffer() *reorderBuffer {
	return &reorderBuffer{runs: make(map[int64]bufferedRun), ends: make(map[int64]int64), pages: make(map[int64]*block)}
}

// put keeps p, a part of b, which belongs at off. None of its bytes is held.
func (r *reorderBuffer) put(b *block, off int64, p []byte) {
	if 2*len(p) >= blockSizes[b.class] {
		b.hold()
		r.runs[off] = bufferedRun{b: b, p: p}
		return
	}
	for len(p) > 0 {
		n := min(len(p), int(pageSize-off%pageSize))
		r.putInPage(off, p[:n])
		off, p = off+int64(n), p[n:]
	}
}

// putInPage copies p, which does not pass the end of a page, to its place.
func (r *reorderBuffer) putInPage(off int64, p []byte) {
	number := off / pageSize
	page := r.pages[number]
	if page == nil {
		page = newBlock(pageSize)
		r.pages[number] = page
	}
	copy(page.data[off%pageSize:], p)
	start, end := off, off+int64(len(p))
	if before, ok := r.ends[start]; ok && before/pageSize == number {
		delete(r.ends, start)
		start = before
	} else {
		page.hold()
	}
	if after, ok := r.runs[end]; ok && after.b == page {
		delete(r.runs, end)
		end += int64(len(after.p))
		page.release()
	}
	r.runs[start] = bufferedRun{b: page, p: page.data[start%pageSize:][:end-start], page: true}
	r.ends[end] = start
}

// take moves bytes from off on to p and returns how many; 0 if the byte at off has not come.
func (r *reorderBuffer) take(off int64, p []byte) int {
	x, ok := r.runs[off]
	if !ok {
		return 0
	}
	delete(r.runs, off)
	n := copy(p, x.p)
	next, end := off+int64(n), off+int64(len(x.p))
	switch {
	case next < end:
		r.runs[next] = bufferedRun{b: x.b, p: x.p[n:], page: x.page}
		if x.page {
			r.ends[end] = next
		}
	case x.page:
		delete(r.ends, end)
		x.b.release()
		if x.b.holders.Load() == 1 { // no run is left in it
			delete(r.pages, off/pageSize)
			x.b.release()
		}
	default:
		x.b.release()
	}
	return n
}

// overwrite replaces the bytes of a range, which are held, by p.
func (r *reorderBuffer) overwrite(at rangeset.Range, p []byte) {
	for off, x := range r.runs {
		if over := at.Intersect(rangeset.Range{Start: off, End: off + int64(len(x.p))}); !over.Empty() {
			copy(x.p[over.Start-off:over.End-off], p[over.Start-at.Start:])
		}
	}
}

// drop gives everything up.
func (r *reorderBuffer) drop() {
	for _, x := range r.runs {
		x.b.release()
	}
	for _, page := range r.pages {
		page.release()
	}
	clear(r.runs)
	clear(r.ends)
	clear(r.pages)
}
