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

// TestReadBytesAreCounted checks that StreamStats.Bytes and the source's bytes include what Read
// has returned. So a reader that has seen io.EOF sees the whole stream in the statistics.
func TestReadBytesAreCounted(t *testing.T) {
	const size = 20_000 // deliveries of a byte, to meet the reader at every point
	u, err := newUnits(size, 1, nil)
	if err != nil {
		t.Fatal(err)
	}
	a := newStreamAggregator(t.Context(), firstAggregateStreamID, u, 1, nil, (&ClientConfig{}).populate())
	defer a.close()
	a.attachSources, a.sendAction, a.done = func() {}, func(sched.Action) {}, func() {}
	a.expectsSource = func() bool { return true }
	a.attach("p", func() time.Duration { return time.Millisecond })
	a.mu.Lock()
	src := a.sources["p"]
	a.mu.Unlock()

	if n, err := a.read(nil); n != 0 || err != nil { // the first demand
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

// Bytes of CopyOptions.Have are neither requested nor written, and count as present.
func TestCopyHave(t *testing.T) {
	const size = 10*unit + 77
	rest := func(whole bool) func(w *world) {
		return func(w *world) {
			client, server := w.dial(nil)
			s := w.offer(client, server, unit, nil)
			for _, r := range []Range{{1, unit}, {0, unit + 1}, {unit, unit}, {-unit, unit}, {0, size + 1}} {
				_, err := s.CopyTo(w.t.Context(), newSink(size), &CopyOptions{Have: []Range{{2 * unit, 3 * unit}, r}})
				wantError(t, err, ErrOffsetSyncFailure)
			}
			have := rangeset.Of(rangeset.Range{Start: unit, End: 4 * unit}, rangeset.Range{Start: 10 * unit, End: size})
			if whole {
				have.Add(0, size)
			}
			options := &CopyOptions{}
			for r := range have.All() {
				options.Have = append(options.Have, Range(r))
			}
			c := w.copyWith(s, options)
			<-c.done
			if c.err != nil {
				w.t.Fatal(c.err)
			}
			if n := s.Stats(); n.Bytes != size || n.Kept != have.Total() || n.Wasted != 0 {
				w.t.Fatalf("%+v", n)
			}
			for off := range int64(size) {
				if c.sink.seen.Contains(off) == have.Contains(off) {
					w.t.Fatalf("byte %d: written %t", off, c.sink.seen.Contains(off))
				}
				if !have.Contains(off) && c.sink.data[off] != w.data[off] {
					w.t.Fatalf("byte %d is wrong", off)
				}
			}
			if _, err := s.CopyTo(w.t.Context(), newSink(size), options); err != errTwoConsumers {
				w.t.Errorf("a second CopyTo: %v", err)
			}
		}
	}
	t.Run("a part", func(t *testing.T) { inWorldOf(t, size, 1, lan, rest(false)) })
	t.Run("all", func(t *testing.T) { inWorldOf(t, size, 1, lan, rest(true)) })
}

// An offer is opened once, and not after it was closed.
func TestOpenTwice(t *testing.T) {
	inWorldOf(t, unit, 0, lan, func(w *world) {
		client, server := w.dial(nil)
		open := func(o *AggregateOffer, want error) {
			w.t.Helper()
			if _, err := o.Open(nil); err != want {
				w.t.Errorf("Open returns %v, want %v", err, want)
			}
		}
		for _, closes := range []bool{false, true} {
			spec := AggregateStreamSpec{Size: unit, Descriptor: []byte("data")}
			if _, err := server.OpenAggregateStream(spec); err != nil {
				w.t.Fatal(err)
			}
			o, err := client.AcceptNextAggregate(w.t.Context())
			if err != nil {
				w.t.Fatal(err)
			}
			if closes {
				o.Close()
				open(o, errStreamClosed)
				continue
			}
			open(o, nil)
			open(o, errOpenedTwice)
			o.Close()
		}
	})
}

// Nothing at or beyond the limit is requested, even after a long time. When it moves to the end,
// everything is. Meanwhile no source is stalled or gone.
func TestSetLimit(t *testing.T) {
	const size = 10*unit + 77
	inWorldOf(t, size, 2, lan, func(w *world) {
		client, server := w.dial(nil)
		s := w.offer(client, server, unit, nil)
		for _, end := range []int64{-unit, 1, unit + 1, size - 1, size + 1} {
			wantError(t, s.SetLimit(end), ErrOffsetSyncFailure)
		}
		if err := s.SetLimit(0); err != nil {
			w.t.Fatal(err)
		}
		c := w.copy(s)
		for _, end := range []int64{0, unit, 4 * unit, 10 * unit, 10 * unit} {
			if err := s.SetLimit(end); err != nil {
				w.t.Fatal(err)
			}
			w.within(5*time.Second, func() bool { return s.Stats().Bytes == end })
			time.Sleep(30 * time.Second) // longer than SourceTimeout; virtual
			st := s.Stats()
			if st.Bytes != end {
				w.t.Fatalf("%d bytes arrived, the limit is %d", st.Bytes, end)
			}
			for _, source := range st.Sources {
				if source.Stalled || source.Gone != nil {
					w.t.Errorf("limit %d: %+v", end, source)
				}
			}
		}
		wantError(t, s.SetLimit(9*unit), ErrOffsetSyncFailure)
		if err := s.SetLimit(size); err != nil {
			w.t.Fatal(err)
		}
		c.wantAll()
	})
	t.Run("in order", func(t *testing.T) {
		inWorldOf(t, size, 1, lan, func(w *world) {
			client, server := w.dial(nil)
			s := w.offer(client, server, unit, nil)
			s.SetLimit(3 * unit)
			if n, err := io.ReadFull(s, make([]byte, 3*unit)); err != nil {
				w.t.Fatal(n, err)
			}
			s.SetReadDeadline(time.Now().Add(time.Minute))
			if n, err := s.Read(make([]byte, 1)); n > 0 || !errors.Is(err, os.ErrDeadlineExceeded) {
				w.t.Fatal(n, err)
			}
			s.SetReadDeadline(time.Time{})
			s.SetLimit(size)
			if n, err := io.Copy(io.Discard, s); n != size-3*unit || err != nil {
				w.t.Fatal(n, err)
			}
		})
	})
}

// CopyOptions.Priority is requested first, and then the rest.
func TestCopyPriority(t *testing.T) {
	const size = 40*unit + 77
	inWorldOf(t, size, 0, lan, func(w *world) {
		client, server := w.dial(nil)
		s := w.offer(client, server, unit, nil)
		for _, r := range []Range{{40*unit + 1, size}, {40 * unit, size - 1}, {size, size}} {
			_, err := s.CopyTo(w.t.Context(), &orderSink{}, &CopyOptions{Priority: r})
			wantError(t, err, ErrOffsetSyncFailure)
		}
		order := &orderSink{}
		n, err := s.CopyTo(w.t.Context(), order, &CopyOptions{Priority: Range{40 * unit, size}})
		if err != nil || n != size {
			w.t.Fatal(n, err)
		}
		if order.offsets[0] != 40*unit || !slices.Contains(order.offsets, 0) {
			w.t.Errorf("bytes arrived at %d", order.offsets)
		}
	})
}

// An orderSink records the offsets of writes in their order.
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

// TestReadZeros checks that Read returns the bytes of SetZeros without a request for them, and that
// they count as present.
func TestReadZeros(t *testing.T) {
	const size = 10*unit + 77
	between := rangeset.Of(rangeset.Range{Start: unit, End: 2 * unit}, rangeset.Range{Start: 4 * unit, End: 8 * unit})
	for name, zeros := range map[string]rangeset.Set{
		"none":           {},
		"at the start":   rangeset.Of(rangeset.Range{End: unit}),
		"at the end":     rangeset.Of(rangeset.Range{Start: 9 * unit, End: size}),
		"between":        between,
		"the whole file": rangeset.Of(rangeset.Range{End: size}),
	} {
		t.Run(name, func(t *testing.T) {
			inWorldOf(t, size, 1, lan, func(w *world) {
				client, server := w.dial(&ClientConfig{ReorderWindow: 2 * unit})
				s := w.offer(client, server, unit, nil)
				for _, r := range []Range{{1, unit}, {0, size + 1}} {
					wantError(t, s.SetZeros([]Range{r}), ErrOffsetSyncFailure)
				}
				var ranges []Range
				want := slices.Clone(w.data)
				for r := range zeros.All() {
					ranges = append(ranges, Range(r))
					clear(want[r.Start:r.End])
				}
				if err := s.SetZeros(ranges); err != nil {
					t.Fatal(err)
				}
				got, err := io.ReadAll(s)
				if err != nil || !slices.Equal(got, want) {
					t.Fatalf("%d bytes, error %v", len(got), err)
				}
				st := s.Stats()
				if st.Bytes != size || st.Kept != zeros.Total() || st.Wasted != 0 {
					t.Errorf("%d bytes, %d kept, %d wasted", st.Bytes, st.Kept, st.Wasted)
				}
				if err := s.SetZeros(nil); err == nil {
					t.Error("zeros were set after the first Read")
				}
			})
		})
	}
}
