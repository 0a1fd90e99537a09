package kwik

import (
	"io"
	"testing"
	"time"

	"kwikcp/internal/simnet"
)

// TestBlackHole checks when a connection moves, and when it does not.
func TestBlackHole(t *testing.T) {
	const tick = watchInterval
	type step struct {
		received, size, payload int // packets of a size, and payload, in a tick
		idle                    bool
	}
	long := step{received: 10, size: 1400, payload: 13000}
	short := step{received: 10, size: 1200, payload: 11000}
	acks := step{received: 1, size: 60}
	silence := step{}
	repeat := func(n int, s step) (all []step) {
		for range n {
			all = append(all, s)
		}
		return all
	}
	join := func(parts ...[]step) (all []step) {
		for _, p := range parts {
			all = append(all, p...)
		}
		return all
	}
	longest := step{received: 1, size: 1201, payload: 1}
	idleSilence := step{idle: true}
	once := []step{short}
	idle := step{received: 1, size: 60, idle: true}
	for name, tt := range map[string]struct {
		rtt   time.Duration
		steps []step
		want  int // the step in which it moves; -1 for never
	}{
		"payload ends":                 {0, join(repeat(4, long), repeat(10, acks)), 7},
		"and nothing arrives":          {0, join(repeat(4, long), repeat(10, silence)), 7},
		"only short packets before":    {0, join(repeat(4, short), repeat(20, acks)), -1},
		"one long packet is enough":    {0, join(repeat(1, longest), repeat(9, acks)), 4},
		"payload goes on":              {0, repeat(50, long), -1},
		"nothing is waited for":        {0, join(repeat(4, long), repeat(50, idle)), -1},
		"waited for after a pause":     {0, join(repeat(4, long), repeat(50, idle), repeat(9, acks)), 55},
		"silence that is no outage":    {0, join(repeat(4, short), repeat(4, silence), repeat(20, acks)), -1},
		"outage":                       {0, join(repeat(4, short), repeat(5, silence), repeat(20, acks)), 9},
		"outage, then payload":         {0, join(repeat(4, short), repeat(6, silence), repeat(20, short)), -1},
		"outage, payload ends later":   {0, join(repeat(4, short), repeat(6, silence), once, repeat(9, acks)), -1},
		"outage without waiting":       {0, join(repeat(4, short), repeat(9, idleSilence), repeat(20, idle)), -1},
		"long round trips take longer": {time.Second, join(repeat(4, long), repeat(20, acks)), 15},
	} {
		var b blackHole
		var total traffic
		got := -1
		for i, s := range tt.steps {
			total.packetsReceived += uint64(s.received)
			total.bytesReceived += uint64(s.received * s.size)
			total.payload += int64(s.payload)
			if b.observe(total, !s.idle, tt.rtt, time.Unix(1000, 0).Add(time.Duration(i)*tick)) {
				got = i
				break
			}
		}
		if got != tt.want {
			t.Errorf("%s: the connection moves in step %d, want %d", name, got, tt.want)
		}
	}
}

// TestBlackHoleMovesAgain checks the time between moves, and that short packets alone cause none.
func TestBlackHoleMovesAgain(t *testing.T) {
	start := time.Unix(1000, 0)
	var b blackHole
	at := func(s float64) time.Time { return start.Add(time.Duration(s * float64(time.Second))) }
	n := traffic{packetsReceived: 1, bytesReceived: 1400, payload: 1}
	steps := []struct {
		second     float64
		long, want bool
	}{{0, true, false}, {3, false, true}, {4, false, false}, {7.5, false, false}, {8, false, true}}
	for _, s := range steps {
		if s.long {
			n.packetsReceived, n.bytesReceived, n.payload = n.packetsReceived+1, n.bytesReceived+1400, n.payload+1
		}
		if got := b.observe(n, true, 0, at(s.second)); got != s.want {
			t.Errorf("after %v s: move is %v", s.second, got)
		}
	}
	b.moved(false)
	if b.observe(n, true, 0, at(60)) {
		t.Error("a move for no long packet since the last one")
	}
	b.moved(true)
	if !b.observe(n, true, 0, at(70)) {
		t.Error("silence on the spare socket is not left")
	}
}

// inDiscoveringWorld is inWorldOf with path MTU discovery.
func inDiscoveringWorld(t *testing.T, size, n int, link simnet.Link, f func(w *world)) {
	t.Helper()
	inWorldOf(t, size, 0, link, func(w *world) {
		w.net.Discover()
		w.primary.stop()
		w.primary = w.serve(ServerRolePrimary, restarted(w.primary), withResets)
		for range n {
			w.secondaries = append(w.secondaries, w.join())
		}
		f(w)
	})
}

// setMTU changes the MTU of a server's link, as the largest UDP payload.
func (w *world) setMTU(s *testServer, mtu int) {
	w.t.Helper()
	link := w.link
	link.MTU = mtu
	if err := w.net.SetLink(s.addr.Addr(), link); err != nil {
		w.t.Fatal(err)
	}
}

// TestNarrowPath checks that a client connects over a path with the least MTU of IPv6.
func TestNarrowPath(t *testing.T) {
	link := simnet.Link{Latency: 5 * time.Millisecond, Rate: 50e6, MTU: 1232}
	inDiscoveringWorld(t, 2<<20, 1, link, func(w *world) {
		client, server := w.dial(nil)
		w.wantState(client, "s1", PathActive)
		c := w.copy(w.offer(client, server, unit, nil))
		c.wantAll()
	})
}

// TestFallingMTU checks that a stream continues soon after the MTU of a path has fallen, again and
// again, whether there are other servers or not.
func TestFallingMTU(t *testing.T) {
	link := simnet.Link{Latency: 10 * time.Millisecond, Rate: 5e6}
	for name, tt := range map[string]struct {
		secondaries int
		falls       []int
	}{
		"alone":          {0, []int{1232}},
		"again":          {0, []int{1400, 1300, 1232}},
		"with another":   {1, []int{1232}},
		"there and back": {0, []int{1232, 1472, 1232}},
	} {
		t.Run(name, func(t *testing.T) {
			inDiscoveringWorld(t, 20<<20, tt.secondaries, link, func(w *world) {
				client, server := w.dial(nil)
				for _, s := range w.secondaries {
					w.wantState(client, s.member.ID(), PathActive)
				}
				c := w.copy(w.offer(client, server, unit, w.prove))
				time.Sleep(3 * time.Second) // the MTU is discovered
				if size := w.path(client, primaryID).Wire; size.BytesReceived < 1300*size.PacketsReceived {
					w.t.Fatalf("the MTU was not discovered: %+v", size)
				}
				for _, mtu := range tt.falls {
					w.setMTU(w.primary, mtu)
					time.Sleep(200 * time.Millisecond) // until the packets on their way have arrived
					before := delivered(c.s, primaryID)
					took := w.within(5*time.Second, func() bool { return delivered(c.s, primaryID) > before+unit })
					w.t.Logf("%d bytes: the primary delivers again after %v", mtu, took)
					time.Sleep(2 * time.Second)
				}
				if tt.secondaries > 0 {
					c.wantAll()
				}
			})
		})
	}
}

// TestFallingMTUOfRequest checks that a request that is longer than a packet, and its answer,
// arrive over a path whose MTU fell while it was idle.
func TestFallingMTUOfRequest(t *testing.T) {
	inDiscoveringWorld(t, 1<<20, 0, simnet.Link{Latency: 10 * time.Millisecond, Rate: 8e6}, func(w *world) {
		client, server := w.dial(nil)
		c := w.copy(w.offer(client, server, unit, nil))
		c.wantAll()
		w.wg.Go(func() {
			for {
				s, err := server.AcceptStream(server.Context())
				if err != nil {
					return
				}
				io.Copy(s, s)
				s.Close()
			}
		})
		ask := func(n int) time.Duration {
			begun := time.Now()
			s, err := client.OpenStreamSync(w.t.Context())
			if err != nil {
				w.t.Fatal(err)
			}
			s.Write(make([]byte, n))
			s.Close()
			if got, err := io.ReadAll(s); err != nil || len(got) != n {
				w.t.Fatalf("%d bytes of %d, %v", len(got), n, err)
			}
			return time.Since(begun)
		}
		for range 20 { // the server discovers the MTU
			ask(100 << 10)
		}
		w.setMTU(w.primary, 1232)
		if took := ask(100 << 10); took > 5*time.Second {
			w.t.Errorf("the answer took %v", took)
		}
	})
}

// TestRestartAfterMove checks that a client notices the restart of a server to which its connection
// has moved.
func TestRestartAfterMove(t *testing.T) {
	inDiscoveringWorld(t, 6<<20, 0, simnet.Link{Latency: 10 * time.Millisecond, Rate: 2e6}, func(w *world) {
		client, server := w.dial(&ClientConfig{SourceTimeout: time.Minute})
		c := w.copy(w.offer(client, server, unit, w.prove))
		time.Sleep(2 * time.Second)
		w.setMTU(w.primary, 1232)
		time.Sleep(200 * time.Millisecond)
		before := delivered(c.s, primaryID)
		w.within(5*time.Second, func() bool { return delivered(c.s, primaryID) > before+unit })
		old := w.primary
		old.kill()
		time.Sleep(200 * time.Millisecond)
		w.primary = w.serve(ServerRolePrimary, restarted(old), withResets)
		before = delivered(c.s, primaryID)
		took := w.within(10*time.Second, func() bool { return delivered(c.s, primaryID) > before+unit })
		w.t.Logf("the restarted primary delivers after %v", took)
	})
}
