package integrity

import (
	"io"
	"sync"

	"kwikcp/internal/rangeset"
)

// Range is the bytes of a file at offsets [Start, End).
type Range = rangeset.Range

// Verifier proves whole chunk groups of one file: a [Tree], a [RangeTree] or a
// [GrowingTree]. It must be safe for concurrent use.
type Verifier interface {
	Verify(off int64, p []byte) error
}

// Collector takes the groups of a file, or of a part of it, in any order and from
// anybody. It lets those through that are proved, no others, and knows which they
// are. It is an [io.WriterAt], and safe for concurrent use.
//
// It keeps none of the bytes. Its memory is 16 bytes for each run of proved
// groups with a gap behind it.
//
// What is proved is what its Verifier says: with a GrowingTree it is nothing
// before Finish has succeeded.
type Collector struct {
	v      Verifier
	dst    io.WriterAt // nil if nobody wants the bytes
	wanted Range

	mu     sync.Mutex
	proved rangeset.Set // within wanted
}

// NewCollector returns a collector of the bytes [start, end) of the file that v
// proves, which should be whole groups, of which it has none yet. Those that are
// proved go to dst, at their offset in the file; dst is used concurrently, and nil
// means that to know is enough. A range without bytes is whole from the start.
func NewCollector(v Verifier, start, end int64, dst io.WriterAt) *Collector {
	return &Collector{v: v, dst: dst, wanted: Range{Start: start, End: end}}
}

// WriteAt proves that p is the file's content at byte offset off and writes it to
// the destination. It must be whole groups, see [Tree.Verify]. Only then, and
// only all of it, it counts as proved: after an error nothing of p does, though
// after one of the destination's some of it may have been written.
//
// Errors are the Verifier's, such as a [*GroupError] for bytes that are not the
// file's, of which nothing is written, or the destination's as they are.
// p is not kept.
func (c *Collector) WriteAt(p []byte, off int64) (int, error) {
	if err := c.v.Verify(off, p); err != nil {
		return 0, err
	}
	if c.dst != nil {
		n, err := c.dst.WriteAt(p, off)
		if err == nil && n < len(p) {
			err = io.ErrShortWrite
		}
		if err != nil {
			return n, err
		}
	}
	c.Have(off, off+int64(len(p)))
	return len(p), nil
}

// Have counts the bytes [start, end) as proved: the caller has them at the
// destination already and has proved them with the same Verifier. What is not
// wanted is ignored.
func (c *Collector) Have(start, end int64) {
	r := c.wanted.Intersect(Range{Start: start, End: end})
	c.mu.Lock()
	defer c.mu.Unlock()
	c.proved.Add(r.Start, r.End)
}

// Lose is the reverse of Have, for bytes that the destination has lost.
func (c *Collector) Lose(start, end int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.proved.Sub(start, end)
}

// Proved returns what is proved of the wanted bytes, in order, as few ranges as
// possible.
func (c *Collector) Proved() []Range {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.proved.Ranges()
}

// NextMissing returns the first wanted bytes at from or behind it that are not
// proved, up to the next that are; false if there are none.
func (c *Collector) NextMissing(from int64) (Range, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.proved.NextMissing(max(from, c.wanted.Start), c.wanted.End)
}

// Bytes returns how many of the wanted bytes are proved.
func (c *Collector) Bytes() int64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.proved.Total()
}

// Whole reports whether all wanted bytes are proved.
func (c *Collector) Whole() bool { return c.Bytes() == c.wanted.Len() }
