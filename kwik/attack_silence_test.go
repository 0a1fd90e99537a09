package kwik

import (
	"testing"
	"time"

	"kwikcp/internal/simnet"
)

// A client with streams acknowledges late, so that the server's probe time-outs are minutes long,
// and then vanishes. Its session ends nevertheless, with all that it holds.
func TestAttackVanishAfterALongRoundTrip(t *testing.T) {
	inWorldOf(t, unit, 0, lan, func(w *world) {
		client, server := w.dial(nil)
		w.openData(server, 2)
		time.Sleep(time.Second)
		addr, err := addrPort(client.LocalAddr())
		if err != nil {
			w.t.Fatal(err)
		}
		for _, latency := range []time.Duration{12 * time.Second, 40 * time.Second} {
			if err := w.net.SetLink(addr.Addr(), simnet.Link{Latency: latency}); err != nil {
				w.t.Fatal(err)
			}
			for range 40 { // each is acknowledged
				w.openData(server, 1)
				time.Sleep(5 * time.Second)
			}
		}
		w.net.Silence(addr.Addr())
		rtt := server.ConnectionStats()
		took := w.within(time.Hour, func() bool { return w.primary.Sessions() == 0 })
		w.t.Logf("round trip %v, deviation %v: the session ended after %v", rtt.SmoothedRTT, rtt.MeanDeviation, took)
		if took > 110*time.Second { // the last packets are on their way for 40 s
			w.t.Errorf("the session ended after %v", took)
		}
	})
}
