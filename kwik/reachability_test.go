package kwik

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"sync/atomic"
	"testing"
	"time"

	"kwikcp/internal/simnet"
	kwikpb "kwikcp/kwik/proto"
)

func testNetwork(i int) netip.Prefix {
	return netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 1, byte(i >> 8), byte(i)}), 32)
}

// offersOf returns to how many of 240 sessions of a network a secondary is offered.
func offersOf(r *reachRecord, network netip.Prefix, now time.Time) (n int) {
	for i := range 240 {
		if r.mayOffer(network, SessionID{byte(i)}, now) {
			n++
		}
	}
	return n
}

func TestReachRecord(t *testing.T) {
	start := time.Unix(1e9, 0)
	a, b, c := testNetwork(1), testNetwork(2), testNetwork(3)
	var r reachRecord
	want := func(what string, network netip.Prefix, at time.Duration, n int) {
		t.Helper()
		if got := offersOf(&r, network, start.Add(at)); got != n {
			t.Errorf("%s: offered to %d of 240 sessions, want %d", what, got, n)
		}
	}
	want("without reports", a, 0, 240)
	if !r.addUnreached(a, start) {
		t.Error("no notice of the first report")
	}
	want("its own network", a, time.Minute, 30)
	want("another network", b, time.Minute, 240)
	want("after the pause", a, unreachedPause, 240)
	if r.addUnreached(a, start.Add(30*time.Second)) {
		t.Error("two notices in a minute")
	}
	want("after a second report", a, unreachedPause+time.Minute, 30)
	want("after twice the pause", a, 2*unreachedPause+30*time.Second, 240)
	for range 100 {
		r.addUnreached(a, start.Add(time.Hour))
	}
	want("after many reports", a, time.Hour+maxUnreachedPause-1, 30)
	want("later", a, time.Hour+maxUnreachedPause, 240)
	r.addReached(a, start.Add(2*time.Hour))
	want("once reached", a, 2*time.Hour, 240)
	r.addUnreached(a, start.Add(2*time.Hour+time.Minute))
	want("reached by another client of the network", a, 2*time.Hour+2*time.Minute, 240)

	for i := range manyUnreached {
		r.addUnreached(testNetwork(10+i), start.Add(2*time.Hour))
	}
	want("many networks lie, one reaches it", b, 2*time.Hour+time.Minute, 240)
	r = reachRecord{}
	for i := range manyUnreached {
		r.addUnreached(testNetwork(10+i), start)
	}
	want("many networks do not reach it", b, time.Minute, 60)
	r.addReached(c, start.Add(2*time.Minute))
	want("one reaches it", b, 3*time.Minute, 240)
	want("not reached for an hour", b, 2*time.Minute+reachedLife, 240) // the pauses are over
}

// TestReachRecordIsBounded checks that many networks do not fill the memory.
func TestReachRecordIsBounded(t *testing.T) {
	var r reachRecord
	now := time.Unix(1e9, 0)
	for i := range 10000 {
		r.addUnreached(testNetwork(i), now)
		r.addReached(testNetwork(10000+i), now)
	}
	if len(r.reached) > maxReachNetworks || len(r.unreached) > maxReachNetworks {
		t.Errorf("%d and %d networks", len(r.reached), len(r.unreached))
	}
	all := make(reachability)
	for i := range 1000 {
		m := &member{addr: netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)}), 1)}
		all.of(m, 128, func(memberKey) bool { return false }).addReached(testNetwork(1), now)
	}
	if len(all) > 128 {
		t.Errorf("%d records", len(all))
	}
}

// A viewer dials from one address, and does not reach some servers.
type viewer struct {
	w    *world
	addr netip.Addr
}

func (w *world) newViewer(unreachable ...*testServer) *viewer {
	w.t.Helper()
	socket, at := w.listen()
	socket.Close()
	for _, s := range unreachable {
		w.net.Partition(at.Addr(), s.addr.Addr())
	}
	return &viewer{w, at.Addr()}
}

func (v *viewer) socket(context.Context, netip.AddrPort) (net.PacketConn, error) {
	return v.w.net.Listen(netip.AddrPortFrom(v.addr, 0), v.w.link)
}

// dial connects to the primary.
func (v *viewer) dial(conf ClientConfig) (*ClientSession, *ServerSession) {
	v.w.t.Helper()
	conf.ListenPacket = v.socket
	conf.LocalAddresses = func() []netip.Addr { return nil }
	client, err := DialAddr(v.w.t.Context(), v.w.primary.addr.String(), pinned(v.w.primary.pin()), &conf)
	if err != nil {
		v.w.t.Fatal(err)
	}
	v.w.clients = append(v.w.clients, client)
	return client, <-v.w.primary.sessions
}

// offers returns in how many of n sessions the client is offered a secondary.
func (v *viewer) offers(n int, id ServerID, conf ClientConfig) (offered int) {
	v.w.t.Helper()
	for range n {
		client, _ := v.dial(conf)
		time.Sleep(20 * v.w.link.Latency)
		if v.w.path(client, id).State >= 0 {
			offered++
		}
		client.CloseWithError(0, "")
	}
	return offered
}

// TestUnreachableSecondaryCostsNothing checks that a small stream takes as long with a secondary
// that does not answer as without.
func TestUnreachableSecondaryCostsNothing(t *testing.T) {
	for _, link := range []simnet.Link{
		{Latency: 100 * time.Microsecond, Rate: 1e9}, {Latency: 20 * time.Millisecond, Rate: 100e6},
	} {
		var took [2]time.Duration
		for _, size := range []int{64 << 10, 600 << 10, 1 << 20} {
			for secondaries := range took {
				inWorldOf(t, size, secondaries, link, func(w *world) {
					client, server := w.newViewer(w.secondaries...).dial(ClientConfig{})
					begun := time.Now()
					c := w.copy(w.offer(client, server, unit, nil))
					c.wantAll()
					client.CloseWithError(0, "")
					took[secondaries] = time.Since(begun)
				})
			}
			ratio := float64(took[1]) / float64(took[0])
			t.Logf("%v, %d KiB: %v without, %v with an unreachable secondary (%.2f)",
				link.Latency, size>>10, took[0], took[1], ratio)
			if ratio > 1.1 {
				t.Errorf("%v, %d KiB: %.2f times as long", link.Latency, size>>10, ratio)
			}
		}
	}
}

// TestUnreachableSecondaryIsOfferedLess checks that the primary hears of a secondary that a client
// does not reach. It offers it less to that client's network, but not to others.
func TestUnreachableSecondaryIsOfferedLess(t *testing.T) {
	inWorldOf(t, unit, 2, lan, func(w *world) {
		w.primary.stop()
		notices := make(chan string, 16)
		w.primary = w.serve(ServerRolePrimary, restarted(w.primary), configured(func(c *ServerConfig) {
			c.OnUnreachable = func(id ServerID, addr netip.AddrPort, client netip.Prefix, reason string) {
				notices <- fmt.Sprint(id, " ", addr, " ", client)
			}
		}))
		for _, s := range w.secondaries {
			s.member.Close()
			s.join(JoinConfig{Token: w.token})
		}
		s1 := w.secondaries[0]
		here, there := w.newViewer(s1), w.newViewer()
		client, _ := here.dial(ClientConfig{})
		time.Sleep(1500 * time.Millisecond)
		client.CloseWithError(0, "") // the dial has not ended yet
		time.Sleep(time.Second)
		want := fmt.Sprintf("%s %v %v/32", s1.member.ID(), s1.addr, here.addr)
		if got := <-notices; got != want {
			t.Errorf("notice %q, want %q", got, want)
		}
		if n := here.offers(40, s1.member.ID(), ClientConfig{}); n > 15 {
			t.Errorf("offered to %d of 40 sessions of the network that does not reach it", n)
		}
		if n := here.offers(5, w.secondaries[1].member.ID(), ClientConfig{}); n != 5 {
			t.Errorf("the other secondary is offered to %d of 5 sessions", n)
		}
		if n := here.offers(5, s1.member.ID(), ClientConfig{Inspect: true}); n != 5 {
			t.Errorf("offered to %d of 5 clients that diagnose", n)
		}
		if n := there.offers(20, s1.member.ID(), ClientConfig{}); n != 20 {
			t.Errorf("offered to %d of 20 sessions of another network", n)
		}
		w.net.HealPartition(here.addr, s1.addr.Addr())
		w.within(2*time.Hour, func() bool { // one in eight sessions tries it
			return here.offers(1, s1.member.ID(), ClientConfig{}) == 1
		})
		if n := here.offers(20, s1.member.ID(), ClientConfig{}); n != 20 {
			t.Errorf("offered to %d of 20 sessions after it was reached", n)
		}
	})
}

// TestUnreachableSecondaryReturns checks that a session which did not reach a secondary is told
// when it joins again.
func TestUnreachableSecondaryReturns(t *testing.T) {
	inWorldOf(t, unit, 1, lan, func(w *world) {
		s1 := w.secondaries[0]
		here := w.newViewer(s1)
		for range 8 { // one session in eight is told in any case
			client, _ := here.dial(ClientConfig{})
			defer client.CloseWithError(0, "")
		}
		time.Sleep(time.Minute)
		w.net.HealPartition(here.addr, s1.addr.Addr())
		s1.member.Close()
		s1.join(JoinConfig{Token: w.token})
		for _, client := range w.clients {
			w.within(time.Minute, func() bool { return w.path(client, s1.member.ID()).State >= 0 })
		}
	})
}

// TestAttackUnreachableReports checks that false reports of many networks remove no secondary that
// others reach. Reports on a server that was not offered have no effect.
func TestAttackUnreachableReports(t *testing.T) {
	inWorldOf(t, unit, 1, lan, func(w *world) {
		var notices atomic.Int32
		w.primary.stop()
		w.primary = w.serve(ServerRolePrimary, restarted(w.primary), configured(func(c *ServerConfig) {
			c.OnUnreachable = func(ServerID, netip.AddrPort, netip.Prefix, string) { notices.Add(1) }
		}))
		s1 := w.secondaries[0]
		s1.member.Close()
		s1.join(JoinConfig{Token: w.token})
		id := s1.member.ID()
		honest := w.newViewer()
		before := honest.offers(1, id, ClientConfig{})
		const networks = 50
		for range networks {
			client, _ := w.newViewer(s1).dial(ClientConfig{})
			for _, name := range []ServerID{id, id, "s999", primaryID} {
				lie := &kwikpb.ControlFrame_PathStatus{PathStatus: &kwikpb.PathStatus{
					PathId: string(name), State: kwikpb.PathState_PATH_STATE_UNREACHABLE, Reason: "it is down",
				}}
				client.primary.control.send(&kwikpb.ControlFrame{Frame: lie})
			}
			time.Sleep(10 * time.Millisecond)
			client.CloseWithError(0, "")
		}
		after := w.newViewer().offers(20, id, ClientConfig{})
		t.Logf("%d networks lie: offered to %d of 20 sessions of others, %d notices", networks, after, notices.Load())
		if before != 1 || after != 20 {
			t.Errorf("offered to %d of 1 session before, to %d of 20 after", before, after)
		}
		if n := notices.Load(); n > 3 {
			t.Errorf("%d notices", n)
		}
		if n := len(w.primary.members.reach); n != 1 {
			t.Errorf("records of %d secondaries", n)
		}
	})
}
