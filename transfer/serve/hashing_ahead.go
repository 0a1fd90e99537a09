package serve

import (
	"io"
	"sync/atomic"

	"kwikcp/transfer/source"
)

const (
	// hashAhead is how far ahead of itself hashing fetches a file that is on another machine, in
	// bytes: 4 of the usual blocks. It begins a fetch for hashStep bytes at once.
	hashAhead, hashStep = 16 << 20, 4 << 20
)

// An aheadReader reads a file in order, and has what follows fetched. It is safe for concurrent
// use.
type aheadReader struct {
	io.ReaderAt
	ahead source.Prefetcher
	size  int64        // of the file, in bytes
	end   atomic.Int64 // all bytes before it were requested
}

// fetchAhead returns a reader of a file that will be read from an offset on.
func fetchAhead(f source.Object, from, size int64) io.ReaderAt {
	ahead, ok := f.(source.Prefetcher)
	if !ok {
		return f
	}
	r := &aheadReader{ReaderAt: f, ahead: ahead, size: size}
	r.end.Store(from)
	return r
}

// ReadAt implements io.ReaderAt.
func (r *aheadReader) ReadAt(p []byte, off int64) (int, error) {
	end := r.end.Load()
	want := min(off+int64(len(p))+hashAhead, r.size)
	isStep := want-end >= hashStep || want == r.size && want > end
	if isStep && r.end.CompareAndSwap(end, want) {
		r.ahead.Prefetch(end, want)
	}
	return r.ReaderAt.ReadAt(p, off)
}
