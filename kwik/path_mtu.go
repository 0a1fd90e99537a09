package kwik

import (
	"context"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/quic-go/quic-go"

	kwikpb "kwikcp/kwik/proto"
)

// This file lets connections outlive a fall of their path's MTU, and makes them continue soon after
// an outage.
//
// Connections begin with packets of 1,200 bytes, which QUIC requires of every path. A client sends
// no others: its requests and acknowledgments are small. The packets of servers grow (path MTU
// discovery, RFC 8899). quic-go never makes them shorter: if the MTU falls below their length, long
// packets are lost and short ones, such as acknowledgments, still arrive. A server begins with
// 1,200 bytes again if the client's address changes. So a client that waits for a server, and sees
// no payload although long packets had arrived, moves its connection to another socket. All streams
// continue. If the server is only slow, the move costs a slow start.
//
// After an outage the server repeats what was lost. It doubles the time between two attempts (RFC
// 9002, section 6.2.1), so that time may be as long as the outage. Meanwhile its congestion window
// may be full of lost packets. The same move makes quic-go's server repeat them at once.

const (
	// smallPacket is the size of QUIC packets that every path lets pass, in bytes.
	smallPacket = 1200
	// firstWindow is the first congestion window of quic-go, in bytes: 32 packets.
	firstWindow = 32 * smallPacket
	// payloadWait is the time without payload after which a connection is moved, or
	// payloadRoundTrips if that is longer.
	payloadWait       = 2 * time.Second
	payloadRoundTrips = 6
	// moveInterval is the least time between two moves of a connection.
	moveInterval = 5 * time.Second
	// moveTimeout bounds the time in which the server must answer on the new socket.
	moveTimeout = 2 * time.Second
)

// A traffic is what a path has carried since its start.
type traffic struct {
	packetsReceived, bytesReceived uint64
	payload                        int64 // bytes of streams that arrived, or were accepted from writers
}

// A blackHole decides when the packets of a path have become too long for it, or are not repeated
// after an outage. Time is an argument. The zero value is ready.
type blackHole struct {
	last       traffic
	payloadAt  time.Time // when there was payload last; zero before the start
	movedAt    time.Time // when the last move was due; zero for never
	usesLong   bool      // packets longer than smallPacket have arrived since the last move
	heardAt    time.Time // when a packet arrived last
	hadOutage  bool      // packets have arrived after a silence of answeringTime, but no payload
	mayBeReset bool      // see moved
}

// observe records what the path has carried, and reports whether the connection should move.
func (b *blackHole) observe(t traffic, isWaitedFor bool, rtt time.Duration, now time.Time) (move bool) {
	last := b.last
	b.last = t
	packets := t.packetsReceived - last.packetsReceived
	if t.bytesReceived-last.bytesReceived > packets*smallPacket {
		b.usesLong = true
	}
	if packets > 0 || b.heardAt.IsZero() {
		wasSilent := !b.heardAt.IsZero() && now.Sub(b.heardAt) >= answeringTime
		if wasSilent && last.payload > firstWindow { // less does not fill a server's window
			b.hadOutage, b.movedAt = true, time.Time{} // moves in the outage say nothing
		}
		b.heardAt = now
	}
	wait := max(payloadWait, payloadRoundTrips*rtt)
	switch recently := now.Add(-wait / 2); {
	case t.payload != last.payload || b.payloadAt.IsZero():
		b.payloadAt, b.hadOutage = now, false
	case !isWaitedFor && b.payloadAt.Before(recently): // half of the time must pass while it is waited for
		b.payloadAt = recently
	}
	mayHelp := b.usesLong || b.hadOutage || b.mayBeReset && now.Sub(b.heardAt) >= wait
	if !isWaitedFor || !mayHelp || now.Sub(b.payloadAt) < wait || now.Sub(b.movedAt) < moveInterval {
		return false
	}
	b.movedAt = now
	return true
}

// moved records a move. On a spare socket quic-go does not recognize stateless resets, so a
// connection that falls silent there should move back.
func (b *blackHole) moved(toSpare bool) {
	b.usesLong, b.hadOutage, b.mayBeReset = false, false, toSpare
}

// The pathSockets of a path are the one that it was dialed on and a spare one. quic-go ends a
// connection when one of its transports is closed, so both stay open until the path has ended.
type pathSockets struct {
	first  *quic.Transport // closed by path.release
	spare  *quic.Transport // nil before the first move
	socket net.PacketConn  // of spare
	// onSpare means that the connection uses the spare socket.
	onSpare bool
}

func (s *pathSockets) close() {
	if s.spare != nil {
		s.spare.Close()
		s.socket.Close()
	}
}

// other returns the socket that the connection does not use, and opens it if necessary.
func (s *pathSockets) other(ctx context.Context, p *path) (*quic.Transport, error) {
	if s.onSpare {
		return s.first, nil
	}
	if s.spare == nil {
		socket, err := p.session.config.ListenPacket(ctx, p.addr)
		if err != nil {
			return nil, err
		}
		s.socket, s.spare = socket, &quic.Transport{Conn: socket}
	}
	return s.spare, nil
}

// A mover moves the connection of a path when its blackHole wants that. It belongs to
// path.watch. At most one goroutine at a time moves the connection; wait waits for it.
type mover struct {
	path *path
	hole blackHole

	wg      sync.WaitGroup
	moving  bool        // a move has begun and its end was not seen
	ended   atomic.Bool // it has ended
	didMove bool        // its result; read after ended
}

// observe looks at the path's statistics and starts a move if one is due.
func (m *mover) observe(ctx context.Context, stats quic.ConnectionStats, isWaitedFor bool, now time.Time) {
	p := m.path
	if m.moving && m.ended.Load() {
		m.moving = false
		if m.didMove {
			m.hole.moved(p.sockets.onSpare)
		}
	}
	t := traffic{
		packetsReceived: stats.PacketsReceived, bytesReceived: stats.BytesReceived,
		payload: p.carried.Load() + p.session.handler.stats(p.id).TotalBytes,
	}
	if !m.hole.observe(t, isWaitedFor, stats.SmoothedRTT, now) || m.moving {
		return
	}
	m.moving = true
	m.ended.Store(false)
	m.wg.Go(func() { // ends with ctx or moveTimeout
		defer m.ended.Store(true)
		containTo(p.session.abort, func() { m.didMove = p.move(ctx) })
	})
}

func (m *mover) wait() { m.wg.Wait() }

// move moves the connection to the socket that it does not use, if the server answers there. It
// reports whether it did.
func (p *path) move(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, moveTimeout)
	defer cancel()
	transport, err := p.sockets.other(ctx, p)
	if err != nil {
		return false
	}
	way, err := p.conn.AddPath(transport)
	if err != nil {
		return false
	}
	if err := way.Probe(ctx); err != nil {
		way.Close()
		return false
	}
	if err := way.Switch(); err != nil {
		way.Close()
		return false
	}
	p.sockets.onSpare = !p.sockets.onSpare
	// The server follows the client when it gets a packet there that is no probe of the path. There
	// may be nothing else to send.
	p.probe()
	return true
}

// probe asks the server for a sign of life.
func (p *path) probe() {
	p.control.send(&kwikpb.ControlFrame{Frame: &kwikpb.ControlFrame_Probe{
		Probe: &kwikpb.Probe{Padding: make([]byte, probePadding)},
	}})
}
