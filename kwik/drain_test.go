package kwik

import (
	"bytes"
	"context"
	"errors"
	"io"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/quic-go/quic-go"
)

// shutDown begins to drain a server and returns a channel that is closed when Shutdown
// returns.
func (w *world) shutDown(s *testServer, patience time.Duration) <-chan struct{} {
	over := make(chan struct{})
	if s.member != nil {
		s.member.Close()
	}
	w.wg.Go(func() {
		defer close(over)
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		s.Shutdown(ctx, "for a test")
	})
	return over
}

// A draining server finishes its grant. Nothing is fetched twice, no read waits, and the
// server is gone long before the end of the stream.
func TestDrain(t *testing.T) {
	for _, who := range []string{"secondary", "primary"} {
		t.Run(who, func(t *testing.T) {
			inWorldOf(t, 12<<20, 2, slow, func(w *world) {
				client, server := w.dial(nil)
				w.wantState(client, "s1", PathActive)
				w.wantState(client, "s2", PathActive)
				c := w.copy(w.offer(client, server, unit, nil))
				leaving, id := w.secondaries[0], ServerID("s1")
				if who == "primary" {
					leaving, id = w.primary, primaryID
				}
				w.within(time.Second, func() bool { return delivered(c.s, id) > 0 })
				begun := time.Now()
				select {
				case <-w.shutDown(leaving, time.Minute):
				case <-c.done:
					w.t.Fatal("the stream ended first")
				}
				if took := time.Since(begun); took > 2*time.Second {
					w.t.Errorf("it left after %v", took)
				}
				c.wantAll()
				if st := c.s.Stats(); st.Wasted != 0 {
					w.t.Errorf("%d bytes were discarded", st.Wasted)
				}
			})
		})
	}
}

// A draining server that is the only one serves the stream to its end, within its drain time-
// out.
func TestDrainWhereNobodyElseIs(t *testing.T) {
	inWorldOf(t, 4<<20, 0, slow, func(w *world) {
		client, server := w.dial(nil)
		c := w.copy(w.offer(client, server, unit, nil))
		w.within(time.Second, func() bool { return delivered(c.s, primaryID) > 0 })
		over := w.shutDown(w.primary, time.Minute)
		c.wantAll()
		select {
		case <-over:
		case <-time.After(time.Second):
			w.t.Error("the server stays when its client has all")
		}
	})
	inWorldOf(t, 12<<20, 0, slow, func(w *world) {
		client, server := w.dial(&ClientConfig{SourceTimeout: 2 * time.Second})
		c := w.copy(w.offer(client, server, unit, nil))
		w.within(time.Second, func() bool { return delivered(c.s, primaryID) > 0 })
		begun := time.Now()
		<-w.shutDown(w.primary, 500*time.Millisecond)
		if took := time.Since(begun); took < 500*time.Millisecond || took > 700*time.Millisecond {
			w.t.Errorf("its patience lasted %v", took)
		}
		<-c.done
		wantError(w.t, c.err, ErrAggregationTimeout)
	})
}

// A draining server takes no new session. Without clients it is gone at once, and with an idle
// client when its drain time-out ends.
func TestDrainAndNewcomers(t *testing.T) {
	inWorld(t, 1, lan, func(w *world) {
		begun := time.Now()
		<-w.shutDown(w.secondaries[0], time.Minute)
		if took := time.Since(begun); took > 100*time.Millisecond {
			w.t.Errorf("it left after %v", took)
		}
		w.dial(nil)
		over := w.shutDown(w.primary, 3*time.Second)
		time.Sleep(100 * time.Millisecond)
		if _, err := w.tryDial(w.primary.addr, w.primary.pin(), nil); err == nil {
			w.t.Error("it takes new clients")
		}
		select {
		case <-over:
			w.t.Error("it left its client")
		default:
		}
		<-over
	})
}

// Every server is restarted again and again, one after the other, while clients start and end.
// No stream of a client is lost.
func TestRollingRestart(t *testing.T) {
	inWorldOf(t, 3<<20, 2, slow, func(w *world) {
		var wg sync.WaitGroup
		stop := make(chan struct{})
		var fetched atomic.Int64
		for range 2 {
			wg.Go(func() {
				for {
					select {
					case <-stop:
						return
					default:
					}
					client, err := w.tryDial(w.primary.addr, w.primary.pin(), nil)
					if err != nil { // the primary is being restarted
						time.Sleep(100 * time.Millisecond)
						continue
					}
					server := <-w.primary.sessions
					o, err := server.OpenAggregateStream(AggregateStreamSpec{Size: int64(len(w.data)), Alignment: unit, Descriptor: []byte("data")})
					if err != nil {
						client.CloseWithError(0, "")
						continue
					}
					offer, err := client.AcceptAggregate(w.t.Context(), o.StreamID())
					if err != nil {
						client.CloseWithError(0, "")
						continue
					}
					s, err := offer.Open(nil)
					if err != nil {
						w.t.Fatal(err)
					}
					w.copy(s).wantAll()
					client.CloseWithError(0, "")
					fetched.Add(1)
				}
			})
		}
		for range 2 {
			for i := range w.secondaries {
				old := w.secondaries[i]
				<-w.shutDown(old, time.Minute)
				old.stop()
				w.secondaries[i] = w.join(restarted(old))
				time.Sleep(300 * time.Millisecond)
			}
		}
		close(stop)
		wg.Wait()
		if fetched.Load() < 4 {
			w.t.Errorf("%d streams only", fetched.Load())
		}
	})
}

// A primary that restarts during a stream is used again, although the new process does not
// know the session.
func TestPrimaryComesBack(t *testing.T) {
	reset := configured(func(c *ServerConfig) { c.StatelessResetKey = &quic.StatelessResetKey{1, 2, 3} })
	inWorldOf(t, 24<<20, 0, slow, func(w *world) {
		w.primary.stop()
		w.primary = w.serve(ServerRolePrimary, restarted(w.primary), reset)
		w.secondaries = append(w.secondaries, w.join())
		client, server := w.dial(nil)
		w.wantState(client, "s1", PathActive)
		c := w.copy(w.offer(client, server, unit, nil))
		w.within(time.Second, func() bool { return delivered(c.s, primaryID) > 0 })
		old := w.primary
		old.kill()
		w.primary = w.serve(ServerRolePrimary, restarted(old), reset)
		begun, before := time.Now(), delivered(c.s, primaryID)
		w.within(10*time.Second, func() bool { return delivered(c.s, primaryID) > before+unit })
		if took := time.Since(begun); took > 4*time.Second {
			w.t.Errorf("it is used again after %v", took)
		}
		if !errors.Is(client.Context().Err(), context.Canceled) {
			w.t.Error("the public session continued")
		}
		if _, err := client.OpenStream(); err == nil {
			w.t.Error("a plain stream to a primary that knows nothing of the session")
		}
		c.wantAll()
	})
}

// If the primary is the only server and restarts, the stream waits for it.
func TestPrimaryComesBackAlone(t *testing.T) {
	reset := configured(func(c *ServerConfig) { c.StatelessResetKey = &quic.StatelessResetKey{1, 2, 3} })
	inWorldOf(t, 4<<20, 0, slow, func(w *world) {
		w.primary.stop()
		w.primary = w.serve(ServerRolePrimary, restarted(w.primary), reset)
		client, server := w.dial(nil)
		c := w.copy(w.offer(client, server, unit, nil))
		w.within(time.Second, func() bool { return delivered(c.s, primaryID) > 0 })
		old := w.primary
		old.kill()
		time.Sleep(time.Second)
		w.primary = w.serve(ServerRolePrimary, restarted(old), reset)
		c.wantAll()
	})
}

// A draining server handles what it received before, and serves the streams that it offered.
func TestDrainAndPlainStreams(t *testing.T) {
	inWorldOf(t, 1<<20, 0, slow, func(w *world) {
		client, server := w.dial(nil)
		w.copy(w.offer(client, server, unit, nil)).wantAll() // served
		time.Sleep(time.Second)
		cs, err := client.OpenStreamSync(w.t.Context())
		if err != nil {
			w.t.Fatal(err)
		}
		cs.Write([]byte("request"))
		cs.Close()
		ss, err := server.AcceptStream(w.t.Context())
		if err != nil {
			w.t.Fatal(err)
		}
		io.ReadAll(ss)
		over := w.shutDown(w.primary, time.Minute)
		time.Sleep(100 * time.Millisecond)
		answer := bytes.Repeat([]byte("x"), 100_000)
		if _, err := ss.Write(answer); err != nil {
			w.t.Fatal(err)
		}
		if err := ss.Close(); err != nil {
			w.t.Fatal(err)
		}
		got, err := io.ReadAll(cs)
		if err != nil || len(got) != len(answer) {
			w.t.Errorf("the client read %d of %d bytes: %v", len(got), len(answer), err)
		}
		<-over
	})
}

func TestDrainAndOffers(t *testing.T) {
	inWorldOf(t, 1<<20, 0, slow, func(w *world) {
		client, server := w.dial(nil)
		w.copy(w.offer(client, server, unit, nil)).wantAll() // served
		s := w.offer(client, server, unit, nil)
		time.Sleep(time.Second)
		w.shutDown(w.primary, time.Minute)
		time.Sleep(100 * time.Millisecond)
		c := w.copy(s)
		<-c.done
		if c.err != nil {
			w.t.Errorf("a stream that was offered before GoAway: %v", c.err)
		}
	})
}
