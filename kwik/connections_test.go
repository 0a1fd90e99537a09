package kwik

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"slices"
	"testing"
	"time"

	"kwikcp/internal/simnet"
)

// TestWidthPolicy plays reports to the policy: of each path once in reportInterval, while the server delivers at a rate that follows from
// the number of its paths.
func TestWidthPolicy(t *testing.T) {
	const rtt = 40 * time.Millisecond
	type scene struct {
		fixed int
		rate  func(paths int) float64               // bytes a second
		next  func(at time.Duration, r *pathReport) // what a report says
	}
	each := func(n int) float64 { return 2e6 * float64(n) }
	shared := func(n int) float64 { return 2e6 }
	lossy := func(_ time.Duration, r *pathReport) { r.lost++ }
	play := func(s scene, seconds int) (widths []int) {
		w := newWidthPolicy(s.fixed)
		now := time.Unix(1e9, 0)
		last := make(map[PathID]pathReport)
		received := 0.0
		for at := time.Duration(0); at < time.Duration(seconds)*time.Second; at += reportInterval {
			paths := w.width
			received += s.rate(paths) * reportInterval.Seconds()
			for n := range paths {
				id := ServerID("s1").path(n + 1)
				r := last[id]
				r.sent, r.rtt, r.minRTT = r.sent+1000, rtt, rtt
				s.next(at, &r)
				last[id] = r
				w.report(id, r, int64(received), now.Add(at))
			}
			for id := range last { // paths that are given up
				n := 1
				for ; id != ServerID("s1").path(n); n++ {
				}
				if n > w.width {
					w.forget(id)
					delete(last, id)
				}
			}
			if len(widths) == 0 || widths[len(widths)-1] != w.width {
				widths = append(widths, w.width)
			}
		}
		return widths
	}
	for name, tt := range map[string]struct {
		scene
		seconds int
		want    []int
	}{
		"loss without a queue":        {scene{0, each, lossy}, 20, []int{1, 2, 4}},
		"no loss":                     {scene{0, each, func(time.Duration, *pathReport) {}}, 20, []int{1}},
		"loss behind a queue":         {scene{0, each, func(_ time.Duration, r *pathReport) { r.lost++; r.rtt = 2 * rtt }}, 20, []int{1}},
		"the queue just short enough": {scene{0, each, func(_ time.Duration, r *pathReport) { r.lost++; r.rtt = rtt * 5 / 4 }}, 20, []int{1, 2, 4}},
		"the queue just too long":     {scene{0, each, func(_ time.Duration, r *pathReport) { r.lost++; r.rtt = rtt*5/4 + 1 }}, 20, []int{1}},
		"a short way": {scene{0, each, func(_ time.Duration, r *pathReport) {
			r.lost++
			r.rtt, r.minRTT = 1999*time.Microsecond, 1999*time.Microsecond
		}}, 20, []int{1}},
		"two are no faster":           {scene{0, shared, lossy}, 6, []int{1, 2, 1}},
		"two are no faster, for long": {scene{0, shared, lossy}, 18, []int{1, 2, 1, 2, 1}},
		"four are no faster than two": {scene{0, func(n int) float64 { return 2e6 * float64(min(n, 2)) }, lossy}, 9, []int{1, 2, 4, 2}},
		"one loss long ago":           {scene{0, each, func(at time.Duration, r *pathReport) { r.lost = uint64(min(at/reportInterval, 1)) }}, 20, []int{1, 2}},
		"nothing comes":               {scene{0, func(int) float64 { return 0 }, lossy}, 20, []int{1}},
		"a fixed number":              {scene{3, each, lossy}, 20, []int{3}},
		"one, fixed":                  {scene{1, each, lossy}, 20, []int{1}},
	} {
		if got := play(tt.scene, tt.seconds); !slices.Equal(got, tt.want) {
			t.Errorf("%s: %v, want %v", name, got, tt.want)
		}
	}
}

// A server that reports all the time is heard as often as others, and costs no more.
func TestReportsAreHeardNowAndThen(t *testing.T) {
	w := newWidthPolicy(0)
	now := time.Unix(1e9, 0)
	for i := range 100_000 {
		w.report("s1", pathReport{sent: uint64(i), lost: uint64(i), rtt: time.Second, minRTT: time.Second}, int64(i), now.Add(time.Duration(i)*time.Microsecond))
	}
	if len(w.samples) != 1 {
		t.Errorf("%d samples of a tenth of a second", len(w.samples))
	}
}

// connections returns how many paths to a server are connected.
func connections(w *world, c *ClientSession, id ServerID) int { return w.path(c, id).Connections }

// A number of paths that was asked for is there for every server, the application knows servers only, and all paths are used.
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
			if p.ServerSent == 0 || p.ServerWindow == 0 {
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

// A path that loses packets without being full gets company, and the stream is sooner there; a clean path does not.
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
			t.Errorf("%d paths to one server, one was asked for", n)
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

// When one path's bytes fail their proof all paths to that server are given up, and its bytes are fetched elsewhere.
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
		if st := w.path(client, "s1"); st.State != PathBanned || st.Connections != 0 {
			w.t.Errorf("%+v", st)
		}
	})
}

// A server that was banned while it was waited for is not dialled again, and stays banned.
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
		client.ban("s1", FirstAggregateStreamID, 0, 1, errors.New("refuted"))
		if st := w.path(client, "s1"); st.State != PathBanned {
			w.t.Fatal(st.State)
		}
		time.Sleep(time.Minute)
		if st := w.path(client, "s1"); dials != before || st.State != PathBanned {
			w.t.Errorf("dialled %d times after the ban; state %v, reason %v", dials-before, st.State, st.Err)
		}
	})
}

// What a server pushes it pushes once, however many paths there are to it.
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
			w.t.Errorf("the secondary's application was asked for its part %d times; wasted %d, conflicts %d", n, st.Wasted, st.Conflicts)
		}
		s.Close()
		<-c.done
		client.CloseWithError(0, "")
	})
}

// However many paths there are, no honest one is closed because of the others' streams.
func TestMappingsOfManyPaths(t *testing.T) {
	link := simnet.Link{Latency: 20 * time.Millisecond, Rate: 20e6}
	inWorldOf(t, 24<<20, 5, link, func(w *world) {
		client, server := w.dial(&ClientConfig{ConnectionsPerServer: 16, SecondaryStreams: SecondaryStreamConfig{MaxStreamsPerPath: 1}})
		for _, m := range w.primary.Members() {
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

// A server that is gone owes nothing, so it is not stalled.
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
