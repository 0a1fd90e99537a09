package integrity

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
)

// store is a destination of which parts may fail.
type store struct {
	mu   sync.Mutex
	p    []byte
	fail func(off int64) (n int, err error) // nil: never
}

func (s *store) WriteAt(p []byte, off int64) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.fail != nil {
		if n, err := s.fail(off); n < len(p) {
			return copy(s.p[off:], p[:n]), err
		}
	}
	return copy(s.p[off:], p), nil
}

// Any order, with repeats, lies in between, and some of it there already.
func TestCollector(t *testing.T) {
	const seed = 7
	r := rand.New(rand.NewPCG(seed, seed))
	for range 200 {
		size := 1 + r.Int64N(20*1024)
		data := pattern(int(size))
		tree := build(t, data, 0)
		var v Verifier = tree
		start, end := int64(0), size
		if r.IntN(2) == 0 { // only a range, with what proves just that
			from := r.Int64N(size)
			to := from + 1 + r.Int64N(size-from)
			proof, err := tree.ProveRange(from, to)
			if err != nil {
				t.Fatal(err)
			}
			part, err := FromRangeProof(size, 0, from, to, proof, tree.Root())
			if err != nil {
				t.Fatal(err)
			}
			v = part
			start, end = part.Range()
		}
		dst := &store{p: make([]byte, size)}
		c := NewCollector(v, start, end, dst)
		var groups []int64
		for off := start; off < end; off += 1024 {
			groups = append(groups, off)
		}
		missing := int64(len(groups))
		if r.IntN(2) == 0 { // the first is there
			copy(dst.p[start:min(start+1024, end)], data[start:])
			c.Have(start, min(start+1024, end))
			missing--
			groups = groups[1:]
		}
		r.Shuffle(len(groups), func(i, j int) { groups[i], groups[j] = groups[j], groups[i] })
		for _, off := range append(groups, groups...) {
			p := bytes.Clone(data[off:min(off+1024, end)])
			before, had := c.Bytes(), slices.ContainsFunc(c.Proved(), func(r Range) bool { return r.Start <= off && off < r.End })
			p[r.IntN(len(p))]++
			if n, err := c.WriteAt(p, off); n != 0 || !isGroupError(err, off, int64(len(p))) || c.Bytes() != before {
				t.Fatalf("a lie at %d: %d, %v", off, n, err)
			}
			if had {
				continue
			}
			if missing--; c.Whole() {
				t.Fatalf("whole without the group at %d", off)
			}
			if n, err := c.WriteAt(data[off:min(off+1024, end)], off); n != len(p) || err != nil || c.Bytes() != before+int64(len(p)) {
				t.Fatalf("group at %d: %d, %v", off, n, err)
			}
			if missing > 0 == c.Whole() {
				t.Fatalf("whole: %v with %d groups missing", c.Whole(), missing)
			}
		}
		if got, ok := c.NextMissing(0); ok || !c.Whole() || !slices.Equal(c.Proved(), []Range{{Start: start, End: end}}) {
			t.Fatalf("%v is missing of [%d,%d): proved %v", got, start, end, c.Proved())
		}
		if !bytes.Equal(dst.p[start:end], data[start:end]) {
			t.Fatal("other bytes arrived")
		}
	}
}

func TestCollectorSaysWhatIsMissing(t *testing.T) {
	data := pattern(8 * 1024)
	c := NewCollector(build(t, data, 0), 1024, 7*1024, nil)
	want := func(from, start, end int64) {
		t.Helper()
		if got, ok := c.NextMissing(from); ok != (start < end) || ok && got != (Range{Start: start, End: end}) {
			t.Errorf("from %d: %v %v, want [%d,%d)", from, got, ok, start, end)
		}
	}
	want(0, 1024, 7*1024)
	want(-1, 1024, 7*1024)
	if _, err := c.WriteAt(data[2048:4096], 2048); err != nil {
		t.Fatal(err)
	}
	want(0, 1024, 2048)
	want(2048, 4096, 7*1024)
	want(7*1024, 0, 0)
	c.Have(0, 2048) // the first is not wanted
	if c.Bytes() != 3*1024 {
		t.Errorf("%d bytes, want 3072", c.Bytes())
	}
	if _, err := c.WriteAt(data[7*1024:], 7*1024); err != nil || c.Bytes() != 3*1024 {
		t.Errorf("a group that is not wanted: %v, %d bytes", err, c.Bytes())
	}
	c.Lose(2048, 3072)
	want(0, 2048, 3072)
	c.Have(0, 1<<40)
	if !c.Whole() {
		t.Error("not whole with everything")
	}
	if c := NewCollector(build(t, nil, 0), 0, 0, nil); !c.Whole() {
		t.Error("an empty file is not whole")
	}
}

// What the destination did not take does not count.
func TestCollectorDestinationFails(t *testing.T) {
	data := pattern(4 * 1024)
	full := errors.New("no space")
	for _, c := range []struct {
		n    int
		err  error
		want error
	}{{0, full, full}, {1000, full, full}, {1000, nil, io.ErrShortWrite}} {
		dst := &store{p: make([]byte, len(data)), fail: func(int64) (int, error) { return c.n, c.err }}
		collector := NewCollector(build(t, data, 0), 0, int64(len(data)), dst)
		if n, err := collector.WriteAt(data[:2048], 0); n != c.n || !errors.Is(err, c.want) || collector.Bytes() != 0 {
			t.Errorf("%d bytes taken, %v: %d, %v, %d bytes proved", c.n, c.err, n, err, collector.Bytes())
		}
		if _, err := collector.WriteAt(data[:1000], 0); !isMisuse(err) {
			t.Errorf("not whole groups: %v", err)
		}
	}
}

func TestCollectorIsSafeForConcurrentUse(t *testing.T) {
	data := pattern(64*1024 + 5)
	size := int64(len(data))
	dst := &store{p: make([]byte, size)}
	c := NewCollector(build(t, data, 0), 0, size, dst)
	var wg sync.WaitGroup
	for w := range 4 {
		wg.Go(func() {
			for off := int64(w%2) * 1024; off < size; off += 2048 { // two for each group
				if _, err := c.WriteAt(data[off:min(off+1024, size)], off); err != nil {
					t.Error(err)
				}
				c.Proved()
				c.NextMissing(off)
			}
		})
	}
	wg.Wait()
	if !c.Whole() || !bytes.Equal(dst.p, data) {
		t.Errorf("%d of %d bytes", c.Bytes(), size)
	}
}

func TestCollectorCopiesNothing(t *testing.T) {
	data := pattern(1 << 20)
	c := NewCollector(build(t, data, 6), 0, 1<<20, nil)
	c.Have(0, 1<<20)
	if n := testing.AllocsPerRun(10, func() {
		if _, err := c.WriteAt(data, 0); err != nil {
			t.Fatal(err)
		}
	}); n != 0 {
		t.Errorf("%v allocations for a MiB", n)
	}
}
