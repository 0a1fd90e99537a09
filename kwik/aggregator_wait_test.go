package kwik

import (
	"bytes"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/quic-go/quic-go"

	kwikpb "kwikcp/kwik/proto"
)

// comeAgain plays a secondary that says Welcome to one connection after the other and then acts; early, if it is not nil, is called before.
func (w *world) comeAgain(fake *fakeServer, id ServerID, early func(*quic.Conn), act func(*fakePeer)) {
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
			p.send(&kwikpb.ControlFrame{Frame: &kwikpb.ControlFrame_Welcome{Welcome: &kwikpb.Welcome{Version: protocolVersion, Role: kwikpb.Role_ROLE_SECONDARY, PathId: string(id)}}})
			act(p)
		}
	})
}

// A source that comes back again and again and delivers nothing does not keep a stream waiting beyond SourceTimeout.
func TestSourceThatComesAgainAndAgain(t *testing.T) {
	inWorldOf(t, 1<<20, 0, lan, func(w *world) {
		fake, id := w.fakeSecondary()
		client, server := w.dial(&ClientConfig{SourceTimeout: 20 * time.Second})
		w.comeAgain(fake, id, nil, func(p *fakePeer) {
			time.Sleep(500 * time.Millisecond)       // not stalled yet
			p.extent(bytes.Repeat([]byte{0xff}, 64)) // the client closes the path and dials again, 15 s later at most
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

// The same of many sources that each delivered a unit once, and open so many secondary streams whenever they come that others would have to wait:
// what their paths brought before is no news.
func TestSourcesThatComeAgainWithManyStreams(t *testing.T) {
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
			w.comeAgain(fake, id, early, func(p *fakePeer) {
				if times == 1 {
					g := p.granted()
					p.extent(wireOpen(firstAggregateStreamID, g.GetGrantId(), g.GetExpectedOffset()), wireData(w.data[g.GetExpectedOffset():][:unit]))
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
