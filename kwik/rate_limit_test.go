package kwik

import (
	"context"
	"fmt"
	"math"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"kwikcp/internal/simnet"
)

func TestRateLimit(t *testing.T) {
	for _, rate := range []int64{-1, 0, 1, 99, 1 << 10, 1 << 20, 1 << 40, math.MaxInt64} {
		l := NewRateLimit(rate)
		if n := l.share().cut(1 << 20); n < 1 || n > maxPiece || int64(n) > l.burst {
			t.Errorf("%d bytes a second: pieces of %d, a bucket of %d", rate, n, l.burst)
		}
		if w := l.window(); w < minLimitedWindow || w > 8<<20 {
			t.Errorf("%d bytes a second: a window of %d", rate, w)
		}
	}
	synctest.Test(t, func(t *testing.T) {
		l, start := NewRateLimit(1000), time.Now()
		share := l.share()
		if err := share.wait(t.Context(), 5000); err != nil {
			t.Fatal(err)
		}
		if d := time.Since(start); d < 4900*time.Millisecond || d > 5*time.Second {
			t.Errorf("5000 bytes took %v", d)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := share.wait(ctx, 1<<30); err == nil {
			t.Error("no error after the end of the context")
		}
		if err := share.wait(t.Context(), 1); err != nil {
			t.Errorf("after a request that ended with its context: %v", err)
		}
		none := (*RateLimit)(nil).share().share()
		if err := none.wait(ctx, 1<<30); err != nil || none.cut(77) != 77 {
			t.Error("no limit limits")
		}
	})
}

// The limit makes up for the delays of a busy machine. It does not make up for idle time beyond
// bucketTime.
func TestRateLimitMakesUpForDelays(t *testing.T) {
	const rate = 4 << 20
	synctest.Test(t, func(t *testing.T) {
		l, start := NewRateLimit(rate).share(), time.Now()
		type passing struct {
			at  time.Duration
			sum int // of all bytes so far
		}
		var passed []passing
		sum := 0
		pass := func(until time.Duration, delayed bool) {
			ran := time.Now()
			for time.Since(start) < until {
				n := l.cut(1 << 20)
				if err := l.wait(t.Context(), n); err != nil {
					t.Fatal(err)
				}
				sum += n
				passed = append(passed, passing{time.Since(start), sum})
				if delayed && time.Since(ran) >= 20*time.Millisecond {
					time.Sleep(200 * time.Millisecond) // others have the processor
					ran = time.Now()
				}
			}
		}
		pass(4*time.Second, true)
		if took := float64(sum) / rate; took < 3.8 || took > 4.01 {
			t.Errorf("the bytes of %.2f s passed in 4, with delays", took)
		}
		time.Sleep(time.Minute)
		before := sum
		pass(time.Minute+5*time.Second, false)
		if took := float64(sum-before) / rate; took > 1.05 {
			t.Errorf("the bytes of %.2f s passed in the first after a pause", took)
		}
		for i, first := range passed {
			for _, last := range passed[i+1:] {
				if most := (last.at-first.at+bucketTime).Seconds()*rate + 1; float64(last.sum-first.sum) > most {
					t.Fatalf("%d bytes from %v to %v", last.sum-first.sum, first.at, last.at)
				}
			}
		}
	})
}

// A limited client receives the bytes of its rate, no more and no less, from any number of
// servers. This holds for the first second and for the whole transfer. The client treats no
// server as stalled and opens no further connections.
func TestRateLimitOfAClient(t *testing.T) {
	rates := []int64{100 << 10, 1 << 20}
	for _, rate := range rates {
		for _, secondaries := range []int{0, 2} {
			for _, latency := range []time.Duration{time.Millisecond, 25 * time.Millisecond} {
				t.Run(fmt.Sprintf("%d KiB/s, %d servers, RTT %v", rate>>10, 1+secondaries, 2*latency), func(t *testing.T) {
					inWorldOf(t, int(5*rate), secondaries, simnet.Link{Latency: latency, Rate: 200e6}, func(w *world) {
						client, server := w.dial(&ClientConfig{Config: Config{RateLimit: NewRateLimit(rate)}})
						s := w.offer(client, server, unit, nil)
						w.within(time.Minute, func() bool { return client.Stats().ActivePaths == 1+secondaries })
						before := client.Stats().Wire.BytesReceived
						start := time.Now()
						c := w.copy(s)
						time.Sleep(time.Second)
						came := float64(client.Stats().Wire.BytesReceived - before)
						inPlace := float64(s.Stats().Bytes)
						for range 30 {
							time.Sleep(100 * time.Millisecond)
							for _, src := range s.Stats().Sources {
								if src.Stalled || src.Gone != nil {
									t.Errorf("%s is held up by this side, and said to be stalled: %+v", src.Server, src)
								}
							}
						}
						c.wantAll()
						took := time.Since(start).Seconds()
						t.Logf("first second: %.3f on the wire, %.3f in place; all: %.3f of the limit", came/float64(rate), inPlace/float64(rate), 5/took)
						// Packets have headers, and the servers fill the windows of the
						// connections once. The windows grow to four round trips' bytes.
						windows := (1+float64(secondaries))*float64(NewRateLimit(rate).window()) + 4*2*latency.Seconds()*float64(rate)*2
						if most := 1.05*1.05*float64(rate) + windows; latency == time.Millisecond && came > most {
							t.Errorf("%.0f bytes arrived in the first second, at most %.0f are allowed", came, most)
						}
						if inPlace > 1.05*float64(rate) {
							t.Errorf("%.0f bytes were in place after a second", inPlace)
						}
						if slowStart := 12 * 2 * latency.Seconds(); took < 4.75 || took > 5.25+slowStart {
							t.Errorf("it took %.2f s and not 5", took)
						}
						for _, p := range client.Servers() {
							if p.connections > 1 {
								t.Errorf("%d connections to %s", p.connections, p.ID)
							}
						}
						delivered := 0
						for _, src := range s.Stats().Sources {
							if src.Bytes > rate/4 {
								delivered++
							}
						}
						if delivered != 1+secondaries {
							t.Errorf("%d servers delivered: %+v", delivered, s.Stats().Sources)
						}
						if wasted := s.Stats().Wasted; wasted > int64(len(w.data))/50 {
							t.Errorf("%d bytes were wasted", wasted)
						}
					})
				})
			}
		}
	}
}

// A limited server does not exceed its rate over all clients together, and gives each client its
// share.
func TestRateLimitOfAServer(t *testing.T) {
	for _, rate := range []int64{1 << 20, 10 << 20} {
		for _, clients := range []int{1, 3} {
			t.Run(fmt.Sprintf("%d MiB/s, %d clients", rate>>20, clients), func(t *testing.T) {
				inWorldOf(t, int(rate)*3/clients, 0, simnet.Link{Latency: time.Millisecond, Rate: 1e9}, func(w *world) {
					w.primary.stop()
					w.primary = w.serve(ServerRolePrimary, configured(func(c *ServerConfig) { c.RateLimit = NewRateLimit(rate) }))
					var sessions []*ClientSession
					var streams []*AggregateReader
					for range clients {
						client, server := w.dial(nil)
						sessions = append(sessions, client)
						streams = append(streams, w.offer(client, server, unit, nil))
					}
					received := func() (sum uint64) {
						for _, c := range sessions {
							sum += c.Stats().Wire.BytesReceived
						}
						return sum
					}
					before, start := received(), time.Now()
					var copies []*copying
					for _, s := range streams {
						copies = append(copies, w.copy(s))
					}
					time.Sleep(time.Second)
					first := float64(received() - before)
					var parts []int64
					for _, s := range streams {
						parts = append(parts, s.Stats().Bytes)
					}
					for _, c := range copies {
						c.wantAll()
					}
					took := time.Since(start).Seconds()
					t.Logf("first second: %.3f on the wire; all: %.3f of the limit; parts %v", first/float64(rate), 3/took, parts)
					if first > 1.05*1.05*float64(rate) || first < 0.95*float64(rate) {
						t.Errorf("%.0f bytes in the first second", first)
					}
					if math.Abs(took-3) > 0.15 {
						t.Errorf("it took %.2f s and not 3", took)
					}
					if least, most := slices.Min(parts), slices.Max(parts); most-least > 2*int64(dataFrameSize) {
						t.Errorf("unequal parts: %v", parts)
					}
				})
			})
		}
	}
}
