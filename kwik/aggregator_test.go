package kwik

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"io"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"kwikcp/kwik/internal/sched"
)

// An aggregation is a stream aggregator without a session. It records what the aggregator sends,
// and the test delivers any bytes.
type aggregation struct {
	testing.TB
	*streamAggregator
	content []byte

	mu     sync.Mutex // guards what follows
	grants []sched.Action
	begun  int
	dones  int
	banned []PathID
	hoping bool
	blocks []*block
}

func newAggregation(t testing.TB, size, unit int, sources ...PathID) *aggregation {
	u, err := newUnits(uint64(size), uint64(unit), nil)
	if err != nil {
		t.Fatal(err)
	}
	c := (&ClientConfig{ReorderWindow: minReorderWindow}).populate()
	a := &aggregation{TB: t, content: randomBytes(1, size)}
	a.streamAggregator = newStreamAggregator(t.Context(), firstAggregateStreamID, u, uint64(unit), nil, c)
	count := func(n *int) func() {
		return func() {
			a.mu.Lock()
			*n++
			a.mu.Unlock()
		}
	}
	a.attachSources, a.done = count(&a.begun), count(&a.dones)
	a.expectsSource = func() bool {
		a.mu.Lock()
		defer a.mu.Unlock()
		return a.hoping
	}
	a.sendAction = func(action sched.Action) {
		a.mu.Lock()
		defer a.mu.Unlock()
		if action.Kind == sched.ActionGrant {
			a.grants = append(a.grants, action)
		}
	}
	a.sendWindow = func(PathID, pushWindow) {}
	a.ban = func(id PathID, _, _ int64, cause error) {
		a.mu.Lock()
		a.banned = append(a.banned, id)
		a.mu.Unlock()
		a.detach(id, cause)
	}
	for _, id := range sources {
		a.attach(id, func() time.Duration { return 0 })
		a.synchronise(id, 0, grantQueueLimit, 0)
	}
	t.Cleanup(a.checkBlocks)
	return a
}

// source returns the source of a path.
func (a *aggregation) source(id PathID) *source {
	a.streamAggregator.mu.Lock()
	defer a.streamAggregator.mu.Unlock()
	return a.sources[id]
}

// send delivers content[start:end) from a source; change, if not nil, falsifies it.
func (a *aggregation) send(id PathID, grant uint64, start, end int, change func([]byte)) error {
	// The block is not pooled, so that no other test gets it after its release.
	b := &block{room: make([]byte, blockHeadroom+blockSizes[0])}
	b.data = b.room[blockHeadroom:][:copy(b.room[blockHeadroom:], a.content[start:end])]
	b.holders.Store(1)
	if change != nil {
		change(b.data)
	}
	a.mu.Lock()
	a.blocks = append(a.blocks, b)
	a.mu.Unlock()
	s := a.source(id)
	s.received.Add(int64(len(b.data)))
	return a.deliver(s, grant, int64(start), b)
}

// checkBlocks checks that every block was released. A block that is released twice panics.
func (a *aggregation) checkBlocks() {
	a.close()
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, b := range a.blocks {
		if n := b.holders.Load(); n != 0 {
			a.Errorf("a block has %d holders left", n)
		}
	}
	if a.begun > 1 || a.dones > 1 {
		a.Errorf("attachSources was called %d times, done %d times", a.begun, a.dones)
	}
}

// serve delivers all grants, unit by unit in the order that pick chooses.
func (a *aggregation) serve(unit int, pick func(n int) int) {
	a.Helper()
	type piece struct {
		path       PathID
		grant      uint64
		start, end int
	}
	var todo []piece
	for {
		a.mu.Lock()
		for _, g := range a.grants {
			for off := g.Start; off < g.End; off += int64(unit) {
				todo = append(todo, piece{PathID(g.Source), g.Grant, int(off), int(min(off+int64(unit), g.End))})
			}
		}
		a.grants = nil
		a.mu.Unlock()
		if len(todo) == 0 {
			return
		}
		i := pick(len(todo))
		x := todo[i]
		todo = slices.Delete(todo, i, i+1)
		if err := a.send(x.path, x.grant, x.start, x.end, nil); err != nil {
			a.Error(err)
			return
		}
	}
}

// held returns how many bytes wait for the ordered reader.
func (a *aggregation) held() (n int64) {
	a.streamAggregator.mu.Lock()
	defer a.streamAggregator.mu.Unlock()
	for _, x := range a.arrived.runs {
		n += int64(len(x.p))
	}
	return n
}

const aggUnit = 64 << 10

func TestSecondaryStreamAggregation(t *testing.T) {
	const size = 3*minReorderWindow + 77
	for name, pick := range map[string]func(n int) int{
		"in order":       func(int) int { return 0 },
		"backwards":      func(n int) int { return n - 1 },
		"from both ends": func(n int) int { return n % 2 * (n - 1) },
	} {
		t.Run("ordered, "+name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				a := newAggregation(t, size, aggUnit, "a", "b", "c")
				if len(a.grants) > 0 || a.begun > 0 {
					t.Fatal("something was granted before anybody read")
				}
				var got bytes.Buffer
				buf := make([]byte, 100_000) // neither units nor grants
				for {
					if got.Len() == 0 {
						if _, err := a.read(nil); err != nil { // demand
							t.Fatal(err)
						}
					}
					for _, g := range a.grants {
						if g.End > int64(got.Len())+minReorderWindow {
							t.Fatalf("granted [%d, %d) to a reader at %d", g.Start, g.End, got.Len())
						}
					}
					a.serve(aggUnit, pick)
					if n := a.held(); n > minReorderWindow {
						t.Fatalf("%d bytes are held, the window has %d", n, minReorderWindow)
					}
					n, err := a.read(buf)
					got.Write(buf[:n])
					if err == io.EOF {
						break
					}
					if err != nil {
						t.Fatal(err)
					}
				}
				st := a.stats()
				if !bytes.Equal(got.Bytes(), a.content) {
					t.Errorf("%d bytes were read, and they are not the content", got.Len())
				}
				if st.Bytes != size || st.Wasted != 0 {
					t.Errorf("stats %+v", st)
				}
				if a.dones != 1 || a.begun != 1 {
					t.Errorf("done %d, begun %d", a.dones, a.begun)
				}
				for _, s := range st.Sources {
					if s.Bytes == 0 {
						t.Errorf("%s delivered nothing", s.Server)
					}
				}
				a.fail(errors.New("the session ended"))
				if n, err := a.read(buf); n != 0 || err != io.EOF {
					t.Errorf("after the end: %d, %v", n, err)
				}
			})
		})
		t.Run("unordered, "+name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				a := newAggregation(t, size, aggUnit, "a", "b", "c")
				k := newSink(size)
				a.copying(t.Context(), k, func() { a.serve(aggUnit, pick) }, func(n int64, err error) {
					k.wantWhole(t, a.content, n, err)
					if a.dones != 1 {
						t.Errorf("done was called %d times", a.dones)
					}
				})
			})
		})
	}
}

// wantWhole checks the result of a copy into the sink: all of content, and no byte written twice.
func (s *sink) wantWhole(t *testing.T, content []byte, n int64, err error) {
	t.Helper()
	if n != int64(len(content)) || err != nil {
		t.Errorf("copied %d bytes of %d: %v", n, len(content), err)
	}
	if !bytes.Equal(s.data, content) {
		t.Error("the copy differs from the content")
	}
	if s.twice {
		t.Error("a byte was written twice")
	}
}

// copying runs copyTo, then f when that waits, and then check with its results.
func (a *aggregation) copying(ctx context.Context, w io.WriterAt, f func(), check func(n int64, err error)) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		n, err := a.copyTo(ctx, w, nil)
		check(n, err)
	}()
	synctest.Wait()
	f()
	<-done
}

func TestAggregationOfDuplicates(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newAggregation(t, 4*aggUnit, aggUnit, "a", "b")
		k := newSink(4 * aggUnit)
		a.copying(t.Context(), k, func() {
			for _, x := range []struct {
				id         PathID
				start, end int
			}{{"a", 1, 2}, {"b", 1, 2}, {"b", 0, 1}, {"a", 0, 1}, {"a", 3, 4}, {"b", 3, 4}, {"b", 2, 3}} {
				if err := a.send(x.id, 99, x.start*aggUnit, x.end*aggUnit, nil); err != nil {
					t.Error(err)
				}
			}
		}, func(n int64, err error) {
			k.wantWhole(t, a.content, n, err)
		})
		st := a.stats()
		slices.SortFunc(st.Sources, func(x, y SourceStats) int { return cmp.Compare(x.Server, y.Server) })
		if st.Wasted != 3*aggUnit || st.Sources[0].Bytes != 2*aggUnit || st.Sources[1].Bytes != 2*aggUnit {
			t.Errorf("stats %+v", st)
		}
	})
}

func TestAggregationRefusesUnprovedBytes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newAggregation(t, 2*aggUnit, aggUnit, "liar", "honest")
		proofs := 0
		wantOpen(t, a.streamAggregator, func(source ServerID, off int64, p []byte) error {
			if proofs++; !bytes.Equal(p, a.content[off:off+int64(len(p))]) {
				return errors.New("wrong")
			}
			return nil
		})
		k := newSink(2 * aggUnit)
		a.copying(t.Context(), k, func() {
			err := a.send("liar", 1, 0, aggUnit, func(p []byte) { p[aggUnit-1] ^= 1 })
			wantError(t, err, ErrSourceRefuted)
			if e, ok := errors.AsType[*Error](err); ok && (e.Path != "liar" || e.Offset != 0) {
				t.Errorf("a wrong byte: path %q, offset %d", e.Path, e.Offset)
			}
			if st := a.stats(); st.Bytes != 0 || st.Wasted != aggUnit || !slices.Equal(a.banned, []PathID{"liar"}) {
				t.Errorf("stats %+v, banned %v", st, a.banned)
			}
			a.send("honest", 2, 0, aggUnit, nil)
			a.send("honest", 2, 0, aggUnit, func(p []byte) { p[0] ^= 1 }) // had: not verified
			a.send("honest", 2, aggUnit, 2*aggUnit, nil)
		}, func(n int64, err error) {
			k.wantWhole(t, a.content, n, err)
			if proofs != 3 {
				t.Errorf("%d proofs", proofs)
			}
		})
	})
}

type writerFunc func(p []byte, off int64) (int, error)

func (f writerFunc) WriteAt(p []byte, off int64) (int, error) { return f(p, off) }

func TestAggregationStopsWithItsConsumer(t *testing.T) {
	full := errors.New("disk full")
	synctest.Test(t, func(t *testing.T) {
		a := newAggregation(t, 2*aggUnit, aggUnit, "a")
		failing := writerFunc(func(p []byte, off int64) (int, error) { return 0, full })
		a.copying(t.Context(), failing, func() {
			if err := a.send("a", 1, 0, aggUnit, nil); err != errStreamEnded {
				t.Errorf("the delivery that failed: %v", err)
			}
			if err := a.send("a", 1, aggUnit, 2*aggUnit, nil); err != errStreamEnded {
				t.Errorf("a delivery afterwards: %v", err)
			}
		}, func(n int64, err error) {
			if n != 0 || err != full || a.dones != 1 {
				t.Errorf("%d, %v, done %d", n, err, a.dones)
			}
		})
	})
	// Whatever ends the stream, copyTo returns after the last write.
	for name, end := range map[string]func(a *aggregation, cancel context.CancelCauseFunc){
		"closed":        func(a *aggregation, _ context.CancelCauseFunc) { a.close() },
		"context ended": func(_ *aggregation, cancel context.CancelCauseFunc) { cancel(errStreamClosed) },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				a := newAggregation(t, 2*aggUnit, aggUnit, "a")
				hold, returned := make(chan struct{}), false
				slow := writerFunc(func(p []byte, off int64) (int, error) {
					if <-hold; returned {
						t.Error("copyTo returned during a write")
					}
					return len(p), nil
				})
				ctx, cancel := context.WithCancelCause(t.Context())
				a.copying(ctx, slow, func() {
					go a.send("a", 1, 0, aggUnit, nil)
					synctest.Wait()
					end(a, cancel)
					synctest.Wait()
					close(hold)
				}, func(n int64, err error) {
					if returned = true; n != aggUnit || err != errStreamClosed {
						t.Errorf("%d, %v", n, err)
					}
				})
			})
		})
	}
	// A stream that is complete is complete, even if the context ends before copyTo notices.
	synctest.Test(t, func(t *testing.T) {
		a := newAggregation(t, aggUnit, aggUnit, "a")
		ctx, cancel := context.WithCancel(t.Context())
		a.copying(ctx, newSink(aggUnit), func() {
			a.send("a", 1, 0, aggUnit, nil)
			a.fail(context.Canceled)
			cancel()
		}, func(n int64, err error) {
			if n != aggUnit || err != nil {
				t.Errorf("%d, %v", n, err)
			}
		})
	})
	synctest.Test(t, func(t *testing.T) {
		a := newAggregation(t, 2*aggUnit, aggUnit, "a")
		if _, err := a.read(nil); err != nil {
			t.Fatal(err)
		}
		a.send("a", 1, aggUnit, 2*aggUnit, nil) // waits for the reader, who closes
		if _, err := a.copyTo(t.Context(), newSink(2*aggUnit), nil); err != errTwoConsumers {
			t.Errorf("a second consumer: %v", err)
		}
		a.close()
		if _, err := a.read(make([]byte, 1)); err != errStreamClosed || a.held() != 0 || a.dones != 1 {
			t.Errorf("after close: %v, %d held, done %d", err, a.held(), a.dones)
		}
		if err := a.send("a", 1, 0, aggUnit, nil); err != errStreamEnded {
			t.Errorf("delivery after close: %v", err)
		}
		a.close()
	})
}

func TestAggregationDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newAggregation(t, 2*aggUnit, aggUnit, "a")
		a.hoping, a.timeout, a.outage = true, time.Hour, time.Hour
		read := func(wait time.Duration) {
			t.Helper()
			start := time.Now()
			if n, err := a.read(make([]byte, 1)); n != 0 || err != os.ErrDeadlineExceeded || time.Since(start) != wait {
				t.Errorf("%d, %v after %v, want %v", n, err, time.Since(start), wait)
			}
		}
		a.setReadDeadline(time.Now().Add(-time.Second))
		read(0)
		a.setReadDeadline(time.Now().Add(30 * time.Millisecond))
		read(30 * time.Millisecond)
		read(0)
		a.setReadDeadline(time.Now().Add(time.Minute))
		time.AfterFunc(10*time.Millisecond, func() { a.setReadDeadline(time.Now().Add(20 * time.Millisecond)) })
		read(30 * time.Millisecond)
		a.setReadDeadline(time.Time{})
		time.AfterFunc(time.Minute, func() { a.send("a", 1, 0, aggUnit, nil) })
		if n, err := a.read(make([]byte, 1)); n != 1 || err != nil {
			t.Errorf("without a deadline: %d, %v", n, err)
		}
		synctest.Wait() // the delivery may not have let go of its block yet
	})
}

func TestAggregationTimeout(t *testing.T) {
	const size = 2 * aggUnit
	for _, tt := range []struct {
		name   string
		ids    []PathID
		hope   bool
		events func(a *aggregation)
		after  time.Duration
	}{
		{"no source, and none expected", nil, false, nil, sched.TickInterval},
		{"no source", nil, true, nil, 10*time.Second + sched.TickInterval},
		{"a source that refuses", []PathID{"a"}, false, func(a *aggregation) {
			a.detach("a", io.ErrNoProgress)
		}, sched.TickInterval},
		{"a source that is silent", []PathID{"a"}, false, nil, 10 * time.Second},
		{"a source that comes back for a while", []PathID{"a"}, false, func(a *aggregation) {
			time.AfterFunc(5*time.Second, func() { a.send("a", 1, 0, aggUnit, nil) })
		}, 15 * time.Second},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				a := newAggregation(t, size, aggUnit, tt.ids...)
				a.hoping = tt.hope
				if tt.events != nil {
					tt.events(a)
				}
				start := time.Now()
				_, err := a.copyTo(t.Context(), newSink(size), nil)
				took := time.Since(start)
				wantError(t, err, ErrAggregationTimeout)
				if took < tt.after-sched.TickInterval || took > tt.after+2*sched.TickInterval {
					t.Errorf("it ended after %v, want %v", took, tt.after)
				}
				if tt.name == "a source that refuses" && !errors.Is(err, io.ErrNoProgress) {
					t.Errorf("%v does not say why", err)
				}
			})
		})
	}
}

// A source that gives up extents without a reason is removed after a few. The error names the
// reason.
func TestAggregationStrikes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newAggregation(t, 4*aggUnit, aggUnit, "a")
		a.read(nil)
		s := a.source("a")
		give := func() {
			g := a.grants[0]
			a.grants = a.grants[1:]
			a.ended(s, g.Grant, nil)
		}
		for range maxStrikes - 1 {
			give()
		}
		g := a.grants[0]
		a.send("a", g.Grant, int(g.Start), int(g.Start)+aggUnit, nil) // resets the count
		a.grants = a.grants[1:]
		for range maxStrikes {
			if s.gone {
				t.Fatal("too early")
			}
			give()
		}
		if !s.gone || codeOf(s.reason) != ErrContentUnavailable || strings.Contains(s.reason.Error(), "%!") {
			t.Errorf("gone %v, %v", s.gone, s.reason)
		}
	})
}

// wantOpen sets the verifier of an aggregator.
func wantOpen(t *testing.T, a *streamAggregator, verify ProofFunc) {
	t.Helper()
	if err := a.open(verify); err != nil {
		t.Fatal(err)
	}
}
