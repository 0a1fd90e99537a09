package kwik

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/quic-go/quic-go"

	"kwikcp/internal/trust"
	kwikpb "kwikcp/kwik/proto"
)

// A countingConn counts the bytes that a client sends to third parties.
type countingConn struct {
	net.PacketConn
	bytes, packets *atomic.Int64
}

func (c countingConn) WriteTo(p []byte, to net.Addr) (int, error) {
	c.bytes.Add(int64(len(p)))
	c.packets.Add(1)
	return c.PacketConn.WriteTo(p, to)
}

// An aimScene is a client with a fake primary. Everything that the client sends to others is
// counted.
type aimScene struct {
	w              *world
	client         *ClientSession
	primary        *fakePeer
	bytes, packets atomic.Int64 // to others, as UDP payload
}

func inAimScene(t *testing.T, f func(h *aimScene)) {
	t.Helper()
	inWorldOf(t, unit, 0, lan, func(w *world) {
		h := &aimScene{w: w}
		conf := &ClientConfig{ListenPacket: func(context.Context, netip.AddrPort) (net.PacketConn, error) {
			conn, _ := w.listen()
			return countingConn{conn, &h.bytes, &h.packets}, nil
		}}
		h.client, h.primary = w.dialFake(conf)
		f(h)
	})
}

// name announces a server at the given addresses.
func (h *aimScene) name(id string, addrs ...string) {
	h.primary.addPath(&kwikpb.AddPath{PathId: id, KeyHash: make([]byte, 32), Addresses: addrs})
}

func (h *aimScene) withdraw(id string) {
	h.primary.removePath(id, "")
}

// maxAimed bounds the bytes that a primary can make its client send to third parties.
const maxAimed = 100 << 10

// TestAttackAim checks what a primary can make a client send to addresses of its choice. 64
// servers with 8 addresses each, 14 KB of frames, made it send 26 MB in 30 s, for ever.
func TestAttackAim(t *testing.T) {
	for name, attack := range map[string]func(h *aimScene){
		"64 servers at 8 addresses": func(h *aimScene) {
			for i := range maxSecondaryPaths {
				var addrs []string
				for j := range maxAddresses {
					addrs = append(addrs, fmt.Sprintf("10.9.9.9:%d", 2000+maxAddresses*i+j))
				}
				h.name(fmt.Sprintf("s%d", i), addrs...)
			}
		},
		"one server, named again and again": func(h *aimScene) {
			for range 200 {
				h.name("s1", "10.9.9.9:4433")
				time.Sleep(100 * time.Millisecond)
			}
		},
		"withdrawn and named again": func(h *aimScene) {
			for range 200 {
				h.name("s1", "10.9.9.9:4433")
				time.Sleep(100 * time.Millisecond)
				h.withdraw("s1")
			}
		},
		"always new names": func(h *aimScene) {
			for i := range 500 {
				h.name(fmt.Sprintf("s%d", i), "10.9.9.9:4433")
				time.Sleep(20 * time.Millisecond)
				h.withdraw(fmt.Sprintf("s%d", i))
			}
		},
		"always new addresses": func(h *aimScene) {
			for i := range 500 {
				h.name("s1", fmt.Sprintf("10.9.9.9:%d", 2000+i))
				time.Sleep(20 * time.Millisecond)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			inAimScene(t, func(h *aimScene) {
				attack(h)
				time.Sleep(30 * time.Second)
				soon := h.bytes.Load()
				time.Sleep(30 * time.Minute)
				t.Logf("%d KiB in 30 s, %d KiB in %d packets in 30 min", soon>>10, h.bytes.Load()>>10, h.packets.Load())
				if h.bytes.Load() > maxAimed {
					t.Errorf("the client sent %d bytes to others", h.bytes.Load())
				}
			})
		})
	}
}

// TestAttackAimAfterData checks that a primary earns only a fraction of what it sends.
func TestAttackAimAfterData(t *testing.T) {
	var l dialLimit
	now, received, cost := time.Now(), int64(100<<20), int64(10<<10)
	sent := int64(0)
	for i := range 100_000 {
		addr := netip.AddrPortFrom(netip.AddrFrom4([4]byte{9, byte(i >> 16), byte(i >> 8), byte(i)}), 4433)
		if l.begin(addr, cost, received, now) {
			sent += cost
		}
	}
	if most := unansweredBytes + received/earnedPart; sent > most || sent < most/2 {
		t.Errorf("%d bytes were sent for %d received", sent, received)
	}
	if len(l.records) > maxDialRecords {
		t.Errorf("%d addresses are remembered", len(l.records))
	}
}

func TestDialLimit(t *testing.T) {
	var l dialLimit
	now := time.Now()
	addr := func(i int) netip.AddrPort {
		return netip.AddrPortFrom(netip.AddrFrom4([4]byte{9, 0, 0, byte(i)}), 4433)
	}
	const cost = 1000
	for i := range maxAddressTries {
		if !l.begin(addr(1), cost, 0, now) {
			t.Fatalf("try %d is refused", i)
		}
	}
	chosen, _, wait := l.plan([]netip.AddrPort{addr(1)}, now.Add(time.Minute))
	if len(chosen) != 0 || wait != unansweredPause-time.Minute || l.begin(addr(1), cost, 0, now) {
		t.Errorf("after %d tries: %v, %v", maxAddressTries, chosen, wait)
	}
	for range 100 {
		l.announce(addr(1))
		l.announce(addr(9))
	}
	if l.begin(addr(1), cost, 0, now.Add(announcedPause-1)) || !l.begin(addr(1), cost, 0, now.Add(announcedPause)) {
		t.Error("not one try after it was announced")
	}
	now = now.Add(announcedPause)
	if l.begin(addr(1), cost, 0, now.Add(unansweredPause-1)) || !l.begin(addr(1), cost, 0, now.Add(unansweredPause)) {
		t.Error("no try after the pause")
	}
	l.answered(addr(1), cost)
	for range 100 { // a server that was reached is redialed as often as necessary
		if !l.begin(addr(1), cost, 0, now) {
			t.Fatal("a server that was reached is refused")
		}
	}
	if l.spent != (maxAddressTries+1)*cost {
		t.Errorf("%d bytes are spent", l.spent)
	}
	all := []netip.AddrPort{addr(2), addr(3), addr(4), addr(1)}
	l.begin(addr(2), cost, 0, now)
	chosen, unreached, _ := l.plan(all, now)
	if want := []netip.AddrPort{addr(1), addr(3), addr(4)}; !slices.Equal(chosen, want) || !unreached {
		t.Errorf("plan %v, want %v", chosen, want)
	}
	if chosen, unreached, _ = l.plan(all[3:], now); unreached || len(chosen) != 1 {
		t.Errorf("plan %v, %v", chosen, unreached)
	}
	for timeout, want := range map[time.Duration]int64{
		time.Millisecond: 2, 300 * time.Millisecond: 2, time.Second: 6, 3 * time.Second: 8, 5 * time.Second: 10,
	} {
		if got := tryCost(&quic.Config{HandshakeIdleTimeout: timeout}); got != want*1200 {
			t.Errorf("a try of %v costs %d bytes, want %d", timeout, got, want*1200)
		}
	}
}

// Honest servers are all reached, although few are dialed at a time, and also if some that are
// announced before them do not answer.
func TestManyServersAreReached(t *testing.T) {
	inWorld(t, 20, lan, func(w *world) {
		dead, _ := w.listen()
		defer dead.Close()
		for i := range 6 {
			m := &member{addr: netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 9, 9, byte(i)}), 4433), pin: trust.Pin{1}}
			if _, err := w.primary.admit(m); err != nil {
				w.t.Fatal(err)
			}
		}
		client, _ := w.dial(nil)
		for _, s := range w.secondaries {
			w.within(10*time.Second, func() bool { return w.path(client, s.member.ID()).State == PathActive })
		}
	})
}

// TestAttackAddresses checks to which addresses and ports a primary may send its clients.
func TestAttackAddresses(t *testing.T) {
	never := []string{
		"0.0.0.0", "0.1.2.3", "224.0.0.1", "239.255.255.250", "240.0.0.1", "255.255.255.255", "192.0.0.8",
		"192.88.99.1", "::", "::7f00:1", "64:ff9b::7f00:1", "64:ff9b:1::1", "2002:7f00:1::1", "2001::1", "100::1",
		"ff02::1", "fec0::1", "5f00::1", "4000::1", "fe80::1%eth0",
	}
	classes := map[string][]string{
		"loopback":   {"127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1"},
		"link-local": {"169.254.169.254", "fe80::1", "::ffff:169.254.0.1"},
		"private":    {"10.0.0.1", "172.16.0.1", "172.31.255.255", "192.168.1.1", "fd00::1", "::ffff:10.0.0.1"},
		"carrier":    {"100.64.0.1", "100.127.255.255"},
		"test":       {"192.0.2.1", "198.51.100.1", "203.0.113.1", "198.18.0.1", "198.19.255.255", "2001:db8::1"},
		"public":     {"9.9.9.9", "100.63.255.255", "100.128.0.1", "172.32.0.1", "2600::1", "2001:200::1"},
	}
	for from, primaries := range classes {
		for _, primary := range primaries {
			s := &ClientSession{
				config:  (&ClientConfig{Config: Config{LocalAddresses: func() []netip.Addr { return nil }}}).populate(),
				primary: &path{addr: netip.AddrPortFrom(netip.MustParseAddr(primary), 4433)},
			}
			check := func(ip string, port uint16, want bool) {
				t.Helper()
				if got := s.mayDial(netip.AddrPortFrom(netip.MustParseAddr(ip), port)); got != want {
					t.Errorf("a primary at %s names %s, port %d: %v, want %v", primary, ip, port, got, want)
				}
			}
			for _, ip := range never {
				check(ip, 4433, false)
			}
			for to, addrs := range classes {
				for _, ip := range addrs {
					check(ip, 4433, to == from || to == "public" || from == "loopback")
				}
			}
			for port, want := range map[uint16]bool{
				0: false, 22: false, 53: false, 123: false, 1023: false, 1900: false, 5353: false, 11211: false,
				443: true, 1024: true, 4433: true, 65535: true,
			} {
				check("9.9.9.9", port, want)
			}
		}
	}
	if !mayNamePort(53, 53) {
		t.Error("a primary may not name servers at its own port")
	}
}
