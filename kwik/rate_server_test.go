package kwik

import (
	"bytes"
	"context"
	"io"
	"math"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"kwikcp/internal/simnet"
)

// limitedWorld runs f in a world whose primary has a rate limit.
func limitedWorld(t *testing.T, size int, rate int64, f func(w *world)) {
	t.Helper()
	inWorldOf(t, size, 0, simnet.Link{Latency: time.Millisecond, Rate: 1e9}, func(w *world) {
		w.primary.stop()
		w.primary = w.serve(ServerRolePrimary, configured(func(c *ServerConfig) { c.RateLimit = NewRateLimit(rate) }))
		f(w)
	})
}

// writeForever writes to a new plain stream of a server until the session ends, and counts the
// bytes that the client reads.
func writeForever(w *world, wg *sync.WaitGroup, client *ClientSession, server *ServerSession, received *atomic.Int64) {
	stream, err := server.OpenStreamSync(w.t.Context())
	if err != nil {
		w.t.Fatal(err)
	}
	wg.Go(func() {
		for p := make([]byte, 64<<10); ; {
			if _, err := stream.Write(p); err != nil {
				return
			}
		}
	})
	wg.Go(func() {
		in, err := client.AcceptStream(w.t.Context())
		if err != nil {
			return
		}
		for p := make([]byte, 32<<10); ; {
			n, err := in.Read(p)
			received.Add(int64(n))
			if err != nil {
				return
			}
		}
	})
}

// TestAttackUnlimitedPlainStreams checks that the bytes of plain streams, which carry trees and
// listings, count against a server's limit, together with those of aggregate streams.
func TestAttackUnlimitedPlainStreams(t *testing.T) {
	const rate = 1 << 20
	limitedWorld(t, 2*rate, rate, func(w *world) {
		client, server := w.dial(nil)
		before := client.Stats().Wire.BytesReceived
		start := time.Now()
		var received atomic.Int64
		var wg sync.WaitGroup
		for range 5 {
			writeForever(w, &wg, client, server, &received)
		}
		s := w.offer(client, server, unit, nil)
		w.copy(s) // ends with the session
		time.Sleep(5 * time.Second)
		wire := float64(client.Stats().Wire.BytesReceived-before) / time.Since(start).Seconds() / rate
		sum := float64(received.Load()+s.Stats().Bytes) / 5 / rate
		w.t.Logf("%.3f of the limit on the wire, %.3f as payload", wire, sum)
		if wire > 1.08 || sum > 1.01 || sum < 0.95 {
			w.t.Errorf("%.3f of the limit on the wire, %.3f as payload", wire, sum)
		}
		if part := float64(s.Stats().Bytes) / 5 / rate; math.Abs(part-1.0/6) > 0.02 {
			w.t.Errorf("one of six streams has %.3f of the rate", part)
		}
		client.CloseWithError(0, "")
		wg.Wait()
	})
}

// TestAttackGreedySession gives one client 64 streams and another a single one. Each client has
// half of the server's rate.
func TestAttackGreedySession(t *testing.T) {
	const rate = 1 << 20
	limitedWorld(t, 1, rate, func(w *world) {
		greedy, toGreedy := w.dial(nil)
		honest, toHonest := w.dial(nil)
		var byGreedy, byHonest atomic.Int64
		var wg sync.WaitGroup
		for range 64 {
			writeForever(w, &wg, greedy, toGreedy, &byGreedy)
		}
		writeForever(w, &wg, honest, toHonest, &byHonest)
		time.Sleep(5 * time.Second)
		part := float64(byHonest.Load()) / float64(byHonest.Load()+byGreedy.Load())
		sum := float64(byHonest.Load()+byGreedy.Load()) / 5 / rate
		w.t.Logf("beside 64 streams of another client, a client has %.3f of the rate; all have %.3f", part, sum)
		if math.Abs(part-0.5) > 0.02 || math.Abs(sum-0.98) > 0.03 {
			w.t.Errorf("the client has %.3f of the rate, all have %.3f", part, sum)
		}
		greedy.CloseWithError(0, "")
		honest.CloseWithError(0, "")
		wg.Wait()
	})
}

// TestLimitDelaysDeadlines checks that the wait for the rate limit does not count against the
// deadline of a write. A client that does not read is noticed nevertheless.
func TestLimitDelaysDeadlines(t *testing.T) {
	const rate = 100 << 10
	limitedWorld(t, 1, rate, func(w *world) {
		client, server := w.dial(nil)
		defer client.CloseWithError(0, "")
		stream, err := server.OpenStreamSync(w.t.Context())
		if err != nil {
			w.t.Fatal(err)
		}
		var wg sync.WaitGroup
		wg.Go(func() {
			in, err := client.AcceptStream(w.t.Context())
			if err != nil {
				w.t.Error(err)
				return
			}
			io.CopyN(io.Discard, in, 5*rate)
		})
		stream.SetWriteDeadline(time.Now().Add(time.Second))
		if n, err := stream.Write(make([]byte, 5*rate)); err != nil {
			w.t.Errorf("after %d bytes: %v", n, err)
		}
		wg.Wait()
		start := time.Now()
		stream.SetWriteDeadline(start.Add(time.Second))
		n, err := stream.Write(bytes.Repeat([]byte("x"), 100<<20)) // the client reads none
		if took := time.Since(start); err == nil || took > time.Duration(n)*time.Second/rate+2*time.Second {
			w.t.Errorf("%d bytes in %v, %v", n, took, err)
		}
	})
}

// TestRateShares checks that the shares are those of addresses and sessions, and that nothing is
// left of clients that are gone.
func TestRateShares(t *testing.T) {
	r := newRateShares(NewRateLimit(1000))
	a, b := netip.MustParsePrefix("192.0.2.1/32"), netip.MustParsePrefix("192.0.2.2/32")
	one, release1 := r.acquire(a, SessionID{1})
	again, release2 := r.acquire(a, SessionID{1})
	two, release3 := r.acquire(a, SessionID{2})
	other, release4 := r.acquire(b, SessionID{1})
	if one != again || one == two || one == other {
		t.Error("paths of a session have several shares, or sessions have one")
	}
	release1()
	if third, release := r.acquire(a, SessionID{1}); third != one {
		t.Error("a session's share changes while a path uses it")
	} else {
		release()
	}
	for _, release := range []func(){release2, release3, release4} {
		release()
	}
	if len(r.clients) != 0 {
		t.Errorf("%d clients remain", len(r.clients))
	}
	none, release := newRateShares(nil).acquire(a, SessionID{1})
	if release(); none.isLimited() {
		t.Error("a server without a limit limits")
	}
}

// TestAttackManySessions checks in virtual time that an address with many sessions has the share
// of one with a single session.
func TestAttackManySessions(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const rate, sessions = 1 << 20, 256
		r := newRateShares(NewRateLimit(rate))
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		var attacker, honest atomic.Int64
		var wg sync.WaitGroup
		send := func(addr string, id byte, sum *atomic.Int64) {
			share, release := r.acquire(netip.MustParsePrefix(addr), SessionID{id})
			defer release()
			share = share.share()
			for n := share.cut(64 << 10); share.wait(ctx, n) == nil; {
				sum.Add(int64(n))
			}
		}
		for i := range sessions {
			wg.Go(func() { send("192.0.2.1/32", byte(i), &attacker) })
		}
		wg.Go(func() { send("2001:db8::/64", 1, &honest) })
		wg.Wait()
		if part := float64(honest.Load()) / float64(honest.Load()+attacker.Load()); part < 0.49 {
			t.Errorf("beside %d sessions of another address a client has %.3f", sessions, part)
		} else {
			t.Logf("beside %d sessions of another address a client has %.3f", sessions, part)
		}
	})
}
