package kwik

import (
	"io"
	"sync"
	"testing"
	"time"

	"kwikcp/internal/simnet"
	kwikpb "kwikcp/kwik/proto"
)

// Bytes that are written after DialEarly travel with Hello: a server has them before it sends
// Welcome.
func TestDialEarly(t *testing.T) {
	inWorldOf(t, unit, 0, lan, func(w *world) {
		server := w.fakeServer()
		w.wg.Go(func() {
			client, err := w.tryDialWith(DialEarly, server.addr, server.pin, nil)
			if err != nil {
				w.t.Error(err)
				return
			}
			stream, err := client.OpenStream()
			if err != nil {
				w.t.Error(err)
				return
			}
			stream.Write([]byte("soon"))
			stream.Close()
		})
		p, _ := server.accept()
		conn, err := p.conn.AcceptStream(w.t.Context())
		if err != nil {
			w.t.Fatal(err)
		}
		if got, err := io.ReadAll(conn); err != nil || string(got) != "soon" {
			w.t.Fatalf("%q, error %v", got, err)
		}
	})
}

// A server that refuses a client has not read the bytes that the client sent with Hello. The
// client's calls, Welcomed included, fail with the error that Dial would have returned.
func TestDialEarlyIsRefused(t *testing.T) {
	inWorldOf(t, unit, 1, lan, func(w *world) {
		secondary := w.secondaries[0]
		if _, err := w.tryDial(secondary.addr, secondary.pin(), nil); err == nil {
			w.t.Fatal("a secondary takes a session")
		}
		client, err := w.tryDialWith(DialEarly, secondary.addr, secondary.pin(), nil)
		if err != nil {
			w.t.Fatal(err)
		}
		stream, err := client.OpenStream()
		if err != nil {
			w.t.Fatal(err)
		}
		stream.Write([]byte("a request"))
		if st := w.path(client, primaryID); st.State != PathConnecting {
			w.t.Errorf("the path is %v before Welcome", st.State)
		}
		_, err = stream.Read(make([]byte, 1))
		wantError(w.t, err, ErrInvalidStreamRole)
		wantError(w.t, client.Welcomed(w.t.Context()), ErrInvalidStreamRole)
		if len(secondary.sessions) != 0 {
			w.t.Error("the server has a session of it")
		}
	})
}

// A secondary gets the attachment and the grants of a stream together with Hello.
func TestAttachmentTravelsWithHello(t *testing.T) {
	inWorldOf(t, 8*unit, 0, lan, func(w *world) {
		client, server := w.dial(nil)
		stream := w.offer(client, server, unit, nil)
		copying := w.copy(stream)
		fake, id := w.fakeSecondary()
		p, hello := fake.accept()
		if ServerID(hello.GetPathId()) != id {
			w.t.Errorf("Hello %v", hello)
		}
		p.control.SetReadDeadline(time.Now().Add(time.Second))
		if o := p.attached(); StreamID(o.GetKwikStreamId()) != stream.StreamID() {
			w.t.Errorf("attachment %v", o)
		}
		p.send(&kwikpb.ControlFrame{Frame: &kwikpb.ControlFrame_Welcome{Welcome: &kwikpb.Welcome{Version: protocolVersion, Role: kwikpb.Role_ROLE_SECONDARY}}})
		w.wantState(client, id, PathActive)
		p.conn.CloseWithError(ApplicationErrorCode(NoError), "")
		copying.wantAll()
	})
}

// The arrival of each server's first bytes, in round trips from the client's first packet. The
// primary's arrive with the offer, or after grants if there is no head start. Those of a
// secondary that is known since Welcome arrive after its handshake.
func TestFirstBytes(t *testing.T) {
	const rtt = 400 * time.Millisecond
	for _, c := range []struct {
		headStart          int64
		primary, secondary int
	}{{0, 3, 4}, {unit, 2, 4}} {
		inWorldOf(t, 40*unit, 2, simnet.Link{Latency: rtt / 4}, func(w *world) {
			for _, s := range append(w.secondaries, w.primary) { // frames that fit QUIC's first congestion window
				s.config.BufferSize = 16 << 10
			}
			w.wg.Go(func() {
				_, err := (<-w.primary.sessions).OpenAggregateStream(AggregateStreamSpec{
					Size: 40 * unit, Alignment: 1000, Descriptor: []byte("data"), HeadStart: c.headStart,
				})
				if err != nil {
					w.t.Error(err)
				}
			})
			begun := time.Now()
			client, err := w.tryDialWith(DialEarly, w.primary.addr, w.primary.pin(), nil)
			if err != nil {
				w.t.Fatal(err)
			}
			var mu sync.Mutex
			first := make(map[ServerID]time.Duration)
			stream := w.accept(client, firstAggregateStreamID, func(source ServerID, off int64, p []byte) error {
				mu.Lock()
				defer mu.Unlock()
				if first[source] == 0 {
					first[source] = time.Since(begun)
				}
				return w.prove(source, off, p)
			})
			w.copy(stream).wantAll()
			for id, trips := range map[ServerID]int{"primary": c.primary, "s1": c.secondary, "s2": c.secondary} {
				if got := float64(first[id]) / float64(rtt); got < float64(trips) || got > float64(trips)+0.1 {
					w.t.Errorf("head start %d: %s after %.3f round trips, want %d", c.headStart, id, got, trips)
				}
			}
		})
	}
}
