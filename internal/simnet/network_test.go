package simnet

import (
	"bytes"
	"errors"
	"fmt"
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

// wantSettled checks that every packet has come to one end.
func (t *tester) wantSettled() {
	t.Helper()
	time.Sleep(time.Hour)
	s := t.Stats()
	if s.Packets+s.Duplicated != s.Delivered+s.Dropped() {
		t.Errorf("packets are unaccounted for: %+v", s)
	}
}

func TestLatency(t *testing.T) {
	bubble(t, 1, func(t *tester) {
		a := t.listen(alice, Link{Latency: 7 * time.Millisecond})
		c := t.listen(carol, Link{Latency: 30 * time.Millisecond})
		for range 3 {
			start := time.Now()
			t.send(a, carol, []byte("ping"))
			b := make([]byte, 100)
			n, from, err := c.ReadFrom(b)
			if err != nil || string(b[:n]) != "ping" || from.String() != alice.String() {
				t.Fatalf("ReadFrom: %q from %v, %v", b[:n], from, err)
			}
			if d := time.Since(start); d != 37*time.Millisecond {
				t.Errorf("one way took %v, want 37ms", d)
			}
			t.send(c, alice, []byte("pong"))
			t.recv(a)
			if d := time.Since(start); d != 74*time.Millisecond {
				t.Errorf("round trip took %v, want 74ms", d)
			}
		}
		t.wantSettled()
	})
}

func TestRate(t *testing.T) {
	for _, tt := range []struct {
		name     string
		up, down Link
		want     float64 // bit/s
	}{
		{"sender's link", Link{Rate: 10e6, Queue: time.Hour}, Link{}, 10e6},
		{"receiver's link", Link{}, Link{Rate: 3e6, Queue: time.Hour}, 3e6},
		{"the slower of both", Link{Rate: 1e9, Queue: time.Hour}, Link{Rate: 200e6, Queue: time.Hour}, 200e6},
		{"slow", Link{Rate: 9600, Queue: time.Hour, Latency: time.Second}, Link{}, 9600},
	} {
		t.Run(tt.name, func(t *testing.T) {
			bubble(t, 1, func(t *tester) {
				a, b := t.listen(alice, tt.up), t.listen(bob, tt.down)
				data := make([]byte, 1200)
				const count = 1000
				for range count {
					t.send(a, bob, data)
				}
				t.recv(b)
				start := time.Now()
				for range count - 1 {
					t.recv(b)
				}
				got := (count - 1) * 8 * float64(len(data)) / time.Since(start).Seconds()
				if math.Abs(got/tt.want-1) > 0.01 {
					t.Errorf("%.0f bit/s, want %.0f", got, tt.want)
				}
			})
		})
	}
}

// Two senders to one host share its way down, and do not disturb its way up.
func TestRateIsShared(t *testing.T) {
	bubble(t, 1, func(t *tester) {
		a, c := t.listen(alice, Link{}), t.listen(carol, Link{})
		b := t.listen(bob, Link{Rate: 8e6, Queue: time.Hour}) // 1000 bytes per ms
		start := time.Now()
		for range 50 {
			t.send(a, bob, make([]byte, 1000))
			t.send(c, bob, make([]byte, 1000))
		}
		t.send(b, alice, make([]byte, 1000))
		t.recv(a)
		if d := time.Since(start); d != time.Millisecond {
			t.Errorf("up the busy link took %v, want 1ms", d)
		}
		for range 100 {
			t.recv(b)
		}
		if d := time.Since(start); d != 100*time.Millisecond {
			t.Errorf("100 packets of two senders took %v, want 100ms", d)
		}
	})
}

func TestQueue(t *testing.T) {
	for _, tt := range []struct {
		queue time.Duration
		want  int
	}{
		{0, 101}, // the default: one at once, 100 that wait at most 100 ms
		{20 * time.Millisecond, 21},
	} {
		bubble(t, 1, func(t *tester) {
			a := t.listen(alice, Link{Rate: 8e6, Queue: tt.queue}) // 1000 bytes per ms
			t.listen(bob, Link{})
			for range 300 {
				t.send(a, bob, make([]byte, 1000))
			}
			t.wantSettled()
			if s := t.Stats(); s.Delivered != tt.want || s.Overflowed != 300-tt.want {
				t.Errorf("queue of %v: %+v, want %d delivered", tt.queue, s, tt.want)
			}
		})
	}
}

func TestJitterKeepsOrder(t *testing.T) {
	bubble(t, 1, func(t *tester) {
		const jitter = 20 * time.Millisecond
		a := t.listen(alice, Link{Latency: 10 * time.Millisecond, Jitter: jitter})
		b := t.listen(bob, Link{})
		const count = 2000
		sent := make([]time.Time, count)
		go func() {
			for i := range count {
				sent[i] = time.Now()
				t.send(a, bob, []byte{byte(i >> 8), byte(i)})
				time.Sleep(time.Millisecond)
			}
		}()
		low, high := time.Hour, time.Duration(0)
		for i := range count {
			if p := t.recv(b); int(p[0])<<8+int(p[1]) != i {
				t.Fatalf("packet %v came as number %d", p, i)
			}
			d := time.Since(sent[i]) - 10*time.Millisecond
			low, high = min(low, d), max(high, d)
		}
		if low < 0 || low > jitter/20 || high > jitter || high < jitter*19/20 {
			t.Errorf("jitter was %v to %v, want nearly 0 to %v", low, high, jitter)
		}
	})
}

func TestFaultStatistics(t *testing.T) {
	const count = 20000
	within := func(t *tester, what string, got int, p float64) {
		t.Helper()
		mean, sigma := count*p, math.Sqrt(count*p*(1-p))
		if math.Abs(float64(got)-mean) > 4*sigma {
			t.Errorf("%s: %d of %d, want %.0f ± %.0f", what, got, count, mean, sigma)
		}
	}
	for seed := range uint64(2) {
		bubble(t, seed, func(t *tester) {
			a := t.listen(alice, Link{Loss: 0.02, Flip: 0.01, Duplicate: 0.03, Reorder: 0.01})
			b := t.listen(bob, Link{Loss: 0.05})
			flipped, sent := 0, []byte("abcdefgh")
			for range count {
				t.send(a, bob, sent)
			}
			t.wantSettled()
			s := t.Stats()
			for range s.Delivered {
				if p := t.recv(b); !bytes.Equal(p, sent) {
					flipped++
				}
			}
			through := 1 - 0.98*0.95
			within(t, "lost", s.Lost, through)
			within(t, "flipped", s.Flipped, 0.01*(1-through))
			within(t, "duplicated", s.Duplicated, 0.03*(1-through))
			within(t, "reordered", s.Reordered, 0.01*(1-through))
			if flipped < s.Flipped || flipped > 2*s.Flipped {
				t.Errorf("%d packets came with a flipped bit, Stats say %d", flipped, s.Flipped)
			}
		})
	}
}

func TestFlipIsOneBit(t *testing.T) {
	bubble(t, 1, func(t *tester) {
		a, b := t.listen(alice, Link{Flip: 1}), t.listen(bob, Link{})
		places := make(map[string]bool)
		for range 200 {
			t.send(a, bob, make([]byte, 4))
			p := t.recv(b)
			places[string(p)] = true
			ones := 0
			for _, x := range p {
				for ; x != 0; x &= x - 1 {
					ones++
				}
			}
			if ones != 1 {
				t.Fatalf("%d bits differ in %x", ones, p)
			}
		}
		if len(places) < 30 {
			t.Errorf("flips hit %d of 32 bits only", len(places))
		}
		t.send(a, bob, nil) // has no bit to flip
		if p := t.recv(b); len(p) != 0 {
			t.Errorf("an empty packet became %x", p)
		}
	})
}

func TestReorder(t *testing.T) {
	bubble(t, 1, func(t *tester) {
		a, b := t.listen(alice, Link{Reorder: 0.2}), t.listen(bob, Link{})
		go func() {
			for i := range 200 {
				t.send(a, bob, []byte{byte(i)})
				time.Sleep(time.Millisecond)
			}
		}()
		overtaken, last := 0, -1
		for range 200 {
			if i := int(t.recv(b)[0]); i < last {
				overtaken++
			} else {
				last = i
			}
		}
		if overtaken < 10 || overtaken > 60 {
			t.Errorf("%d of 200 packets were overtaken", overtaken)
		}
	})
}

// drops returns which of 300 packets on each of two flows arrive.
func drops(t *testing.T, seed uint64, extra int) (ab, cb string) {
	bubble(t, seed, func(t *tester) {
		link := Link{Loss: 0.1, Duplicate: 0.1}
		a, b, c := t.listen(alice, link), t.listen(bob, Link{}), t.listen(carol, link)
		got := map[string]*bytes.Buffer{alice.String(): new(bytes.Buffer), carol.String(): new(bytes.Buffer)}
		go func() {
			for range extra {
				t.send(c, bob, []byte{255})
			}
			for i := range 250 {
				t.send(a, bob, []byte{byte(i)})
				t.send(c, bob, []byte{byte(i)})
			}
		}()
		for {
			b.SetReadDeadline(time.Now().Add(time.Second))
			p := make([]byte, 10)
			n, from, err := b.ReadFrom(p)
			if err != nil {
				break
			}
			fmt.Fprintf(got[from.String()], "%x ", p[:n])
		}
		ab, cb = got[alice.String()].String(), got[carol.String()].String()
	})
	return ab, cb
}

func TestFaultsFollowFromTheSeed(t *testing.T) {
	ab, cb := drops(t, 1, 0)
	ab1, cb1 := drops(t, 1, 0)
	if ab != ab1 || cb != cb1 {
		t.Error("the same seed gave other faults")
	}
	if ab == cb {
		t.Error("two flows have the same faults")
	}
	if ab2, _ := drops(t, 2, 0); ab2 == ab {
		t.Error("another seed gave the same faults")
	}
	ab3, cb3 := drops(t, 1, 1)
	if cb3 == cb {
		t.Error("one packet more on a flow changed nothing there")
	}
	if ab3 != ab {
		t.Error("one packet more on a flow changed the faults of another")
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

func TestReceiveBuffer(t *testing.T) {
	bubble(t, 1, func(t *tester) {
		a, b := t.listen(alice, Link{}), t.listen(bob, Link{})
		b.SetReadBuffer(1000)
		for range 5 {
			t.send(a, bob, make([]byte, 300))
		}
		t.wantSettled()
		if s := t.Stats(); s.Delivered != 3 || s.Overflowed != 2 {
			t.Errorf("%+v, want 3 delivered and 2 overflowed", s)
		}
		b.SetReadDeadline(time.Time{})
		if n, _, err := b.ReadFrom(make([]byte, 100)); n != 100 || err != nil {
			t.Errorf("ReadFrom into a small buffer: %d, %v", n, err)
		}
	})
}

func TestDeadlines(t *testing.T) {
	bubble(t, 1, func(t *tester) {
		a := t.listen(alice, Link{})
		to := net.UDPAddrFromAddrPort(bob)
		start := time.Now()
		a.SetDeadline(start.Add(time.Second))
		if _, err := a.WriteTo(nil, to); err != nil {
			t.Errorf("WriteTo before its deadline: %v", err)
		}
		_, _, err := a.ReadFrom(nil)
		if !errors.Is(err, os.ErrDeadlineExceeded) || time.Since(start) != time.Second {
			t.Errorf("ReadFrom: %v after %v", err, time.Since(start))
		}
		var nerr net.Error
		if !errors.As(err, &nerr) || !nerr.Timeout() {
			t.Errorf("%v is no timeout", err)
		}
		if _, err := a.WriteTo(nil, to); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("WriteTo after its deadline: %v", err)
		}
		// Moving the deadline reaches a reader that waits already.
		a.SetDeadline(time.Time{})
		done := make(chan error)
		go func() {
			_, _, err := a.ReadFrom(nil)
			done <- err
		}()
		time.Sleep(time.Hour)
		a.SetReadDeadline(time.Now().Add(time.Minute))
		a.SetReadDeadline(time.Now())
		start = time.Now()
		if err := <-done; !errors.Is(err, os.ErrDeadlineExceeded) || time.Since(start) != 0 {
			t.Errorf("ReadFrom: %v after %v", err, time.Since(start))
		}
		if _, err := a.WriteTo(nil, &net.TCPAddr{}); err == nil {
			t.Error("writes to a TCP address")
		}
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
