package kwik

import "kwikcp/internal/rangeset"

// pageSize is the size of a page, in bytes. A reorderBuffer copies small frames into pages.
const pageSize = 64 << 10

// A reorderBuffer holds bytes for an ordered reader until it reads them. It keeps the block in
// which bytes arrived if they fill at least half of it. Other bytes are copied into pages. So
// memory stays within twice the reader's window and a page, even if the frames of a source are
// tiny. Adjacent runs of a page are merged. It has no lock: the stream aggregator owns and guards
// it.
type reorderBuffer struct {
	runs  map[int64]bufferedRun // by the offset of their first byte; disjoint
	ends  map[int64]int64       // of the runs in pages: maps the end to the offset of the first byte
	pages map[int64]*block      // by offset / pageSize
}

// A bufferedRun is a run of bytes in a block. It is a holder of the block.
type bufferedRun struct {
	b    *block
	p    []byte
	page bool // the block is a page; the run ends inside it
}

func newReorderBuffer() *reorderBuffer {
	return &reorderBuffer{runs: make(map[int64]bufferedRun), ends: make(map[int64]int64), pages: make(map[int64]*block)}
}

// put buffers p, a part of b, at off. None of these bytes may be in the buffer.
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

// putInPage copies p, which lies in one page, into that page.
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

// consume moves bytes from off on to p and returns their number. It is 0 if the byte at off has
// not arrived.
func (r *reorderBuffer) consume(off int64, p []byte) int {
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
		if x.b.holders.Load() == 1 { // only the buffer holds the page
			delete(r.pages, off/pageSize)
			x.b.release()
		}
	default:
		x.b.release()
	}
	return n
}

// overwrite replaces the bytes of a range, which are in the buffer, by p.
func (r *reorderBuffer) overwrite(at rangeset.Range, p []byte) {
	for off, x := range r.runs {
		if over := at.Intersect(rangeset.Range{Start: off, End: off + int64(len(x.p))}); !over.Empty() {
			copy(x.p[over.Start-off:over.End-off], p[over.Start-at.Start:])
		}
	}
}

// release empties the buffer and releases its blocks.
func (r *reorderBuffer) release() {
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
