package kwik

import (
	"bytes"
	"context"
	"io"
	"net/netip"
	"sync/atomic"
	"testing"
	"time"

	"github.com/quic-go/quic-go"
)

func TestSilence(t *testing.T) {
	start := time.Unix(1e9, 0)
	var w silence
	for _, step := range []struct {
		at          time.Duration
		received    uint64
		isWaitedFor bool
		probe, ask  bool
	}{
		{0, 7, true, false, false}, // the start
		{900 * time.Millisecond, 7, true, false, false},
		{time.Second, 7, true, true, false},
		{1500 * time.Millisecond, 7, true, false, false},
		{2 * time.Second, 7, true, true, true},
		{3 * time.Second, 7, true, true, false},
		{4 * time.Second, 8, true, false, false}, // it answers
		{5 * time.Second, 8, true, true, false},
		{6 * time.Second, 8, false, false, false}, // nothing is due any more
		{6900 * time.Millisecond, 8, true, false, false},
		{time.Hour, 8, true, true, true}, // the process was suspended
		{time.Hour + time.Second, 8, true, true, false},
	} {
		probe, ask := w.observe(step.received, step.isWaitedFor, start.Add(step.at))
		if probe != step.probe || ask != step.ask {
			t.Errorf("at %v: probe %v, ask %v, want %v, %v", step.at, probe, ask, step.probe, step.ask)
		}
	}
}

// TestExcuse checks how long a server may be idle after a silence in which the client waited.
func TestExcuse(t *testing.T) {
	start := time.Unix(1e9, 0)
	var w silence
	check := func(after, want time.Duration) {
		t.Helper()
		if got := w.excuse(start.Add(after)); got != want {
			t.Errorf("after %v: %v, want %v", after, got, want)
		}
	}
	check(time.Hour, 0) // nothing was observed
	w.observe(7, false, start)
	w.observe(7, false, start.Add(time.Hour)) // nothing was awaited
	start = start.Add(time.Hour)
	check(answeringTime-1, 0)
	check(answeringTime, answeringTime+silentTime)
	w.observe(7, true, start.Add(5*time.Second))
	check(8*time.Second, 9*time.Second)
	check(longestExcuse, longestExcuse)
	check(24*time.Hour, longestExcuse) // suspended
	w.observe(8, true, start.Add(8*time.Second))
	check(8*time.Second, 0)
}

// TestShortOutages checks that a stream outlives outages that end before QUIC's connection does.
// The server's retransmissions are then far apart.
func TestShortOutages(t *testing.T) {
	for outage := 2 * time.Second; outage < 30*time.Second; outage += 3 * time.Second {
		inWorldOf(t, 1<<20, 0, slow, func(w *world) {
			client, server := w.dial(&ClientConfig{OutageTimeout: 75 * time.Second})
			c := w.copy(w.offer(client, server, unit, nil))
			w.within(time.Second, func() bool { return delivered(c.s, primaryID) > 0 })
			w.net.Silence(w.primary.addr.Addr())
			time.Sleep(outage)
			w.net.Heal(w.primary.addr.Addr())
			c.wantAll()
		})
	}
}

// withResets makes a server answer packets of connections that it does not know.
var withResets = configured(func(c *ServerConfig) { c.StatelessResetKey = &quic.StatelessResetKey{1, 2, 3} })

// TestAnswerOfRestartedServer checks that a client that waits for an answer hears of the restart of
// its primary. The client has nothing to send, and QUIC's probes evoke no reset.
func TestAnswerOfRestartedServer(t *testing.T) {
	inWorld(t, 0, lan, func(w *world) {
		w.primary.stop()
		w.primary = w.serve(ServerRolePrimary, restarted(w.primary), withResets)
		client, _ := w.dial(nil)
		stream, err := client.OpenStreamSync(w.t.Context())
		if err != nil {
			w.t.Fatal(err)
		}
		stream.Write([]byte("request"))
		time.Sleep(time.Second)
		old := w.primary
		old.kill()
		w.primary = w.serve(ServerRolePrimary, restarted(old), withResets)
		begun := time.Now()
		if _, err := stream.Read(make([]byte, 1)); err == nil {
			w.t.Error("an answer of a server that knows nothing of the request")
		}
		if took := time.Since(begun); took > 4*time.Second {
			w.t.Errorf("the client waited for %v", took)
		}
	})
}

// TestProbesOfLivingServer checks that a slow answer is waited for.
func TestProbesOfLivingServer(t *testing.T) {
	inWorld(t, 0, lan, func(w *world) {
		client, server := w.dial(nil)
		w.wg.Go(func() {
			s, err := server.AcceptStream(context.Background())
			if err == nil {
				time.Sleep(5 * time.Minute)
				s.Write([]byte("answer"))
				s.Close()
			}
		})
		stream, err := client.OpenStreamSync(w.t.Context())
		if err != nil {
			w.t.Fatal(err)
		}
		stream.Write([]byte("request"))
		got, err := io.ReadAll(stream)
		if err != nil || !bytes.Equal(got, []byte("answer")) {
			w.t.Errorf("%q, %v", got, err)
		}
	})
}

// TestOutages checks that a stream outlives the outage of its only server, whose tickets it has. It
// continues soon after the outage, whatever was lost.
func TestOutages(t *testing.T) {
	moments := []uint64{20_000, 70_000, 150_000, 300_000, 600_000, 2_000_000} // bytes before the outage
	for _, outage := range []time.Duration{5 * time.Second, 20 * time.Second, time.Minute, 10 * time.Minute} {
		for _, arrived := range moments {
			inWorldOf(t, 4<<20, 0, slow, func(w *world) {
				client, server := w.dial(&ClientConfig{SourceTimeout: outage + 15*time.Second})
				c := w.copy(w.offer(client, server, unit, nil))
				w.within(10*time.Second, func() bool { return w.path(client, primaryID).Wire.BytesReceived > arrived })
				w.net.Silence(w.primary.addr.Addr())
				time.Sleep(outage)
				w.net.Heal(w.primary.addr.Addr())
				begun := time.Now()
				c.wantAll()
				took, most := time.Since(begun), 8*time.Second // after the idle time-out the keeper dials again
				if outage > 30*time.Second {
					most = 15 * time.Second
				}
				if took > most {
					w.t.Errorf("%v after %d bytes: it took %v more", outage, arrived, took)
				}
			})
		}
	}
}

// TestGoneServers checks that a stream ends soon when the port of its last server is
// closed. It continues if there is another one, and it outlives a restart.
func TestGoneServers(t *testing.T) {
	for _, tt := range []struct {
		name        string
		secondaries int
		downFor     time.Duration
		wantEnd     time.Duration // 0 if the stream must end well
	}{
		{"for good", 0, time.Hour, 10 * time.Second},
		{"with a secondary", 1, time.Hour, 0},
		{"for a restart", 0, 2 * time.Second, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			inWorldOf(t, 4<<20, tt.secondaries, slow, func(w *world) {
				var isClosed atomic.Bool
				primary := w.primary.addr // that of the restarted one, too
				client, server := w.dial(&ClientConfig{
					SourceTimeout: 10 * time.Minute,
					askPort: func(ctx context.Context, server netip.AddrPort) bool {
						if server == primary && isClosed.Load() {
							return true
						}
						<-ctx.Done()
						return false
					},
				})
				c := w.copy(w.offer(client, server, unit, nil))
				w.within(time.Second, func() bool { return delivered(c.s, primaryID) > 0 })
				old := w.primary
				old.kill()
				isClosed.Store(true)
				begun := time.Now()
				time.AfterFunc(tt.downFor, func() {
					if w.t.Context().Err() == nil && tt.downFor < time.Minute {
						w.primary = w.serve(ServerRolePrimary, restarted(old))
						isClosed.Store(false)
					}
				})
				if tt.wantEnd == 0 {
					c.wantAll()
					return
				}
				<-c.done
				wantError(w.t, c.err, ErrAggregationTimeout)
				if took := time.Since(begun); took > tt.wantEnd {
					w.t.Errorf("the stream ended after %v", took)
				}
			})
		})
	}
}

// TestRollingRestarts checks that after restarts of both servers, in any order, a running stream
// uses both again.
func TestRollingRestarts(t *testing.T) {
	for name, order := range map[string][]int{ // 0 is the primary
		"primary, secondary":          {0, 1},
		"secondary, primary":          {1, 0},
		"primary, secondary, primary": {0, 1, 0},
	} {
		t.Run(name, func(t *testing.T) {
			inWorldOf(t, 32<<20, 0, slow, func(w *world) {
				w.primary.stop()
				w.primary = w.serve(ServerRolePrimary, restarted(w.primary), withResets)
				w.secondaries = append(w.secondaries, w.join(withResets))
				client, server := w.dial(&ClientConfig{SourceTimeout: time.Minute})
				w.wantState(client, "s1", PathActive)
				c := w.copy(w.offer(client, server, unit, nil))
				w.within(time.Second, func() bool { return delivered(c.s, primaryID) > 0 && delivered(c.s, "s1") > 0 })
				for _, i := range order {
					if i == 0 {
						old := w.primary
						old.kill()
						time.Sleep(200 * time.Millisecond)
						w.primary = w.serve(ServerRolePrimary, restarted(old), withResets)
						w.secondaries[0].member.Close() // it would notice the restart itself, by its idle time-out
						w.secondaries[0].join(JoinConfig{Token: w.token})
					} else {
						old := w.secondaries[0]
						old.kill()
						time.Sleep(200 * time.Millisecond)
						w.secondaries[0] = w.join(restarted(old), withResets)
					}
					time.Sleep(time.Second)
				}
				for _, id := range []ServerID{primaryID, "s1"} {
					before := delivered(c.s, id)
					w.within(10*time.Second, func() bool { return delivered(c.s, id) > before+unit })
				}
				c.wantAll()
			})
		})
	}
}

// TestWithdrawnServerOfDeadPrimary checks that a secondary that the primary withdrew before it died
// serves a running stream again when it is back.
func TestWithdrawnServerOfDeadPrimary(t *testing.T) {
	inWorldOf(t, 24<<20, 0, slow, func(w *world) {
		secondary := w.join(withResets)
		client, server := w.dial(&ClientConfig{SourceTimeout: time.Minute})
		w.wantState(client, "s1", PathActive)
		c := w.copy(w.offer(client, server, unit, nil))
		w.within(time.Second, func() bool { return delivered(c.s, primaryID) > 0 })
		secondary.member.Close() // and is withdrawn
		secondary.kill()
		time.Sleep(200 * time.Millisecond)
		old := w.primary
		old.kill()
		w.primary = w.serve(ServerRolePrimary, restarted(old))
		w.secondaries = append(w.secondaries, w.join(restarted(secondary), withResets))
		before := delivered(c.s, "s1")
		w.within(40*time.Second, func() bool { return delivered(c.s, "s1") > before+unit })
		c.wantAll()
	})
}

// TestBannedPrimaryAnswers checks that wrong bytes of the primary end its use as a source, and not
// the application's streams to it.
func TestBannedPrimaryAnswers(t *testing.T) {
	inWorldOf(t, 8<<20, 1, slow, func(w *world) {
		old := w.primary
		old.stop()
		w.primary = w.serve(ServerRolePrimary, restarted(old), corrupt(func(p []byte) { clear(p[len(p)/8:]) }))
		w.secondaries[0].member.Close()
		w.secondaries[0].join(JoinConfig{Token: w.token})
		client, server := w.dial(&ClientConfig{ConnectionsPerServer: 2})
		w.wantState(client, "s1", PathActive)
		stream, err := client.OpenStreamSync(w.t.Context())
		if err != nil {
			w.t.Fatal(err)
		}
		stream.Write([]byte("request"))
		answering, err := server.AcceptStream(w.t.Context())
		if err != nil {
			w.t.Fatal(err)
		}
		c := w.copy(w.offer(client, server, unit, w.prove))
		c.wantAll()
		if state := w.path(client, primaryID).State; state != PathBanned {
			w.t.Errorf("the primary is %v", state)
		}
		time.Sleep(time.Second)
		answering.Write([]byte("answer"))
		answering.Close()
		got, err := io.ReadAll(stream)
		if err != nil || string(got) != "answer" {
			w.t.Errorf("%q, %v", got, err)
		}
		delivering := delivered(c.s, primaryID)
		again := w.copy(w.offer(client, server, unit, w.prove))
		again.wantAll()
		if n := delivered(again.s, primaryID); n > 0 {
			w.t.Errorf("%d bytes of a banned server, which delivered %d before", n, delivering)
		}
	})
}
