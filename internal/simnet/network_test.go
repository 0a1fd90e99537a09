package simnet

import (
	"errors"
	"math"
	"net"
	"net/netip"
	"os"
	"slices"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

var (
	alice = netip.MustParseAddrPort("10.0.0.1:1000")
	bob   = netip.MustParseAddrPort("10.0.0.2:2000")
	carol = netip.MustParseAddrPort("[fd00::3]:3000")
)

// A tester runs a network inside a bubble; its verbs fail the test.
type tester struct {
	*testing.T
	*Network
}

func bubble(t *testing.T, seed uint64, f func(t *tester)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		n := New(seed)
		f(&tester{t, n})
		n.Close()
		synctest.Wait()
	})
}

func (t *tester) listen(at netip.AddrPort, link Link) *Conn {
	t.Helper()
	c, err := t.Listen(at, link)
	if err != nil {
		t.Fatal(err)
	}
	return c.(*Conn)
}

func (t *tester) send(from *Conn, to netip.AddrPort, data []byte) {
	t.Helper()
	if n, err := from.WriteTo(data, net.UDPAddrFromAddrPort(to)); err != nil || n != len(data) {
		t.Fatalf("WriteTo: %d, %v", n, err)
	}
}

// recv waits for a packet; it may wait for an hour of the bubble's time.
func (t *tester) recv(c *Conn) []byte {
	t.Helper()
	c.SetReadDeadline(time.Now().Add(time.Hour))
	b := make([]byte, 2000)
	n, _, err := c.ReadFrom(b)
	if err != nil {
		t.Fatalf("nothing came: %v", err)
	}
	return b[:n]
}

func (t *tester) wantNothing(c *Conn, why string) {
	t.Helper()
	c.SetReadDeadline(time.Now().Add(time.Hour))
	if n, from, err := c.ReadFrom(make([]byte, 2000)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatalf("%s, yet came %d bytes from %v, error %v", why, n, from, err)
	}
}

// wantSettled checks that every packet has exactly one fate.
func (t *tester) wantSettled() {
	t.Helper()
	time.Sleep(time.Hour)
	s := t.Stats()
	if s.Packets+s.Duplicated != s.Delivered+s.Dropped() {
		t.Errorf("packets are unaccounted for: %+v", s)
	}
}

func TestSilence(t *testing.T) {
	bubble(t, 1, func(t *tester) {
		link := Link{Latency: 10 * time.Millisecond}
		a, b, c := t.listen(alice, link), t.listen(bob, link), t.listen(carol, link)
		t.send(a, bob, []byte("in flight"))
		t.Silence(bob.Addr())
		t.send(a, bob, []byte("to"))
		t.send(b, alice, []byte("from"))
		t.send(a, carol, []byte("others"))
		if p := t.recv(c); string(p) != "others" {
			t.Errorf("carol got %q", p)
		}
		t.wantNothing(b, "bob is silenced")
		t.wantNothing(a, "bob is silenced")
		t.Heal(bob.Addr())
		t.send(a, bob, []byte("again"))
		if p := t.recv(b); string(p) != "again" {
			t.Errorf("bob got %q", p)
		}
		if s := t.Stats(); s.Unreachable != 3 {
			t.Errorf("%+v, want 3 unreachable", s)
		}
		t.wantSettled()
	})
}

// A paused host's packets are delivered late and in order, as many as a socket would
// hold. Other hosts are not affected.
func TestPause(t *testing.T) {
	bubble(t, 1, func(t *tester) {
		link := Link{Latency: 10 * time.Millisecond}
		a, b, c := t.listen(alice, link), t.listen(bob, link), t.listen(carol, link)
		t.send(a, bob, []byte("in flight"))
		t.Pause(bob.Addr())
		t.Pause(bob.Addr()) // twice is once
		for i := range 300 {
			t.send(a, bob, []byte{byte(i), byte(i >> 8)})
		}
		t.send(a, carol, []byte("others"))
		if p := t.recv(c); string(p) != "others" {
			t.Errorf("carol got %q", p)
		}
		t.wantNothing(b, "bob is paused")
		t.Resume(bob.Addr())
		if p := t.recv(b); string(p) != "in flight" {
			t.Errorf("bob got %q first", p)
		}
		for i := range maxHeldBack - 1 {
			if p := t.recv(b); len(p) != 2 || int(p[0])|int(p[1])<<8 != i {
				t.Fatalf("bob got %v, want packet %d", p, i)
			}
		}
		t.wantNothing(b, "the rest was too much")
		t.Pause(bob.Addr())
		t.send(b, alice, []byte("from"))
		t.wantNothing(a, "bob is paused")
		t.Resume(bob.Addr())
		if p := t.recv(a); string(p) != "from" {
			t.Errorf("alice got %q", p)
		}
		t.Resume(bob.Addr()) // nor does it harm
		t.wantSettled()
	})
}

// A link with an MTU lets smaller packets pass, in both directions.
func TestLinkMTU(t *testing.T) {
	bubble(t, 1, func(t *tester) {
		a, b := t.listen(alice, Link{}), t.listen(bob, Link{MTU: 1200})
		t.send(a, bob, make([]byte, 1201))
		t.wantNothing(b, "too large")
		t.send(b, alice, make([]byte, 1201))
		t.wantNothing(a, "too large")
		t.send(a, bob, make([]byte, 1200))
		if p := t.recv(b); len(p) != 1200 {
			t.Errorf("%d bytes", len(p))
		}
		if err := t.SetLink(bob.Addr(), Link{}); err != nil {
			t.Fatal(err)
		}
		t.send(b, alice, make([]byte, 1201))
		if p := t.recv(a); len(p) != 1201 {
			t.Errorf("%d bytes", len(p))
		}
		if s := t.Stats(); s.Overflowed != 2 {
			t.Errorf("%+v", s)
		}
		t.wantSettled()
	})
}

func TestPartition(t *testing.T) {
	bubble(t, 1, func(t *tester) {
		a, b, c := t.listen(alice, Link{}), t.listen(bob, Link{}), t.listen(carol, Link{})
		t.Partition(alice.Addr(), bob.Addr())
		t.send(a, bob, []byte("x"))
		t.send(b, alice, []byte("x"))
		t.send(a, carol, []byte("ac"))
		t.send(b, carol, []byte("bc"))
		got := []string{string(t.recv(c)), string(t.recv(c))}
		if slices.Sort(got); !slices.Equal(got, []string{"ac", "bc"}) {
			t.Errorf("carol got %q", got)
		}
		t.wantNothing(a, "cut off")
		t.wantNothing(b, "cut off")
		t.HealPartition(bob.Addr(), alice.Addr())
		t.send(a, bob, []byte("again"))
		t.recv(b)
		t.wantSettled()
	})
}

func TestKillAndRestart(t *testing.T) {
	bubble(t, 1, func(t *tester) {
		a := t.listen(alice, Link{Latency: 10 * time.Millisecond})
		b := t.listen(bob, Link{Latency: 10 * time.Millisecond})
		t.send(b, alice, []byte("last words"))
		if err := b.Close(); err != nil {
			t.Error(err)
		}
		if err := b.Close(); err != nil {
			t.Errorf("second Close: %v", err)
		}
		if _, err := b.WriteTo([]byte("x"), net.UDPAddrFromAddrPort(alice)); !errors.Is(err, net.ErrClosed) {
			t.Errorf("WriteTo after Close: %v", err)
		}
		if p := t.recv(a); string(p) != "last words" {
			t.Errorf("alice got %q", p)
		}
		t.send(a, bob, []byte("to nobody"))
		time.Sleep(time.Second)
		if s := t.Stats(); s.Unreachable != 1 {
			t.Errorf("%+v, want 1 unreachable", s)
		}
		b = t.listen(bob, Link{})
		start := time.Now()
		t.send(a, bob, []byte("hello again"))
		if p := t.recv(b); string(p) != "hello again" {
			t.Errorf("bob got %q", p)
		}
		if d := time.Since(start); d != 20*time.Millisecond {
			t.Errorf("one way took %v: the restarted host has lost its link", d)
		}
		t.wantSettled()
	})
}

func TestListen(t *testing.T) {
	bubble(t, 1, func(t *tester) {
		a := t.listen(alice, Link{Latency: 10 * time.Millisecond})
		if _, err := t.Listen(alice, Link{}); !errors.Is(err, syscall.EADDRINUSE) {
			t.Errorf("a second socket at an address: %v", err)
		}
		any := netip.AddrPortFrom(alice.Addr(), 0)
		p1, p2 := t.listen(any, Link{}), t.listen(any, Link{})
		if p1.LocalAddr().String() == p2.LocalAddr().String() || p1.LocalAddr().String() == any.String() {
			t.Errorf("ports picked: %v, %v", p1.LocalAddr(), p2.LocalAddr())
		}
		for _, bad := range []netip.AddrPort{{}, netip.MustParseAddrPort("0.0.0.0:1"), netip.MustParseAddrPort("[::]:1")} {
			if _, err := t.Listen(bad, Link{}); err == nil {
				t.Errorf("listens at %v", bad)
			}
		}
		for _, bad := range []Link{{Latency: -1}, {Jitter: -1}, {Queue: -1}, {Rate: -1}, {Rate: math.NaN()}, {Loss: 1.1}, {Flip: -0.1}, {Duplicate: 2}, {Reorder: math.NaN()}} {
			if _, err := t.Listen(bob, bad); err == nil {
				t.Errorf("accepts link %+v", bad)
			}
		}
		// An IPv4 address mapped into IPv6 is the same host.
		mapped := netip.AddrPortFrom(netip.AddrFrom16(bob.Addr().As16()), bob.Port())
		b := t.listen(mapped, Link{})
		start := time.Now()
		t.send(a, mapped, []byte("x"))
		t.recv(b)
		if err := t.SetLink(alice.Addr(), Link{Latency: time.Second}); err != nil {
			t.Error(err)
		}
		t.send(p2, bob, []byte("x")) // another port shares the link
		t.recv(b)
		if d := time.Since(start); d != 1010*time.Millisecond {
			t.Errorf("took %v, want 1.01s", d)
		}
		if err := t.SetLink(carol.Addr(), Link{}); err == nil {
			t.Error("SetLink of no host")
		}
	})
}

func TestMTU(t *testing.T) {
	bubble(t, 1, func(t *tester) {
		a, b, c := t.listen(alice, Link{}), t.listen(bob, Link{}), t.listen(carol, Link{})
		t.send(a, bob, make([]byte, 1473))
		t.send(a, bob, make([]byte, 1472))
		if p := t.recv(b); len(p) != 1472 {
			t.Errorf("bob got %d bytes", len(p))
		}
		t.send(a, carol, make([]byte, 1453))
		t.send(a, carol, make([]byte, 1452))
		if p := t.recv(c); len(p) != 1452 {
			t.Errorf("carol got %d bytes", len(p))
		}
		t.wantSettled()
	})
}

// After Close no call waits and no goroutine is left, which the end of the
// bubble checks.
func TestClose(t *testing.T) {
	bubble(t, 1, func(t *tester) {
		a, b := t.listen(alice, Link{Latency: time.Second}), t.listen(bob, Link{})
		done := make(chan error, 2)
		for range 2 {
			go func() {
				_, _, err := b.ReadFrom(make([]byte, 10))
				done <- err
			}()
		}
		b.SetReadDeadline(time.Now().Add(time.Hour))
		t.send(a, bob, []byte("never arrives"))
		synctest.Wait()
		t.Close()
		for range 2 {
			if err := <-done; !errors.Is(err, net.ErrClosed) {
				t.Errorf("ReadFrom: %v", err)
			}
		}
		if _, err := t.Listen(carol, Link{}); !errors.Is(err, net.ErrClosed) {
			t.Errorf("Listen after Close: %v", err)
		}
		if err := a.SetReadDeadline(time.Now()); !errors.Is(err, net.ErrClosed) {
			t.Errorf("SetReadDeadline after Close: %v", err)
		}
		if err := t.Close(); err != nil {
			t.Error(err)
		}
	})
}
