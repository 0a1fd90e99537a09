package kwik

import (
	"context"
	"sync"
	"testing"
	"time"

	"kwikcp/internal/rangeset"
	"kwikcp/internal/simnet"
)

// A prefetched is a Content that notes which bytes were announced, and which were read unannounced.
type prefetched struct {
	memory
	notes *prefetchNotes
}

type prefetchNotes struct {
	mu          sync.Mutex
	announced   rangeset.Set
	calls       int
	unannounced int64
	ahead       int64 // the most announced bytes that had not been read
	read        int64
}

func (p prefetched) Prefetch(start, end int64) {
	n := p.notes
	n.mu.Lock()
	defer n.mu.Unlock()
	n.calls++
	n.announced.Add(start, end)
	n.ahead = max(n.ahead, n.announced.Total()-n.read)
}

func (p prefetched) ReadAt(b []byte, off int64) (int, error) {
	n := p.notes
	n.mu.Lock()
	n.unannounced += int64(len(b)) - n.announced.Overlap(off, off+int64(len(b)))
	n.read += int64(len(b))
	n.mu.Unlock()
	return p.memory.ReadAt(b, off)
}

// TestPrefetch announces each range to a Prefetcher before it is read, in both roles, with a head
// start and without one. On a long way the next grants are announced while one is written.
func TestPrefetch(t *testing.T) {
	for _, c := range []struct {
		name        string
		secondaries int
		headStart   int64
	}{{"alone", 0, 0}, {"head start", 0, maxHeadStart}, {"three servers", 2, 0}} {
		t.Run(c.name, func(t *testing.T) {
			link := simnet.Link{Latency: 20 * time.Millisecond, Rate: 80e6}
			inWorldOf(t, 8<<20, c.secondaries, link, func(w *world) {
				var all []*prefetchNotes
				for _, s := range append([]*testServer{w.primary}, w.secondaries...) {
					notes := &prefetchNotes{}
					all = append(all, notes)
					s.config.OpenContent = func(context.Context, ContentRequest) (Content, error) {
						return prefetched{memory{w.data}, notes}, nil
					}
				}
				client, server := w.dial(nil)
				stream, _ := w.offerWithHeadStart(client, server, c.headStart, nil)
				w.copy(stream).wantAll()
				for i, n := range all {
					n.mu.Lock()
					defer n.mu.Unlock()
					if n.unannounced > 0 || n.calls == 0 || n.read == 0 {
						w.t.Errorf("server %d: %d of %d bytes were read unannounced, after %d calls",
							i, n.unannounced, n.read, n.calls)
					}
					if n.ahead < dataFrameSize {
						w.t.Errorf("server %d: %d bytes were announced ahead", i, n.ahead)
					}
				}
			})
		})
	}
}

// TestPrefetchAgain announces what is left of a grant again if the content was opened again.
func TestPrefetchAgain(t *testing.T) {
	a := &attachment{last: 5, queue: []*extent{
		{grant: 3, start: 0, end: 100}, {grant: 4, start: 100, end: 200, revoked: true},
		{grant: 5, start: 200, end: 300},
	}}
	c := &attachedContent{a: a, announced: 4}
	want := func(off int64, want ...rangeset.Range) {
		t.Helper()
		got := c.newGrants(off)
		if len(got) != len(want) {
			t.Fatalf("%v, want %v", got, want)
		}
		for i := range got {
			if got[i] != want[i] {
				t.Errorf("%v, want %v", got, want)
			}
		}
	}
	want(50, rangeset.Range{Start: 200, End: 300})
	want(60)
	c.announced = 0 // as open sets it
	want(60, rangeset.Range{Start: 60, End: 100}, rangeset.Range{Start: 200, End: 300})
	a.lacks.Add(200, 300)
	c.announced = 0
	want(100)
}
