package kwik

import (
	"bytes"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/quic-go/quic-go"

	kwikpb "kwikcp/kwik/proto"
)

// reconnect plays a secondary that welcomes one connection after the other and then calls act. It
// calls early before the Welcome, if it is not nil.
func (w *world) reconnect(fake *fakeServer, id ServerID, early func(*quic.Conn), act func(*fakePeer)) {
	w.wg.Go(func() {
		for {
			conn, err := fake.listener.Accept(w.t.Context())
			if err != nil {
				return
			}
			if early != nil {
				early(conn)
			}
			stream, err := conn.AcceptStream(w.t.Context())
			if err != nil {
				return
			}
			p := &fakePeer{t: w.t, conn: conn}
			p.use(stream)
			p.receive()
			welcome := &kwikpb.Welcome{Version: protocolVersion, Role: kwikpb.Role_ROLE_SECONDARY, PathId: string(id)}
			p.send(&kwikpb.ControlFrame{Frame: &kwikpb.ControlFrame_Welcome{Welcome: welcome}})
			act(p)
		}
	})
}

// A source that reconnects again and again and delivers nothing does not keep a stream alive
// beyond SourceTimeout.
func TestSourceThatReconnects(t *testing.T) {
	inWorldOf(t, 1<<20, 0, lan, func(w *world) {
		fake, id := w.fakeSecondary()
		client, server := w.dial(&ClientConfig{SourceTimeout: 20 * time.Second})
		w.reconnect(fake, id, nil, func(p *fakePeer) {
			time.Sleep(500 * time.Millisecond) // not stalled yet
			if p.conn.Context().Err() == nil { // the stream has not ended
				p.extent(bytes.Repeat([]byte{0xff}, 64)) // the client closes the path and dials again
			}
			<-p.conn.Context().Done()
		})
		s := w.offer(client, server, unit, nil)
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

// Many sources have each delivered one unit, and then reconnect again and again. On each
// connection they open so many secondary streams that others would have to wait. Bytes that a path
// delivered before it was attached again are not progress.
func TestSourcesThatReconnectWithManyStreams(t *testing.T) {
	inWorldOf(t, 1<<20, 0, lan, func(w *world) {
		for n := range 12 {
			pause := 200*time.Millisecond + time.Duration(n)*171*time.Millisecond
			times, dice := 0, rand.New(rand.NewPCG(1, uint64(n)))
			fake, id := w.fakeSecondary()
			early := func(conn *quic.Conn) {
				if times++; times == 1 {
					return
				}
				for range 20 {
					if s, err := conn.OpenUniStream(); err == nil {
						s.Write([]byte{0x80}) // no OPEN yet
					}
				}
			}
			w.reconnect(fake, id, early, func(p *fakePeer) {
				if times == 1 {
					g := p.granted()
					off := g.GetExpectedOffset()
					p.extent(wireOpen(firstAggregateStreamID, g.GetGrantId(), off), wireData(w.data[off:][:unit]))
				}
				time.Sleep(pause + time.Duration(dice.IntN(12000))*time.Millisecond)
				p.conn.CloseWithError(0, "")
			})
		}
		client, server := w.dial(nil)
		s := w.offer(client, server, unit, nil)
		w.primary.kill()
		c := w.copy(s)
		start := time.Now()
		<-c.done
		if took := time.Since(start); took > 30*time.Second || c.err == nil {
			t.Errorf("after %v: %v", took, c.err)
		}
		client.CloseWithError(0, "")
	})
}
