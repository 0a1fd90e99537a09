package kwik

import (
	"errors"
	"io"
	"os"
	"slices"
	"sync"
	"testing"
	"time"

	"kwikcp/internal/rangeset"
	"kwikcp/kwik/internal/sched"
)

// TestWhatWasReadIsCounted: bytes that Read returned are among StreamStats.Bytes at once, and the source's, too, so that
// whoever sees io.EOF sees the whole stream in the statistics.
func TestWhatWasReadIsCounted(t *testing.T) {
	const size = 20_000 // deliveries of a byte, to meet the reader at every point
	u, err := newUnits(size, 1, nil)
	if err != nil {
		t.Fatal(err)
	}
	a := newStreamAggregator(t.Context(), FirstAggregateStreamID, u, 1, nil, (&Config{}).populate())
	defer a.close()
	a.begin, a.tell, a.done = func() {}, func(sched.Action) {}, func() {}
	a.hope = func() bool { return true }
	a.attach("p", func() time.Duration { return time.Millisecond })
	a.mu.Lock()
	src := a.sources["p"]
	a.mu.Unlock()

	if n, err := a.read(nil); n != 0 || err != nil { // asks for the stream
		t.Fatal(n, err)
	}
	delivered := make(chan struct{})
	go func() {
		defer close(delivered)
		for off := range int64(size) {
			if err := a.deliver(src, 0, off, newBlock(1)); err != nil {
				t.Error(err)
				return
			}
		}
	}()
	defer func() { <-delivered }()
	buf := make([]byte, 1)
	for read := int64(0); ; {
		n, err := a.read(buf)
		read += int64(n)
		if st := a.stats(); st.Bytes < read || st.Sources[0].Bytes < read {
			t.Fatalf("%d bytes were read, but the statistics say %+v", read, st)
		}
		if err == io.EOF {
			return
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

// What is had already is fetched from nobody, written by nobody, and counts.
func TestSetHave(t *testing.T) {
	const size = 10*unit + 77
	rest := func(whole bool) func(w *world) {
		return func(w *world) {
			client, server := w.dial(nil)
			s := w.offer(client, server, unit)
			for _, r := range []rangeset.Range{{Start: 1, End: unit}, {Start: 0, End: unit + 1}, {Start: unit, End: unit}, {Start: -unit, End: unit}, {Start: 0, End: size + 1}} {
				wantError(t, s.SetHave(r.Start, r.End), ErrOffsetSyncFailure)
			}
			have := rangeset.Of(rangeset.Range{Start: unit, End: 4 * unit}, rangeset.Range{Start: 10 * unit, End: size})
			if whole {
				have.Add(0, size)
			}
			for r := range have.All() {
				if err := s.SetHave(r.Start, r.End); err != nil {
					w.t.Fatal(err)
				}
			}
			c := w.copy(s)
			<-c.done
			if n := s.Stats(); c.err != nil || n.Bytes != size || n.Kept != have.Total() || n.Wasted != 0 {
				w.t.Fatalf("%+v, %v", n, c.err)
			}
			for off := range int64(size) {
				if c.sink.seen.Contains(off) == have.Contains(off) || (!have.Contains(off) && c.sink.data[off] != w.data[off]) {
					w.t.Fatalf("byte %d is wrong or was not to be written", off)
				}
			}
			if s.SetHave(0, unit) == nil {
				w.t.Error("SetHave after CopyTo")
			}
		}
	}
	t.Run("a part", func(t *testing.T) { inWorldOf(t, size, 1, lan, rest(false)) })
	t.Run("all", func(t *testing.T) { inWorldOf(t, size, 1, lan, rest(true)) })
	t.Run("in order", func(t *testing.T) {
		inWorldOf(t, size, 1, lan, func(w *world) {
			client, server := w.dial(nil)
			s := w.offer(client, server, unit)
			if err := s.SetHave(0, unit); err != nil {
				w.t.Fatal(err)
			}
			if _, err := s.Read(make([]byte, 1)); err != errHavePart {
				w.t.Fatal(err)
			}
		})
	})
}

// Nothing at or beyond the horizon is asked for, however long the horizon stays, and all is once it has moved to the end. Nobody is
// stalled or lost meanwhile.
func TestSetHorizon(t *testing.T) {
	const size = 10*unit + 77
	inWorldOf(t, size, 2, lan, func(w *world) {
		client, server := w.dial(nil)
		s := w.offer(client, server, unit)
		for _, end := range []int64{-unit, 1, unit + 1, size - 1, size + 1} {
			wantError(t, s.SetHorizon(end), ErrOffsetSyncFailure)
		}
		if err := s.SetHorizon(0); err != nil {
			w.t.Fatal(err)
		}
		c := w.copy(s)
		for _, end := range []int64{0, unit, 4 * unit, 10 * unit, 10 * unit} {
			if err := s.SetHorizon(end); err != nil {
				w.t.Fatal(err)
			}
			w.within(5*time.Second, func() bool { return s.Stats().Bytes == end })
			time.Sleep(30 * time.Second) // longer than SourceTimeout; virtual
			st := s.Stats()
			if st.Bytes != end {
				w.t.Fatalf("%d bytes came, the horizon is %d", st.Bytes, end)
			}
			for _, source := range st.Sources {
				if source.Stalled || source.Gone != nil {
					w.t.Errorf("horizon %d: %+v", end, source)
				}
			}
		}
		wantError(t, s.SetHorizon(9*unit), ErrOffsetSyncFailure)
		if err := s.SetHorizon(size); err != nil {
			w.t.Fatal(err)
		}
		c.wantAll()
	})
	t.Run("in order", func(t *testing.T) {
		inWorldOf(t, size, 1, lan, func(w *world) {
			client, server := w.dial(nil)
			s := w.offer(client, server, unit)
			s.SetHorizon(3 * unit)
			if n, err := io.ReadFull(s, make([]byte, 3*unit)); err != nil {
				w.t.Fatal(n, err)
			}
			s.SetReadDeadline(time.Now().Add(time.Minute))
			if n, err := s.Read(make([]byte, 1)); n > 0 || !errors.Is(err, os.ErrDeadlineExceeded) {
				w.t.Fatal(n, err)
			}
			s.SetReadDeadline(time.Time{})
			s.SetHorizon(size)
			if n, err := io.Copy(io.Discard, s); n != size-3*unit || err != nil {
				w.t.Fatal(n, err)
			}
		})
	})
}

// What is to come first does, and then the rest.
func TestSetFirst(t *testing.T) {
	const size = 40*unit + 77
	inWorldOf(t, size, 0, lan, func(w *world) {
		client, server := w.dial(nil)
		s := w.offer(client, server, unit)
		for _, r := range []rangeset.Range{{Start: 40*unit + 1, End: size}, {Start: 40 * unit, End: size - 1}, {Start: size, End: size}} {
			wantError(t, s.SetFirst(r.Start, r.End), ErrOffsetSyncFailure)
		}
		if err := s.SetFirst(40*unit, size); err != nil {
			w.t.Fatal(err)
		}
		order := &orderSink{}
		if n, err := s.CopyTo(w.t.Context(), order); err != nil || n != size {
			w.t.Fatal(n, err)
		}
		if order.offsets[0] != 40*unit || !slices.Contains(order.offsets, 0) {
			w.t.Errorf("bytes came at %d", order.offsets)
		}
		if s.SetFirst(0, unit) == nil {
			w.t.Error("SetFirst after CopyTo")
		}
	})
}

// An orderSink notes where was written, in which order.
type orderSink struct {
	mu      sync.Mutex
	offsets []int64
}

func (o *orderSink) WriteAt(p []byte, off int64) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.offsets = append(o.offsets, off)
	return len(p), nil
}
