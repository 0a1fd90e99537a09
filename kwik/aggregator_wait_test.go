package kwik

import (
	"bytes"
	"testing"
	"time"

	kwikpb "kwikcp/kwik/proto"
)

// A source that comes back again and again and delivers nothing does not keep a stream waiting beyond SourceTimeout.
func TestSourceThatComesAgainAndAgain(t *testing.T) {
	inWorldOf(t, 1<<20, 0, lan, func(w *world) {
		fake, id := w.fakeSecondary()
		client, server := w.dial(&Config{SourceTimeout: 20 * time.Second})
		w.wg.Go(func() {
			for {
				conn, err := fake.listener.Accept(w.t.Context())
				if err != nil {
					return
				}
				p := &fakePeer{t: w.t, conn: conn}
				stream, err := conn.AcceptStream(w.t.Context())
				if err != nil {
					return
				}
				p.use(stream)
				p.receive()
				p.send(&kwikpb.ControlFrame{Frame: &kwikpb.ControlFrame_Welcome{Welcome: &kwikpb.Welcome{Version: protocolVersion, Role: kwikpb.Role_ROLE_SECONDARY, PathId: string(id)}}})
				time.Sleep(500 * time.Millisecond)       // not stalled yet
				p.extent(bytes.Repeat([]byte{0xff}, 64)) // the client closes the path and dials again, 15 s later at most
				<-p.conn.Context().Done()
			}
		})
		s := w.offer(client, server, unit)
		w.primary.kill()
		c := w.copy(s)
		select {
		case <-c.done:
			wantError(t, c.err, ErrAggregationTimeout)
		case <-time.After(5 * time.Minute):
			t.Errorf("the stream still waits: %+v", s.Stats())
		}
		client.CloseWithError(0, "")
	})
}
