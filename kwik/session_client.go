package kwik

import (
	"context"
	"crypto/ed25519"
	"crypto/tls"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// A ClientSession is a client's session with one primary and with the secondaries that the
// primary names. It is used like a quic-go connection to the primary; the application does not
// see the secondaries' connections.
//
// It lasts until CloseWithError. When the primary's path ends, plain streams and their calls fail
// with the primary's error. Aggregate streams continue as long as a server delivers.
type ClientSession struct {
	id      SessionID
	key     ed25519.PrivateKey // the tickets of the session are bound to it
	config  *ClientConfig
	tls     *tls.Config // base of the configurations of secondaries' paths
	handler *secondaryStreamHandler
	primary *path
	// windows and streamSlots are the receive windows, and the secondary streams open at once, of
	// all paths.
	windows, streamSlots *shareBudget
	// dialSlots has an element for each server that is dialed and has not been reached before.
	dialSlots chan struct{}

	ctx      context.Context // ends with the session
	cancel   context.CancelCauseFunc
	public   context.Context // ends with the primary's path
	unpublic context.CancelCauseFunc
	wg       sync.WaitGroup // the goroutines that run or keep paths

	reported atomic.Pointer[time.Time] // when rejected bytes were last reported to the primary; nil for never

	mu      sync.Mutex
	servers map[ServerID]*serverRecord
	paths   map[PathID]*pathRecord // of all servers
	streams map[StreamID]*openStream
	dials   dialLimit
	offered StreamID // the highest aggregate stream id so far; 0 for none
	// headStarts is the number of reserved head starts, and headStartRoom the window that is not
	// reserved, in bytes.
	headStarts    int
	headStartRoom int64
	waiting       []*Stream         // opened by the primary, not accepted yet; QUIC's stream limit bounds their number
	offers        []*AggregateOffer // likewise; maxStreamsPerSession bounds their number
	arrived       chan struct{}     // closed and replaced when one of the two grows
}

// newClientSession returns a session that is not connected. It has no goroutine.
func newClientSession(tlsConf *tls.Config, c *ClientConfig) *ClientSession {
	if tlsConf == nil {
		tlsConf = &tls.Config{}
	}
	s := &ClientSession{
		id: newSessionID(), key: newSessionKey(), config: c, tls: tlsConf,
		servers: make(map[ServerID]*serverRecord),
		paths:   make(map[PathID]*pathRecord),
		streams: make(map[StreamID]*openStream),
		arrived: make(chan struct{}),
		windows: &shareBudget{floor: pathWindow, left: c.WindowLimit - maxPaths*pathWindow},
		streamSlots: &shareBudget{
			floor: pathStreamFloor, left: int64(fullPaths * c.SecondaryStreams.MaxStreamsPerPath),
		},

		dialSlots: make(chan struct{}, maxUnreached),
	}
	q, shares := s.pathQUIC(ServerRolePrimary)
	s.headStartRoom = int64(q.InitialConnectionReceiveWindow / 2) // as the primary's path will have it
	shares.close()
	s.ctx, s.cancel = context.WithCancelCause(context.Background())
	s.public, s.unpublic = context.WithCancelCause(s.ctx)
	s.handler = newSecondaryStreamHandler(s.lookup, s.nextStream, c)
	return s
}

// begin starts the goroutines of the primary's first path.
func (s *ClientSession) begin(p *path) {
	s.primary = p
	r := s.newServer(primaryID, ServerRolePrimary, p.addr).paths[0]
	r.path, r.dialed, r.reached = p, true, true
	s.dials.answered(p.addr, 0)
	s.start(func() { s.handler.run(s.ctx.Done()) })
	s.start(func() {
		err := p.run()
		s.unpublic(err)
		s.pathEnded(p, err)
	})
}

// Welcomed waits for the primary's Welcome, which Dial has waited for already. It returns the
// error that Dial would have returned, or the cause of ctx.
func (s *ClientSession) Welcomed(ctx context.Context) error {
	select {
	case <-s.primary.greeted:
		return s.primary.refusal
	case <-ctx.Done():
		return fmt.Errorf("waiting for the server's welcome: %w", context.Cause(ctx))
	}
}

// OpenStreamSync opens a plain stream to the primary. It blocks while QUIC's stream limit is
// reached, until ctx ends.
func (s *ClientSession) OpenStreamSync(ctx context.Context) (*Stream, error) {
	stream, err := s.primary.conn.OpenStreamSync(ctx)
	if err != nil {
		return nil, fromQUIC(err, primaryPathID)
	}
	return s.primary.plainStream(stream), nil
}

// OpenStream opens a plain stream to the primary. It fails at once if QUIC's stream limit is
// reached.
func (s *ClientSession) OpenStream() (*Stream, error) {
	stream, err := s.primary.conn.OpenStream()
	if err != nil {
		return nil, fromQUIC(err, primaryPathID)
	}
	return s.primary.plainStream(stream), nil
}

// AcceptStream returns the next plain stream that the primary opened. Aggregate streams are
// accepted by AcceptAggregate and AcceptNextAggregate.
func (s *ClientSession) AcceptStream(ctx context.Context) (*Stream, error) {
	return accept(ctx, s, &s.waiting, func(*Stream) bool { return true })
}

// AcceptAggregate returns the aggregate stream with the given ID, which the application's own
// protocol named. It waits for the primary's offer if that has not arrived. Each stream is
// accepted once, by AcceptAggregate or AcceptNextAggregate.
func (s *ClientSession) AcceptAggregate(ctx context.Context, id StreamID) (*AggregateOffer, error) {
	s.primary.reading.Add(1) // a primary that is waited for is probed
	defer s.primary.reading.Add(-1)
	return accept(ctx, s, &s.offers, func(o *AggregateOffer) bool { return o.agg.id == id })
}

// AcceptNextAggregate returns the next aggregate stream that the primary opened, pulled or pushed.
func (s *ClientSession) AcceptNextAggregate(ctx context.Context) (*AggregateOffer, error) {
	return accept(ctx, s, &s.offers, func(*AggregateOffer) bool { return true })
}

// accept waits until the queue, which the session's lock guards, has an element that matches, and
// removes it.
func accept[T any](ctx context.Context, s *ClientSession, queue *[]T, matches func(T) bool) (next T, err error) {
	for {
		s.mu.Lock()
		if i := slices.IndexFunc(*queue, matches); i >= 0 {
			next = (*queue)[i]
			*queue = slices.Delete(*queue, i, i+1)
			s.mu.Unlock()
			return next, nil
		}
		changed := s.arrived
		s.mu.Unlock()
		select {
		case <-changed:
		case <-s.public.Done():
			return next, context.Cause(s.public)
		case <-ctx.Done():
			return next, ctx.Err()
		}
	}
}

// nextStream returns a channel that is closed when the next stream arrives.
func (s *ClientSession) nextStream() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.arrived
}

// announce wakes the goroutines that wait for a stream. Called with the lock held, after a queue
// has grown.
func (s *ClientSession) announce() {
	close(s.arrived)
	s.arrived = make(chan struct{})
}

// CloseWithError closes the session and all its paths, and waits for their goroutines. A report on
// rejected bytes that was just made is sent before, which takes two round trips, at most
// maxReportDelay.
func (s *ClientSession) CloseWithError(code ApplicationErrorCode, reason string) error {
	s.reportUnanswered()
	s.awaitReport()
	s.cancel(errSessionClosed)
	streams, paths := s.parts()
	for _, a := range streams {
		s.closeStream(a)
	}
	for _, p := range paths {
		p.conn.CloseWithError(code, reason)
	}
	s.wg.Wait()
	return nil
}

// parts returns the streams and the connected paths of the session.
func (s *ClientSession) parts() (streams []*streamAggregator, paths []*path) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, open := range s.streams {
		streams = append(streams, open.agg)
	}
	for _, r := range s.paths {
		if r.path != nil {
			paths = append(paths, r.path)
		}
	}
	return streams, paths
}

var errSessionClosed error = closedError("kwik: session closed")

// Context ends with the primary's path, as a quic-go connection's does. Its cause is the error.
func (s *ClientSession) Context() context.Context { return s.public }

// ID returns the session's ID, which is the same on every server.
func (s *ClientSession) ID() SessionID { return s.id }

// ConnectionState returns the TLS state of the primary's path.
func (s *ClientSession) ConnectionState() tls.ConnectionState {
	return s.primary.conn.ConnectionState().TLS
}

// RemoteAddr returns the primary's address.
func (s *ClientSession) RemoteAddr() net.Addr { return s.primary.conn.RemoteAddr() }

// LocalAddr returns the client's address on the primary's path.
func (s *ClientSession) LocalAddr() net.Addr { return s.primary.conn.LocalAddr() }

// Servers returns a snapshot of the servers that the session knows, the primary first, then by ID.
func (s *ClientSession) Servers() []ServerStats {
	s.mu.Lock()
	defer s.mu.Unlock()
	stats := make([]ServerStats, 0, len(s.servers))
	for _, sv := range s.servers {
		stats = append(stats, s.serverStats(sv))
	}
	slices.SortFunc(stats, func(a, b ServerStats) int {
		if a.Role != b.Role {
			return int(a.Role) - int(b.Role)
		}
		return strings.Compare(string(a.ID), string(b.ID))
	})
	return stats
}
