package serve

import (
	"context"
	"fmt"
	"kwikcp/kwik"
	"kwikcp/transfer/internal/transfertest"
	"kwikcp/transfer/source"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	transferpb "kwikcp/transfer/internal/wire/proto"
)

// TestAttackRequestRate sends far more requests than any client needs. They wait; none fails, and
// another client is not delayed.
func TestAttackRequestRate(t *testing.T) {
	const requests = 6000
	tree, _ := sickTreeOf(t)
	transfertest.OnNet(t, func(w *transfertest.Net) {
		serveOn(w, tree)
		attacker, honest := w.Dial(), w.Dial()
		defer attacker.CloseWithError(0, "")
		defer honest.CloseWithError(0, "")
		start := time.Now()
		var failed atomic.Int64
		var wg sync.WaitGroup
		for range 60 {
			wg.Go(func() {
				for range requests / 60 {
					replies, err := w.Ask(attacker, transfertest.Request(1, "missing"), true)
					if err != nil || len(replies) != 1 {
						failed.Add(1)
					}
				}
			})
		}
		for range 10 {
			asked := time.Now()
			replies, err := w.Ask(honest, transfertest.Request(1, "file"), true)
			codes, _ := failuresOf(replies)
			if took := time.Since(asked); err != nil || len(codes) > 0 || took > 500*time.Millisecond {
				w.T.Errorf("after %v: %v, %v", took, codes, err)
			}
			time.Sleep(100 * time.Millisecond)
		}
		wg.Wait()
		took := time.Since(start).Seconds()
		most := float64(sessionRequests.Burst) + took*sessionRequests.PerSecond + 100
		w.T.Logf("%d requests in %.2f s", requests, took)
		if requests > most || failed.Load() > 0 {
			w.T.Errorf("%d requests in %.2f s, %d failed", requests, took, failed.Load())
		}
	})
}

// TestAttackQueuedRequests opens streams that each announce a request of 64 KiB and never send
// it. The server charges them to the client, answers BUSY beyond the client's part of its memory,
// and serves others. When the client is gone its memory is free again.
func TestAttackQueuedRequests(t *testing.T) {
	const limit = 32 << 20
	tree, _ := sickTreeOf(t)
	transfertest.OnNet(t, func(w *transfertest.Net) {
		s := NewServer(source.Local(tree), w.Logger())
		l := w.Start(&kwik.ServerConfig{OpenContent: s.OpenContent, MemoryLimit: limit})
		w.Go(func() {
			s.Serve(w.Ctx, l)
			s.Close()
		})
		for range 3 {
			attacker := w.Dial()
			var busy, waiting atomic.Int64
			var wg sync.WaitGroup
			for range 100 {
				wg.Go(func() {
					replies, _ := w.Ask(attacker, []byte{0x80, 0x80, 0x04, 0x08}, false)
					if len(replies) == 1 && replies[0].GetFailure().GetCode() == transferpb.Failure_BUSY {
						busy.Add(1)
					} else {
						waiting.Add(1)
					}
				})
			}
			time.Sleep(time.Second)
			honest := w.Dial()
			replies, err := w.Ask(honest, transfertest.Request(1, "file"), true)
			if codes, _ := failuresOf(replies); err != nil || len(codes) > 0 {
				w.T.Errorf("another client gets %v, %v", replies, err)
			}
			honest.CloseWithError(0, "")
			wg.Wait()
			held := waiting.Load() * (2*64<<10 + requestMemory)
			w.T.Logf("%d requests were read, %d answered BUSY: %d KiB of %d", waiting.Load(), busy.Load(),
				held>>10, limit>>10)
			if held > limit/4 || waiting.Load() == 0 {
				w.T.Errorf("the client holds %d bytes of %d", held, limit)
			}
			attacker.CloseWithError(0, "")
			time.Sleep(time.Second)
			synctest.Wait()
		}
	})
}

// TestRequestLimit checks that an address has at most its part of the requests that run, and that
// those of others run meanwhile. Nothing remains of addresses without requests.
func TestRequestLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newRequestLimit()
		ctx, cancel := context.WithCancel(t.Context())
		a, b := netip.MustParsePrefix("192.0.2.1/32"), netip.MustParsePrefix("2001:db8::/64")
		var running, refused atomic.Int64
		release := make(chan struct{})
		var wg sync.WaitGroup
		for range 2 * maxPrefixRequests {
			wg.Go(func() {
				end, err := l.begin(ctx, a)
				if err != nil {
					refused.Add(1)
					return
				}
				running.Add(1)
				<-release
				end()
			})
		}
		synctest.Wait()
		if n := running.Load(); n != maxPrefixRequests {
			t.Errorf("%d requests of an address run, want %d", n, maxPrefixRequests)
		}
		end, err := l.begin(ctx, b)
		if err != nil {
			t.Fatal(err)
		}
		end()
		cancel()
		close(release)
		wg.Wait()
		if n := running.Load() + refused.Load(); n != 2*maxPrefixRequests || len(l.byPrefix) != 0 {
			t.Errorf("%d requests ended, %d addresses remain", n, len(l.byPrefix))
		}
	})
}

// TestRequestRateOfAddresses checks the rates of an address and of all.
func TestRequestRateOfAddresses(t *testing.T) {
	l, now := newRequestLimit(), time.Unix(1_000_000, 0)
	passed := func(prefix func(i int) netip.Prefix) (n int) {
		for i := range 100_000 {
			r := sessionRequestRate{limit: l, prefix: prefix(i)} // a new session each
			if r.take(now) == 0 {
				n++
			}
		}
		return n
	}
	one := passed(func(int) netip.Prefix { return netip.MustParsePrefix("192.0.2.1/32") })
	if one != prefixRequests.Burst {
		t.Errorf("%d requests of an address at once, want %d", one, prefixRequests.Burst)
	}
	now = now.Add(time.Hour)
	all := passed(func(i int) netip.Prefix {
		return netip.MustParsePrefix(fmt.Sprintf("10.0.%d.%d/32", i>>8&7, i&255))
	})
	if all != totalRequests.Burst || l.prefixes.Len() > maxPrefixes {
		t.Errorf("%d requests of all at once, want %d; %d addresses", all, totalRequests.Burst, l.prefixes.Len())
	}
}
