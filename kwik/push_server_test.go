package kwik

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// inPushed runs f with a pushed stream of n bytes that the client reads, and the servers' ends of
// it, the primary's first.
func inPushed(t *testing.T, n, alignment int64, secondaries int, conf *ClientConfig, f func(w *world, s *AggregateReader, ends []*PushedStream)) {
	t.Helper()
	inWorldOf(t, int(n), secondaries, lan, func(w *world) {
		t := w.t
		client, server := w.dial(conf)
		for _, m := range w.primary.memberList() {
			w.wantState(client, m.ID, PathActive)
		}
		s := w.offerPushed(client, server, n, alignment, nil)
		if _, err := s.Read(nil); err != nil { // attaches the servers
			t.Fatal(err)
		}
		sessions := []*ServerSession{server}
		for _, secondary := range w.secondaries {
			sessions = append(sessions, <-secondary.sessions)
		}
		var ends []*PushedStream
		for _, session := range sessions {
			p, err := session.AcceptPushedStream(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			ends = append(ends, p)
		}
		f(w, s, ends)
	})
}

// wantRead checks that the reader gets the content, as far as n.
func (w *world) wantRead(s *AggregateReader, n int) {
	w.t.Helper()
	got := make([]byte, n)
	if k, err := io.ReadFull(s, got); err != nil || !bytes.Equal(got, w.data[:n]) {
		w.t.Fatalf("read %d of %d bytes, %v", k, n, err)
	}
	if n == len(w.data) {
		if k, err := s.Read(make([]byte, 1)); k != 0 || err != io.EOF {
			w.t.Errorf("after the end: %d, %v", k, err)
		}
	}
}

// mapped opens a secondary stream that is mapped to an offset.
func (w *world) mapped(p *PushedStream, off int64) *SecondaryStream {
	w.t.Helper()
	x := p.session.OpenSecondaryStream()
	if err := x.SetKwikStreamMapping(p.StreamID(), off); err != nil {
		w.t.Fatal(err)
	}
	return x
}

// The rules of a SecondaryStream, one after the other.
func TestSecondaryStreamRules(t *testing.T) {
	inPushed(t, 1000, 100, 0, nil, func(w *world, s *AggregateReader, ends []*PushedStream) {
		t := w.t
		p := ends[0]
		x := p.session.OpenSecondaryStream()
		if n, err := x.Write([]byte("x")); n != 0 || err != errNotMapped {
			t.Errorf("Write before the mapping: %d, %v", n, err)
		}
		if x.KwikStreamID() != 0 || x.Offset() != 0 {
			t.Errorf("stream %#x, offset %d before the mapping", uint64(x.KwikStreamID()), x.Offset())
		}
		for off, code := range map[int64]ErrorCode{-1: ErrOffsetSyncFailure, 50: ErrOffsetSyncFailure, 1000: ErrOffsetSyncFailure, 1 << 62: ErrOffsetSyncFailure} {
			wantError(t, x.SetKwikStreamMapping(p.StreamID(), off), code)
		}
		for _, id := range []StreamID{0, p.StreamID() + 1, -1} {
			wantError(t, x.SetKwikStreamMapping(id, 0), ErrStreamMappingConflict)
		}
		if err := x.SetKwikStreamMapping(p.StreamID(), 100); err != nil {
			t.Fatal(err)
		}
		wantError(t, x.SetKwikStreamMapping(p.StreamID(), 100), ErrStreamMappingConflict)
		wantError(t, x.SetKwikStreamMapping(p.StreamID(), 200), ErrStreamMappingConflict)
		n, err := x.Write(make([]byte, 901))
		if wantError(t, err, ErrOffsetSyncFailure); n != 0 {
			t.Errorf("%d bytes past the end", n)
		}
		if n, err := x.Write(w.data[100:350]); n != 250 || err != nil {
			t.Errorf("Write: %d, %v", n, err)
		}
		if x.Offset() != 350 || x.KwikStreamID() != p.StreamID() {
			t.Errorf("stream %#x, offset %d after Write", uint64(x.KwikStreamID()), x.Offset())
		}
		if err := x.Close(); err == nil {
			t.Error("half a unit was left, and Close says nothing")
		}
		if err := x.Close(); err != nil {
			t.Errorf("closing it again: %v", err)
		}
		if n, err := x.Write([]byte("x")); n != 0 || err != errSecondaryDone {
			t.Errorf("after Close: %d, %v", n, err)
		}
		// The whole units before it still count, and any source can push the rest.
		w.within(time.Second, func() bool { return s.Stats().Bytes == 200 })
		for start, end := range map[int]int{0: 100, 300: 1000} {
			if err := push(p.session, p.StreamID(), int64(start), w.data[start:end]); err != nil {
				t.Error(err)
			}
		}
		w.wantRead(s, 1000)
		<-p.Context().Done()
		wantError(t, p.session.OpenSecondaryStream().SetKwikStreamMapping(p.StreamID(), 0), ErrStreamMappingConflict)

		// Nothing was ever sent of streams that were closed before their first byte.
		unused := p.session.OpenSecondaryStream()
		if err := unused.Close(); err != nil || unused.SetKwikStreamMapping(p.StreamID(), 0) != errSecondaryDone {
			t.Errorf("an unused stream: %v", err)
		}
	})
}

// A Write waits for the window until its deadline. After that a new Write can continue.
func TestPushedWriteDeadline(t *testing.T) {
	inPushed(t, 3<<20, 0, 0, &ClientConfig{ReorderWindow: minReorderWindow}, func(w *world, s *AggregateReader, ends []*PushedStream) {
		t := w.t
		x := w.mapped(ends[0], 0)
		start := time.Now()
		x.SetWriteDeadline(start.Add(time.Second))
		n, err := x.Write(w.data)
		if !errors.Is(err, os.ErrDeadlineExceeded) || !errors.Is(err, ErrAggregationTimeout) || time.Since(start) != time.Second {
			t.Fatalf("%d, %v after %v", n, err, time.Since(start))
		}
		if n < minReorderWindow || n > minReorderWindow+dataFrameSize || x.Offset() != int64(n) {
			t.Fatalf("%d bytes were taken, at %d", n, x.Offset())
		}
		if k, err := x.Write(nil); k != 0 || err != nil {
			t.Errorf("nothing: %d, %v", k, err)
		}
		if k, err := x.Write(w.data[n : n+1]); err == nil || k > 1 {
			t.Errorf("a deadline in the past: %d, %v", k, err)
		} else {
			n += k
		}
		read := make(chan struct{})
		go func() {
			defer close(read)
			w.wantRead(s, len(w.data))
		}()
		x.SetWriteDeadline(time.Time{})
		if _, err := x.Write(w.data[n:]); err != nil {
			t.Fatal(err)
		}
		if err := x.Close(); err != nil {
			t.Fatal(err)
		}
		<-read
	})
}

// SetKwikStreamMapping waits at the client's limit of secondary streams, until the deadline.
func TestPushedStreamLimit(t *testing.T) {
	inPushed(t, 1000, 0, 0, nil, func(w *world, s *AggregateReader, ends []*PushedStream) {
		t := w.t
		var open []*SecondaryStream
		for range defaultSecondaryStreams {
			open = append(open, w.mapped(ends[0], 0))
		}
		x := ends[0].session.OpenSecondaryStream()
		start := time.Now()
		x.SetWriteDeadline(start.Add(time.Second))
		if err := x.SetKwikStreamMapping(s.StreamID(), 0); !errors.Is(err, os.ErrDeadlineExceeded) || time.Since(start) != time.Second {
			t.Errorf("%v after %v", err, time.Since(start))
		}
		time.AfterFunc(time.Second, func() { open[0].Close() })
		x.SetWriteDeadline(time.Time{})
		if err := x.SetKwikStreamMapping(s.StreamID(), 0); err != nil {
			t.Error(err)
		}
		for _, o := range append(open[1:], x) {
			o.Close()
		}
	})
}

// A Write that waits ends when the stream ends, and returns the cause.
func TestPushedWriteEnds(t *testing.T) {
	for name, c := range map[string]struct {
		end  func(w *world, s *AggregateReader, p *PushedStream)
		want func(err error) bool
	}{
		"the client closes the stream":  {func(_ *world, s *AggregateReader, _ *PushedStream) { s.Close() }, func(err error) bool { return err == errStreamClosed }},
		"the client closes the session": {func(w *world, _ *AggregateReader, _ *PushedStream) { w.clients[0].CloseWithError(0, "") }, func(err error) bool { return err == errStreamClosed || isClosed(err) }},
		"the server closes the session": {func(_ *world, _ *AggregateReader, p *PushedStream) { p.session.CloseWithError(0, "") }, isClosed},
		"the listener is closed":        {func(w *world, _ *AggregateReader, _ *PushedStream) { w.primary.stop() }, func(err error) bool { return err != nil }},
		"the path ends, with a reason": {func(w *world, _ *AggregateReader, _ *PushedStream) {
			w.clients[0].primary.fail(errorf(ErrSecondaryStreamOverflow, "too much"))
		}, func(err error) bool { return errors.Is(err, ErrSecondaryStreamOverflow) }},
	} {
		t.Run(name, func(t *testing.T) {
			inPushed(t, 3<<20, 0, 0, &ClientConfig{ReorderWindow: minReorderWindow}, func(w *world, s *AggregateReader, ends []*PushedStream) {
				t := w.t
				p, x := ends[0], w.mapped(ends[0], 1)
				time.AfterFunc(time.Second, func() { c.end(w, s, p) })
				start := time.Now()
				if _, err := x.Write(w.data[1:]); !c.want(err) || time.Since(start) < time.Second || time.Since(start) > 1100*time.Millisecond {
					t.Errorf("%v after %v", err, time.Since(start))
				}
				<-p.Context().Done()
				x.Close()
				if _, err := p.Sync(context.Background(), 0); err == nil {
					t.Error("Sync found a client")
				}
			})
		})
	}
}

func isClosed(err error) bool {
	return err != nil && err != errStreamClosed && !errors.Is(err, context.Canceled)
}

// Two secondary streams of one server, written to in turns.
func TestInterleavedSecondaryStreams(t *testing.T) {
	inPushed(t, 1<<20, unit, 0, nil, func(w *world, s *AggregateReader, ends []*PushedStream) {
		t := w.t
		const half = 1 << 19
		a, b := w.mapped(ends[0], 0), w.mapped(ends[0], half)
		for off := 0; off < half; off += 10_000 {
			end := min(off+10_000, half)
			for _, err := range []error{writeTo(b, w.data[half+off:half+end]), writeTo(a, w.data[off:end])} {
				if err != nil {
					t.Fatal(err)
				}
			}
		}
		for _, x := range []*SecondaryStream{a, b} {
			if err := x.Close(); err != nil {
				t.Error(err)
			}
		}
		w.wantRead(s, len(w.data))
		if st := s.Stats(); st.Conflicts != 0 || st.Wasted != 0 {
			t.Errorf("%+v", st)
		}
	})
}

func writeTo(x *SecondaryStream, p []byte) error { _, err := x.Write(p); return err }

// A SecondaryStream sends all bytes that were written to it, for any units and any sizes of
// writes. It sends whole units at once, and an incomplete unit when it is complete.
func TestSecondaryStreamSizes(t *testing.T) {
	for seed := range uint64(10) {
		random := rand.New(rand.NewPCG(seed, 0))
		alignment := []int64{0, 1, 7, 1000, 64 << 10, 300_000, 1 << 20}[random.IntN(7)]
		size := 1 + random.Int64N(3<<20)
		inPushed(t, size, alignment, 0, nil, func(w *world, s *AggregateReader, ends []*PushedStream) {
			t := w.t
			x := w.mapped(ends[0], 0)
			unit := max(1, alignment)
			for off := int64(0); off < size; {
				n := min(size-off, 1+random.Int64N(1<<random.IntN(22)))
				if err := writeTo(x, w.data[off:off+n]); err != nil {
					t.Fatalf("seed %d: %v", seed, err)
				}
				off += n
				sent := off - off%unit
				if off == size {
					sent = off
				}
				if x.Offset() != off || x.stream.offset != sent || int64(x.pending) != off-sent {
					t.Fatalf("seed %d: after %d bytes in units of %d: at %d, %d were sent, %d are pending", seed, off, unit, x.Offset(), x.stream.offset, x.pending)
				}
			}
			if err := x.Close(); err != nil {
				t.Fatalf("seed %d: %v", seed, err)
			}
			w.wantRead(s, int(size))
		})
	}
}

// 64 pushed streams at once in one session, each from two servers.
func TestManyPushedStreams(t *testing.T) {
	const count, size = 64, 100_000
	inWorldOf(t, size, 1, lan, func(w *world) {
		t := w.t
		client, server := w.dial(nil)
		w.wantState(client, "s1", PathActive)
		sessions := map[int]*ServerSession{0: server, 1: <-w.secondaries[0].sessions}
		var wg sync.WaitGroup
		for range count {
			s := w.offerPushed(client, server, size, 1000, nil)
			wg.Go(func() {
				w.wantRead(s, size)
				s.Close()
			})
		}
		for i, session := range sessions {
			for range count {
				p, err := session.AcceptPushedStream(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				wg.Go(func() {
					if err := push(session, p.StreamID(), int64(i*size/2), w.data[i*size/2:(i+1)*size/2]); err != nil {
						t.Error(err)
					}
					<-p.Context().Done()
				})
			}
		}
		wg.Wait()
		time.Sleep(time.Second)
		synctest.Wait()
		for _, session := range sessions {
			if n := len(session.pushed) + len(session.waiting) + len(session.offers); n > 0 {
				t.Errorf("%d streams are left at the %v", n, session.Role())
			}
		}
		if n := len(client.streams) + len(client.handler.streams); n > 0 {
			t.Errorf("%d streams are left at the client", n)
		}
	})
}

// Everything that was written arrives if a server waits for the stream's context before it goes.
func TestPushedGracefulClose(t *testing.T) {
	inPushed(t, 3<<20, 0, 1, nil, func(w *world, s *AggregateReader, ends []*PushedStream) {
		const half = 3 << 19
		var wg sync.WaitGroup
		for i, p := range ends {
			wg.Go(func() {
				if err := push(p.session, p.StreamID(), int64(i*half), w.data[i*half:(i+1)*half]); err != nil {
					t.Error(err)
				}
				<-p.Context().Done()
				p.session.CloseWithError(0, "")
			})
		}
		wg.Wait()
		w.wantRead(s, len(w.data)) // after all servers have gone
	})
}

// The deadline also holds if QUIC's flow control, and not the window, blocks a Write.
func TestPushedWriteDeadlineOfQUIC(t *testing.T) {
	inWorldOf(t, 32<<20, 0, lan, func(w *world) {
		t := w.t
		client, server := w.dial(nil)
		s := w.offerPushed(client, server, int64(len(w.data)), 0, nil)
		hold, copied := make(chan struct{}), make(chan error, 1)
		go func() { // a consumer that takes nothing
			_, err := s.CopyTo(context.Background(), writerFunc(func(p []byte, _ int64) (int, error) { <-hold; return len(p), nil }), nil)
			copied <- err
		}()
		p, err := server.AcceptPushedStream(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		x := server.OpenSecondaryStream()
		start := time.Now()
		x.SetWriteDeadline(start.Add(10 * time.Second))
		if err := x.SetKwikStreamMapping(p.StreamID(), 0); err != nil {
			t.Fatal(err)
		}
		n, err := x.Write(w.data)
		if !errors.Is(err, os.ErrDeadlineExceeded) || time.Since(start) != 10*time.Second || n == len(w.data) {
			t.Errorf("%d, %v after %v", n, err, time.Since(start))
		}
		x.SetWriteDeadline(time.Time{})
		if _, err := x.Write([]byte("x")); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("half a frame was sent, and the next Write says %v", err)
		}
		if err := x.Close(); err == nil {
			t.Error("Close says nothing")
		}
		close(hold)
		s.Close()
		if err := <-copied; err != errStreamClosed {
			t.Error(err)
		}
	})
}
