package kwik

import (
	"strings"
	"testing"
	"time"

	"kwikcp/internal/simnet"
	kwikpb "kwikcp/kwik/proto"
)

// A client that asks learns of each server what it says of itself, and whether marks of congestion arrive; one that does not learns nothing.
func TestConnection(t *testing.T) {
	const rtt = 100 * time.Millisecond
	inWorldOf(t, unit, 1, simnet.Link{Latency: rtt / 4}, func(w *world) {
		w.primary.config.Software = strings.Repeat("é", maxSoftware) // cut in a character's middle if one byte is before it
		w.secondaries[0].config.now = func() time.Time { return time.Now().Add(time.Hour) }
		for _, inspect := range []bool{false, true} {
			client, _ := w.dial(&ClientConfig{Inspect: inspect})
			w.wantState(client, "s1", PathActive)
			if _, ok := client.Connection("s2"); ok {
				t.Error("a connection to a server that nobody knows")
			}
			for id, ahead := range map[ServerID]time.Duration{primaryID: 0, "s1": time.Hour} {
				c, ok := client.Connection(id)
				if !ok || c.Local == nil || c.TLS.NegotiatedProtocol != protocolClient || (c.Host != nil) != inspect || (c.ECN != "") != inspect {
					t.Fatalf("inspect %t: %s: %t, %+v", inspect, id, ok, c)
				}
				if !inspect {
					continue
				}
				if off := (c.Host.Clock - ahead).Abs(); off > c.Host.ClockError || c.Host.ClockError > rtt/2+2*time.Millisecond {
					t.Errorf("%s: clock %v ± %v", id, c.Host.Clock, c.Host.ClockError)
				}
				if want := strings.Repeat("é", maxSoftware/2); id == primaryID && c.Host.Software != want {
					t.Errorf("software %q", c.Host.Software)
				}
			}
			client.CloseWithError(0, "")
		}
	})
}

// Nothing that a server says of itself harms a client.
func TestReadHost(t *testing.T) {
	now := time.Unix(1e9, 0)
	if readHost(nil, now, now) != nil {
		t.Error("a host of nothing")
	}
	for _, ms := range []int64{-1 << 63, -1, 0, 1<<63 - 1} {
		h := readHost(&kwikpb.Host{Software: strings.Repeat("x", 1000), TimeMs: ms, ReceiveBuffer: 1<<32 - 1}, now, now.Add(time.Second))
		if len(h.Software) != maxSoftware || h.ReceiveBuffer < 0 || (h.Clock > 0) != (ms > 1e12) || h.ClockError < time.Second/2 {
			t.Errorf("%d: %+v", ms, h)
		}
	}
}
