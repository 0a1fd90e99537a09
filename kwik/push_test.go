package kwik

import (
	"bytes"
	"context"
	"errors"
	"io"
	"testing"
	"time"
)

// offerPushed opens a pushed stream of n bytes and returns the client's end.
func (w *world) offerPushed(
	client *ClientSession, server *ServerSession, n, alignment int64, verify ProofFunc,
) *AggregateReader {
	w.t.Helper()
	o, err := server.OpenAggregateStream(AggregateStreamSpec{Size: n, Alignment: alignment, Descriptor: []byte("pushed"), Pushed: true})
	if err != nil {
		w.t.Fatal(err)
	}
	return w.accept(client, o.StreamID(), verify)
}

// push writes p from off on, as a server's application would.
func push(session *ServerSession, id StreamID, off int64, p []byte) error {
	s := session.OpenSecondaryStream()
	defer s.Close()
	if err := s.SetKwikStreamMapping(id, off); err != nil {
		return err
	}
	if _, err := s.Write(p); err != nil {
		return err
	}
	return s.Close()
}

// The specification's model: the primary writes its part, a secondary another, and the client
// reads one ordered stream.
func TestPushedStream(t *testing.T) {
	inWorld(t, 2, lan, func(w *world) {
		client, server := w.dial(nil)
		size := int64(len(w.data))
		s := w.offerPushed(client, server, size, 0, nil)
		third := size / 3
		errs := make(chan error, 3)
		pushOwn := func(session *ServerSession, start, end int64) {
			p, err := session.AcceptPushedStream(w.t.Context())
			if err == nil && (p.Size() != size || string(p.Descriptor()) != "pushed") {
				err = errors.New("another stream")
			}
			if err == nil {
				err = push(session, p.StreamID(), start, w.data[start:end])
			}
			errs <- err
		}
		go pushOwn(server, 0, third)
		go func() { pushOwn(<-w.secondaries[0].sessions, third, 2*third) }()
		go func() { pushOwn(<-w.secondaries[1].sessions, 2*third, size) }()
		got, err := io.ReadAll(s)
		if err != nil || !bytes.Equal(got, w.data) {
			w.t.Fatalf("%d bytes, %v", len(got), err)
		}
		for range 3 {
			if err := <-errs; err != nil {
				w.t.Error(err)
			}
		}
		for _, src := range s.Stats().Sources {
			if src.Bytes < third {
				w.t.Errorf("%s delivered %d bytes", src.Server, src.Bytes)
			}
		}
		client.CloseWithError(0, "")
	})
}

// A source waits at the window's end, which moves as the reader reads. The window never delays
// the byte that the reader needs next.
func TestPushedStreamWindow(t *testing.T) {
	inWorld(t, 1, lan, func(w *world) {
		client, server := w.dial(&ClientConfig{ReorderWindow: minReorderWindow})
		size := int64(len(w.data))
		s := w.offerPushed(client, server, size, 0, nil)
		half := size / 2
		ahead := make(chan error, 1)
		go func() {
			session := <-w.secondaries[0].sessions
			p, err := session.AcceptPushedStream(w.t.Context())
			if err == nil {
				err = push(session, p.StreamID(), half, w.data[half:])
			}
			ahead <- err
		}()
		got := make(chan []byte, 1)
		go func() {
			b, err := io.ReadAll(s)
			if err != nil {
				w.t.Error(err)
			}
			got <- b
		}()
		time.Sleep(2 * time.Second)
		if had := s.Stats().Bytes; had > minReorderWindow {
			w.t.Errorf("the client holds %d bytes, more than the window", had)
		}
		select {
		case err := <-ahead:
			w.t.Fatalf("the source that is ahead was not held back: %v", err)
		default:
		}
		p, err := server.AcceptPushedStream(w.t.Context())
		if err != nil {
			w.t.Fatal(err)
		}
		if err := push(server, p.StreamID(), 0, w.data[:half]); err != nil {
			w.t.Fatal(err)
		}
		if b := <-got; !bytes.Equal(b, w.data) {
			w.t.Error("wrong bytes")
		}
		if err := <-ahead; err != nil {
			w.t.Error(err)
		}
		client.CloseWithError(0, "")
	})
}

// A source that lost its place requests the client's offset and continues there.
func TestOffsetSync(t *testing.T) {
	inWorld(t, 0, lan, func(w *world) {
		client, server := w.dial(nil)
		s := w.offerPushed(client, server, 1000, 0, nil)
		first := make([]byte, 300)
		read := make(chan error, 1)
		go func() {
			_, err := io.ReadFull(s, first)
			read <- err
		}()
		p, err := server.AcceptPushedStream(w.t.Context())
		if err != nil {
			w.t.Fatal(err)
		}
		if err := push(server, p.StreamID(), 0, w.data[:300]); err != nil {
			w.t.Fatal(err)
		}
		if err := <-read; err != nil {
			w.t.Fatal(err)
		}
		for _, believed := range []int64{0, 300, 999} {
			if expected, err := p.Sync(w.t.Context(), believed); err != nil || expected != 300 {
				w.t.Errorf("a source at %d is told to go on at %d, %v", believed, expected, err)
			}
		}
		if err := push(server, p.StreamID(), 300, w.data[300:1000]); err != nil {
			w.t.Fatal(err)
		}
		if rest, err := io.ReadAll(s); err != nil || !bytes.Equal(rest, w.data[300:1000]) {
			w.t.Errorf("%d bytes, %v", len(rest), err)
		}
		<-p.Context().Done()
		client.CloseWithError(0, "")
	})
}

// Each conflict strategy has its own result when two servers push different bytes to the same
// place.
func TestConflictResolution(t *testing.T) {
	for name, tt := range map[string]struct {
		strategy     ConflictResolutionStrategy
		primaryFirst bool
		want         string // "primary" or "secondary"
		rejected     bool
	}{
		"first wins, secondary first":   {ConflictResolutionFirstWins, false, "secondary", false},
		"first wins, primary first":     {ConflictResolutionFirstWins, true, "primary", false},
		"last wins, secondary first":    {ConflictResolutionLastWins, false, "primary", false},
		"last wins, primary first":      {ConflictResolutionLastWins, true, "secondary", false},
		"primary wins, secondary first": {ConflictResolutionPrimaryWins, false, "primary", false},
		"primary wins, primary first":   {ConflictResolutionPrimaryWins, true, "primary", false},
		"reject, secondary first":       {ConflictResolutionReject, false, "secondary", true},
		"reject, primary first":         {ConflictResolutionReject, true, "primary", true},
	} {
		for _, unordered := range []bool{false, true} {
			t.Run(name, func(t *testing.T) {
				inWorld(t, 1, lan, func(w *world) {
					client, server := w.dial(&ClientConfig{ConflictResolution: tt.strategy})
					w.wantState(client, "s1", PathActive)
					s := w.offerPushed(client, server, 3000, 0, nil)
					k := newSink(3000)
					got := make(chan []byte, 1)
					go func() { // byte 0 is pushed last, so that nothing is read before the conflict
						if unordered {
							if _, err := s.CopyTo(w.t.Context(), k, nil); err != nil {
								w.t.Error(err)
							}
							got <- k.data
							return
						}
						b, err := io.ReadAll(s)
						if err != nil {
							w.t.Error(err)
						}
						got <- b
					}()
					secondary := <-w.secondaries[0].sessions
					id := s.StreamID()
					for _, session := range []*ServerSession{server, secondary} {
						if _, err := session.AcceptPushedStream(w.t.Context()); err != nil {
							w.t.Fatal(err)
						}
					}
					parts := map[*ServerSession][]byte{server: bytes.Repeat([]byte("p"), 1000), secondary: bytes.Repeat([]byte("s"), 1000)}
					order := []*ServerSession{secondary, server}
					if tt.primaryFirst {
						order = []*ServerSession{server, secondary}
					}
					for _, session := range order {
						if err := push(session, id, 1000, parts[session]); err != nil {
							w.t.Error(err)
						}
						time.Sleep(time.Second) // virtual: the other source pushes later
					}
					push(server, id, 2000, w.data[:1000])
					push(server, id, 0, w.data[:1000])
					want := parts[secondary]
					if tt.want == "primary" {
						want = parts[server]
					}
					if b := <-got; !bytes.Equal(b[1000:2000], want) {
						w.t.Errorf("got %.8q..., want the %s's", b[1000:2000], tt.want)
					}
					st := s.Stats()
					if st.Conflicts != 1 || st.Wasted != 1000 {
						w.t.Errorf("%d conflicts, %d bytes wasted", st.Conflicts, st.Wasted)
					}
					if _, err := client.OpenStreamSync(context.Background()); err != nil {
						w.t.Errorf("the session ended: %v", err)
					}
					client.CloseWithError(0, "")
				})
			})
		}
	}
}

// The wait for a hole that no source fills ends with a time-out.
func TestReorderTimeout(t *testing.T) {
	inWorld(t, 0, lan, func(w *world) {
		client, server := w.dial(&ClientConfig{ReorderTimeout: 3 * time.Second})
		s := w.offerPushed(client, server, 1000, 0, nil)
		go func() {
			if p, err := server.AcceptPushedStream(w.t.Context()); err == nil {
				push(server, p.StreamID(), 500, w.data[:500])
			}
		}()
		start := time.Now()
		if _, err := io.ReadAll(s); !errors.Is(err, ErrAggregationTimeout) {
			w.t.Errorf("got %v", err)
		}
		if waited := time.Since(start); waited < 3*time.Second || waited > 4*time.Second {
			w.t.Errorf("after %v", waited)
		}
		client.CloseWithError(0, "")
	})
}
