package kwik

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"testing"
	"time"

	"kwikcp/internal/simnet"
)

// connections returns the number of connected paths to a server.
func connections(w *world, c *ClientSession, id ServerID) int { return w.path(c, id).connections }

// With ConnectionsPerServer every server gets that number of paths. All paths are used, and
// the application sees servers only.
func TestConnectionsPerServer(t *testing.T) {
	inWorldOf(t, 24<<20, 1, slow, func(w *world) {
		client, server := w.dial(&ClientConfig{ConnectionsPerServer: 3})
		w.wantState(client, "s1", PathActive)
		c := w.copy(w.offer(client, server, unit, nil))
		w.within(time.Second, func() bool { return connections(w, client, "s1") == 3 && connections(w, client, primaryID) == 3 })
		c.wantAll()
		if n := len(client.Servers()); n != 2 {
			w.t.Errorf("%d servers are shown", n)
		}
		for _, p := range client.Servers() {
			if p.serverSent == 0 || p.serverWindow == 0 {
				w.t.Errorf("nothing was reported: %+v", p)
			}
		}
		st := c.s.Stats()
		if len(st.Sources) != 2 || st.Sources[0].Bytes+st.Sources[1].Bytes != st.Size {
			w.t.Errorf("%+v", st)
		}
		used := 0
		client.mu.Lock()
		for _, r := range client.paths {
			if client.handler.stats(r.id).CountedBytes > 0 {
				used++
			}
		}
		client.mu.Unlock()
		if used != 6 {
			w.t.Errorf("%d paths were used", used)
		}
	})
}

// A path that loses packets without a queue gets further paths, and the stream ends sooner. A
// path without loss gets none.
func TestLossyPathsGetCompany(t *testing.T) {
	if raceEnabled {
		t.Skip("takes half a minute under the race detector, and has nothing that other tests of several paths do not have")
	}
	const size = 24 << 20
	took := func(t *testing.T, loss float64, conf *ClientConfig) (time.Duration, int) {
		var took time.Duration
		most := 0
		link := simnet.Link{Latency: 10 * time.Millisecond, Rate: 200e6, Loss: loss}
		inWorldOf(t, size, 1, link, func(w *world) {
			client, server := w.dial(conf)
			w.wantState(client, "s1", PathActive)
			start := time.Now()
			c := w.copy(w.offer(client, server, unit, nil))
			for done := false; !done; {
				select {
				case <-c.done:
					done = true
				case <-time.After(50 * time.Millisecond):
				}
				most = max(most, connections(w, client, "s1"), connections(w, client, primaryID))
			}
			c.wantAll()
			took = time.Since(start)
		})
		return took, most
	}
	t.Run("lossy", func(t *testing.T) {
		alone, n := took(t, 0.002, &ClientConfig{ConnectionsPerServer: 1})
		if n != 1 {
			t.Errorf("%d paths to one server, want one", n)
		}
		auto, n := took(t, 0.002, nil)
		if n != autoConnections || auto > alone*2/3 {
			t.Errorf("%v with up to %d paths to a server, %v with one", auto, n, alone)
		}
	})
	t.Run("clean", func(t *testing.T) {
		if _, n := took(t, 0, nil); n != 1 {
			t.Errorf("%d paths to one server", n)
		}
	})
}

// If bytes of one path fail their proof, all paths to that server are closed, and its bytes
// are fetched from another server.
func TestBanConcernsTheServer(t *testing.T) {
	inWorldOf(t, 8<<20, 0, slow, func(w *world) {
		w.secondaries = append(w.secondaries, w.join(corrupt(func(b []byte) {
			for i := range b {
				b[i] ^= 1
			}
		})))
		client, server := w.dial(&ClientConfig{ConnectionsPerServer: 2})
		w.wantState(client, "s1", PathActive)
		s := w.offer(client, server, unit, w.prove)
		c := w.copy(s)
		c.wantAll()
		if st := w.path(client, "s1"); st.State != PathBanned || st.connections != 0 {
			w.t.Errorf("%+v", st)
		}
	})
}

// A server that is banned while its keeper waits to dial is not dialed again and stays banned.
func TestBannedIsNotDialled(t *testing.T) {
	inWorldOf(t, unit, 1, lan, func(w *world) {
		dials := 0
		var client *ClientSession
		conf := &ClientConfig{ListenPacket: func(ctx context.Context, _ netip.AddrPort) (net.PacketConn, error) {
			dials++
			return nil, errors.New("no socket")
		}}
		client, _ = w.dial(conf)
		w.wantState(client, "s1", PathClosed) // in back-off
		before := dials
		client.ban("s1", firstAggregateStreamID, 0, 1, errors.New("refuted"))
		if st := w.path(client, "s1"); st.State != PathBanned {
			w.t.Fatal(st.State)
		}
		time.Sleep(time.Minute)
		if st := w.path(client, "s1"); dials != before || st.State != PathBanned {
			w.t.Errorf("dialled %d times after the ban; state %v, reason %v", dials-before, st.State, st.Err)
		}
	})
}

// A server pushes each byte once, whatever the number of paths to it.
func TestPushedOnOnePath(t *testing.T) {
	inWorldOf(t, 4<<20, 1, lan, func(w *world) {
		client, server := w.dial(&ClientConfig{ConnectionsPerServer: 2})
		w.wantState(client, "s1", PathActive)
		o, err := server.OpenAggregateStream(AggregateStreamSpec{Size: int64(len(w.data)), Alignment: unit, Descriptor: []byte("data"), Pushed: true})
		if err != nil {
			w.t.Fatal(err)
		}
		s := w.accept(client, o.StreamID(), nil)
		c := w.copy(s)
		n := 0
		push := func(session *ServerSession) {
			p, err := session.AcceptPushedStream(w.t.Context())
			if err != nil {
				return
			}
			n++
			x := session.OpenSecondaryStream()
			defer x.Close()
			if x.SetKwikStreamMapping(p.StreamID(), 0) == nil {
				x.Write(w.data[:2<<20]) // this server's half
			}
		}
		w.wg.Go(func() {
			for {
				select {
				case session := <-w.secondaries[0].sessions:
					w.wg.Go(func() { push(session) })
				case <-client.ctx.Done():
					return
				}
			}
		})
		time.Sleep(3 * time.Second)
		st := s.Stats()
		if n != 1 || st.Wasted != 0 {
			w.t.Errorf("the secondary's application pushed its part %d times; wasted %d, conflicts %d", n, st.Wasted, st.Conflicts)
		}
		s.Close()
		<-c.done
		client.CloseWithError(0, "")
	})
}

// With many paths, no honest one is closed because of the streams of the others.
func TestMappingsOfManyPaths(t *testing.T) {
	link := simnet.Link{Latency: 20 * time.Millisecond, Rate: 20e6}
	size, connections := 24<<20, 16
	if raceEnabled {
		size, connections = size/4, connections/2 // the race detector is slow
	}
	inWorldOf(t, size, 5, link, func(w *world) {
		client, server := w.dial(&ClientConfig{ConnectionsPerServer: connections, SecondaryStreams: SecondaryStreamConfig{MaxStreamsPerPath: 1}})
		for _, m := range w.primary.memberList() {
			w.wantState(client, m.ID, PathActive)
		}
		c := w.copy(w.offer(client, server, unit, nil))
		most := 0
		bad := map[string]int{}
		for done := false; !done; {
			select {
			case <-c.done:
				done = true
			case <-time.After(5 * time.Millisecond):
			}
			most = max(most, len(client.Mappings()))
			client.mu.Lock()
			for _, r := range client.paths {
				if errors.Is(r.reason, ErrSecondaryStreamOverflow) {
					bad[r.reason.Error()]++
				}
			}
			client.mu.Unlock()
		}
		w.t.Logf("most mappings %d of %d; %v", most, client.handler.mappings.limit, bad)
		if len(bad) > 0 {
			w.t.Error("honest paths were closed for an overflow")
		}
	})
}

// A server that has gone owes nothing, so it is not stalled.
func TestGoneIsNotStalled(t *testing.T) {
	inWorld(t, 1, lan, func(w *world) {
		client, server := w.dial(nil)
		w.wantState(client, "s1", PathActive)
		c := w.copy(w.offer(client, server, unit, nil))
		c.s.agg.detach("s1", errors.New("it ended"))
		for _, src := range c.s.Stats().Sources {
			if src.Server == "s1" && (src.Stalled || src.Gone == nil) {
				w.t.Errorf("%+v", src)
			}
		}
		c.wantAll()
	})
}
