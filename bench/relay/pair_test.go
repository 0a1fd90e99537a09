package main

import (
	"net"
	"net/netip"
	"testing"
	"time"
)

var loopback = netip.MustParseAddrPort("127.0.0.1:0")

func listen(t *testing.T) (*net.UDPConn, netip.AddrPort) {
	t.Helper()
	c, err := net.ListenUDP("udp4", net.UDPAddrFromAddrPort(loopback))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c, c.LocalAddr().(*net.UDPAddr).AddrPort()
}

// relayTo starts a pair without rate and delay; its clock stands still.
func relayTo(t *testing.T, target netip.AddrPort, sessions int, idle, now time.Duration) *pair {
	t.Helper()
	front, err := openSocket(loopback)
	if err != nil {
		t.Fatal(err)
	}
	p := &pair{
		front: front, target: target, up: newLine(newLink(linkConfig{}, 1, 0)), down: newLine(newLink(linkConfig{}, 1, 1)),
		maxSessions: sessions, idle: idle, now: func() time.Duration { return now },
		failed: func(err error) { t.Error(err) },
	}
	p.start()
	return p
}

func send(t *testing.T, c *net.UDPConn, text string, to netip.AddrPort) {
	t.Helper()
	if _, err := c.WriteToUDPAddrPort([]byte(text), to); err != nil {
		t.Fatal(err)
	}
}

func receive(t *testing.T, c *net.UDPConn, want string) (from netip.AddrPort) {
	t.Helper()
	var buf [100]byte
	n, from, err := c.ReadFromUDPAddrPort(buf[:])
	if err != nil || string(buf[:n]) != want {
		t.Fatalf("got %q, %v; want %q", buf[:n], err, want)
	}
	return from
}

// Two clients through one pair: the server sees them apart, and each gets its own answers,
// from where it sent to.
func TestSessions(t *testing.T) {
	server, target := listen(t)
	p := relayTo(t, target, 2, time.Hour, 0)
	a, _ := listen(t)
	b, _ := listen(t)
	send(t, a, "from a", p.front.addr())
	seenA := receive(t, server, "from a")
	send(t, b, "from b", p.front.addr())
	seenB := receive(t, server, "from b")
	if seenA == seenB {
		t.Error("the server cannot tell two clients apart")
	}
	send(t, a, "again", p.front.addr())
	if again := receive(t, server, "again"); again != seenA {
		t.Errorf("the server sees a client at %v and then at %v", seenA, again)
	}
	send(t, server, "to b", seenB)
	send(t, server, "to a", seenA)
	for c, text := range map[*net.UDPConn]string{a: "to a", b: "to b"} {
		if from := receive(t, c, text); from != p.front.addr() {
			t.Errorf("the answer is from %v", from)
		}
	}

	// A third client is one too many. The second, which is heard after it, shows that it was
	// ignored.
	c, _ := listen(t)
	send(t, c, "from c", p.front.addr())
	send(t, b, "after c", p.front.addr())
	receive(t, server, "after c")
	// A stranger writes to the client's socket of the relay, and is ignored likewise.
	send(t, c, "I am the server", netip.AddrPortFrom(loopback.Addr(), seenA.Port()))
	send(t, server, "after the stranger", seenA)
	receive(t, a, "after the stranger")

	p.close()
	up, down := p.up.counts, p.down.counts
	if want := int64(len("from afrom bagainafter c")); up.packets != 4 || up.bytes != want {
		t.Errorf("to the target: %+v, want 4 packets of %d bytes", up, want)
	}
	if up.refused != 1 || up.unsent != 0 {
		t.Errorf("to the target: %+v, want 1 refused, 0 unsent", up)
	}
	if down.packets != 3 || down.unsent != 0 {
		t.Errorf("to the client: %+v", down)
	}
	if len(p.sessions) != 0 {
		t.Errorf("%d sessions outlive the pair", len(p.sessions))
	}
}

// The system reports a target without a listener. The session lives on, for a server that
// is started later.
func TestTargetIsNotThere(t *testing.T) {
	server, target := listen(t)
	server.Close()
	p := relayTo(t, target, 1, time.Hour, 0)
	defer p.close()
	c, _ := listen(t)
	send(t, c, "too early", p.front.addr())
	server, err := net.ListenUDP("udp4", net.UDPAddrFromAddrPort(target))
	if err != nil {
		t.Skip("the port is taken:", err)
	}
	defer server.Close()
	send(t, c, "now", p.front.addr())
	var buf [100]byte
	for { // "too early" may still be on its way
		n, _, err := server.ReadFromUDPAddrPort(buf[:])
		if err != nil {
			t.Fatal(err)
		}
		if string(buf[:n]) == "now" {
			return
		}
	}
}

func TestIdleSession(t *testing.T) {
	p := relayTo(t, netip.AddrPortFrom(loopback.Addr(), 9), 1, time.Hour, 0)
	client := netip.MustParseAddrPort("127.0.0.1:1")
	s := p.session(client, 5)
	if s == nil || p.session(client, 7) != s || p.session(loopback, 7) != nil {
		t.Fatal("one client has one session, and there is room for one")
	}
	if left := s.left(17, 20); left != 10 {
		t.Errorf("%d left, want 10", left)
	}
	p.close()
	<-s.done
	if p.session(client, 9) != nil {
		t.Error("a closed pair takes a client")
	}

	// This pair's clock stands still beyond the session's time: it goes as soon as its reader
	// looks.
	p = relayTo(t, netip.AddrPortFrom(loopback.Addr(), 9), 1, time.Nanosecond, time.Second)
	defer p.close()
	<-p.session(client, 0).done
	if p.session(loopback, 0) == nil {
		t.Error("no room after the idle one has gone")
	}
}
