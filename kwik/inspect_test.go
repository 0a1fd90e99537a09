package kwik

import (
	"strings"
	"testing"
	"time"

	"kwikcp/internal/simnet"
	kwikpb "kwikcp/kwik/proto"
)

// A client that inspects learns the description of each server and whether congestion marks
// arrive. Any other client learns nothing.
func TestConnection(t *testing.T) {
	const rtt = 100 * time.Millisecond
	inWorldOf(t, unit, 1, simnet.Link{Latency: rtt / 4}, func(w *world) {
		w.primary.config.Software = strings.Repeat("é", maxSoftware) // cut in a character's middle if one byte is before it
		w.secondaries[0].config.now = func() time.Time { return time.Now().Add(time.Hour) }
		for _, inspect := range []bool{false, true} {
			client, _ := w.dial(&ClientConfig{Inspect: inspect})
			w.wantState(client, "s1", PathActive)
			if _, ok := client.Connection("s2"); ok {
				t.Error("a connection to a server that was not announced")
			}
			for id, ahead := range map[ServerID]time.Duration{primaryID: 0, "s1": time.Hour} {
				c, ok := client.Connection(id)
				if !ok {
					w.t.Fatalf("inspect %t: no connection to %s", inspect, id)
				}
				if c.Local == nil || c.TLS.NegotiatedProtocol != protocolClient {
					t.Errorf("inspect %t: %s: from %v with protocol %q", inspect, id, c.Local, c.TLS.NegotiatedProtocol)
				}
				if (c.Host != nil) != inspect || (c.ECN != "") != inspect {
					w.t.Fatalf("inspect %t: %s: host %+v, ECN %q", inspect, id, c.Host, c.ECN)
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

// No description of a server harms a client.
func TestReadHost(t *testing.T) {
	now := time.Unix(1e9, 0)
	if readHost(nil, now, now) != nil {
		t.Error("a host of nothing")
	}
	for _, ms := range []int64{-1 << 63, -1, 0, 1<<63 - 1} {
		h := readHost(&kwikpb.Host{Software: strings.Repeat("x", 1000), TimeMs: ms, ReceiveBuffer: 1<<32 - 1}, now, now.Add(time.Second))
		if len(h.Software) != maxSoftware || h.ReceiveBuffer < 0 {
			t.Errorf("%d: software of %d bytes, receive buffer of %d", ms, len(h.Software), h.ReceiveBuffer)
		}
		if ahead := ms > 1e12; (h.Clock > 0) != ahead || h.ClockError < time.Second/2 {
			t.Errorf("%d: clock %v ± %v", ms, h.Clock, h.ClockError)
		}
	}
}
