package kwik

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"net/netip"
	"time"

	"github.com/quic-go/quic-go"

	"kwikcp/internal/backoff"
	"kwikcp/internal/trust"
)

// This file keeps paths connected. A path that should be connected has a keeper: a goroutine
// that dials, serves the connection until it ends, waits and dials again. The session waits for
// its keepers when it closes.
//
//	no keeper --startKeeper or pathEnded, while shouldKeep--> waiting to dial
//	waiting to dial --time is up, or the primary sent new addresses--> dialing
//	dialing --failed--> waiting to dial     dialing --connected--> serving
//	serving --ended--> waiting to dial
//	waiting to dial --shouldKeep is false--> no keeper
//	serving --the server closed it, because no stream used it--> no keeper, asleep
//	asleep --wakePaths, for a stream--> waiting to dial, without a delay
//
// A path that is withdrawn while it serves stays connected until no stream needs it
// (closeIfUnused).

const (
	// minRedial and maxRedial bound the delay between two dials of a path, without jitter.
	minRedial = 500 * time.Millisecond
	maxRedial = 15 * time.Second
	// maxWaitingRedial is maxRedial while streams are open, if the server was reached before. An
	// outage then lasts little longer than its cause.
	maxWaitingRedial = 2 * time.Second
	// longUse is the age from which a connection counts as a success: the delays begin with
	// minRedial again.
	longUse = 2 * maxRedial
)

// startKeeper starts the keeper of a path, unless the path has one or should have none. The
// first dial is after the given delay. The caller holds s.mu.
func (s *ClientSession) startKeeper(r *pathRecord, after time.Duration) {
	if !r.hasKeeper && s.shouldKeep(r) {
		r.hasKeeper = true
		s.start(func() { s.keepPath(r, after) })
	}
}

// shouldKeep reports whether a path should be dialed when it is not connected. The caller holds
// s.mu.
func (s *ClientSession) shouldKeep(r *pathRecord) bool {
	sv := r.server
	if !sv.isAnnounced() || sv.banned || r.excess || r.asleep || s.ctx.Err() != nil {
		return false
	}
	// After the primary's first path has ended, only the open aggregate streams can need a server.
	// Further paths to the primary are for them as well.
	mayGetStreams := s.public.Err() == nil && sv.role == ServerRoleSecondary
	return mayGetStreams || s.unreleased() > 0
}

// wakePaths dials the paths that their servers closed because no stream used them. The caller
// holds s.mu.
func (s *ClientSession) wakePaths() {
	for _, r := range s.paths {
		if !r.asleep {
			continue
		}
		r.asleep = false
		s.startKeeper(r, 0)
		select {
		case r.redial <- struct{}{}: // the keeper of its last connection may not have ended yet
		default:
		}
	}
}

// closeIfUnused closes the connection of a path that should not be kept, if no stream needs it.
// The first path to the primary stays open for the application. The caller holds s.mu.
func (s *ClientSession) closeIfUnused(r *pathRecord) {
	p := r.path
	if p == nil || p.role == ServerRolePrimary || s.ctx.Err() != nil {
		return
	}
	isWanted := r.server.isAnnounced() && !r.excess && !p.draining
	if isWanted || s.serves(p) {
		return
	}
	s.wg.Go(func() { p.fail(nil) })
}

// serves reports whether a path is a source of a stream that still needs bytes. The caller
// holds s.mu.
func (s *ClientSession) serves(p *path) bool {
	for _, open := range s.streams {
		if !open.released && open.attached[p.id] == p {
			return true
		}
	}
	return false
}

// keepPath is the keeper of a path. It returns when the path should not be kept any more.
func (s *ClientSession) keepPath(r *pathRecord, after time.Duration) {
	redial := backoff.Policy{Min: minRedial, Max: maxRedial, Random: newJitter(string(r.id))}
	failures := 0
	for {
		announced, ok := s.keeperContext(r)
		if !ok {
			return
		}
		select {
		case <-announced.Done():
			after = redial.Delay(1) // the server may have been announced again
			continue
		case <-r.redial:
			failures = 0
		case <-time.After(after):
		}
		if announced, ok = s.keeperContext(r); !ok {
			return
		}
		begun := time.Now()
		p, err := s.dialPath(announced, r)
		if err == nil {
			err = p.run()
			s.pathEnded(p, err)
		} else {
			s.dialFailed(r, err)
		}
		if time.Since(begun) > longUse {
			failures = 0
		}
		failures++
		after = min(redial.Delay(failures), s.longestRedial(r))
		if pause, ok := errors.AsType[*dialPause](err); ok {
			after = max(after, pause.wait)
		}
	}
}

// longestRedial bounds the delay before the next dial of a path.
func (s *ClientSession) longestRedial(r *pathRecord) time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	if r.reached && s.unreleased() > 0 {
		return maxWaitingRedial
	}
	return maxRedial
}

// keeperContext returns the context in which a keeper dials. It ends when the primary withdraws
// the server. With ok false the path should not be kept and its keeper must end.
func (s *ClientSession) keeperContext(r *pathRecord) (announced context.Context, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	r.hasKeeper = s.shouldKeep(r)
	return r.server.announced, r.hasKeeper
}

// dialPath connects to a server with its newest AddPath and attaches the path to the streams
// that are read.
func (s *ClientSession) dialPath(ctx context.Context, r *pathRecord) (*path, error) {
	s.mu.Lock()
	r.state, r.dialing = PathConnecting, time.Now()
	info, addrs := r.server.info, r.server.addrs
	select {
	case <-r.redial: // this dial uses the newest addresses
	default:
	}
	s.mu.Unlock()
	tlsConf := clientTLS(trust.PinnedClientConfig(s.secondaryTLS(), trust.Pin(info.GetKeyHash())), protocolClient)
	q, shares := s.pathQUIC(ServerRoleSecondary)
	d, err := s.dialWithin(ctx, addrs, tlsConf, q)
	if err != nil {
		shares.close()
		return nil, err
	}
	p, err := openPath(ctx, s, d.owns(shares), r.id, ServerRoleSecondary, info.GetTicket())
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	if isUnwanted := ctx.Err() != nil || r.server.banned || r.excess; isUnwanted {
		s.mu.Unlock()
		p.fail(nil)
		p.release()
		return nil, errSessionClosed // or the path was withdrawn
	}
	r.path, r.addr, r.dialed, r.reached, r.dialing = p, p.addr, true, true, time.Time{}
	r.answered()
	s.reportReach(r, nil)
	s.mu.Unlock()
	s.attachNew() // in one flight with Hello
	return p, nil
}

// dialWithin is dialAny within the limits of dial_limit.go.
func (s *ClientSession) dialWithin(
	ctx context.Context, addrs []netip.AddrPort, tlsConf *tls.Config, q *quic.Config,
) (dialled, error) {
	s.mu.Lock()
	chosen, unreached, wait := s.dials.plan(addrs, time.Now())
	s.mu.Unlock()
	if len(chosen) == 0 {
		return dialled{}, &dialPause{wait}
	}
	if unreached {
		timeout := max(minUnreachedTimeout, 8*s.primary.rtt())
		q.HandshakeIdleTimeout = min(q.HandshakeIdleTimeout, timeout)
		select {
		case s.dialSlots <- struct{}{}:
			defer func() { <-s.dialSlots }()
		case <-ctx.Done():
			return dialled{}, context.Cause(ctx)
		}
	}
	cost := tryCost(q)
	listen := func(ctx context.Context, to netip.AddrPort) (net.PacketConn, error) {
		s.mu.Lock()
		isAllowed := s.dials.begin(to, cost, s.received(), time.Now())
		s.mu.Unlock()
		if !isAllowed {
			return nil, errUnanswered
		}
		return s.config.ListenPacket(ctx, to)
	}
	d, err := dialAny(ctx, chosen, func(ctx context.Context, to netip.AddrPort) (dialled, error) {
		return dialOne(ctx, to, tlsConf, q, listen, s.config.askPort)
	})
	if err == nil {
		s.mu.Lock()
		s.dials.answered(d.addr, cost)
		s.mu.Unlock()
	}
	return d, err
}

// A dialPause is the error of a dial that must wait, because no address of the server has answered.
type dialPause struct{ wait time.Duration }

func (*dialPause) Error() string { return errUnanswered.Error() }
func (*dialPause) Unwrap() error { return errUnanswered }

// welcomed records that a server has sent Welcome on a path.
func (s *ClientSession) welcomed(p *path, host *Host) {
	s.mu.Lock()
	defer s.mu.Unlock()
	p.host = host
	if r := s.paths[p.id]; r != nil && r.path == p && r.state == PathConnecting {
		r.state, r.reason = PathActive, nil
	}
}

// secondaryTLS returns the part of the caller's TLS configuration that the paths to secondaries
// use. Trust and the expected name are not part of it: the primary vouches for a secondary's
// key.
func (s *ClientSession) secondaryTLS() *tls.Config {
	return &tls.Config{
		Rand: s.tls.Rand, Time: s.tls.Time, KeyLogWriter: s.tls.KeyLogWriter,
		CipherSuites: s.tls.CipherSuites, CurvePreferences: s.tls.CurvePreferences,
	}
}

// dialFailed records that a server could not be reached. A path that was never dialed, because it
// must wait, stays connecting.
func (s *ClientSession) dialFailed(r *pathRecord, err error) {
	s.mu.Lock()
	mustWait := !r.dialed && errors.Is(err, errUnanswered)
	if r.state != PathBanned && !mustWait {
		r.state, r.reason = PathClosed, err
	}
	r.dialed, r.dialing = true, time.Time{}
	r.ended(err, time.Now())
	if !mustWait {
		s.reportReach(r, err)
	}
	s.mu.Unlock()
	s.attachNew() // streams no longer hold back work for this path
}

// pathEnded records that a connection has ended with err and removes it from every stream. The
// primary is dialed again for the streams that are open.
func (s *ClientSession) pathEnded(p *path, err error) {
	s.mu.Lock()
	r := s.paths[p.id]
	if r.path == p {
		r.path = nil
		r.pastWire.add(wireOf(p.conn.ConnectionStats()))
		if r.state != PathBanned {
			r.state, r.reason = PathClosed, err
		}
		r.ended(err, time.Now())
	}
	r.asleep = p.closedIdle() && !s.serves(p)
	streams := s.detachAll(p)
	r.server.widths.removePath(p.id)
	if p.role == ServerRolePrimary && closedOnPurpose(err) {
		s.abandonPrimary(r.server)
	}
	switch {
	case p.role == ServerRolePrimary && isRefusal(err):
		s.abandonSecondaries()
	case p.role == ServerRolePrimary:
		s.restoreWithdrawn()
	}
	needsKeeper := !r.hasKeeper && s.shouldKeep(r)
	if needsKeeper {
		r.hasKeeper = true // before the streams lose the path: it tells them that a source may return
	}
	s.mu.Unlock()
	for _, a := range streams {
		a.detach(p.id, err)
	}
	if needsKeeper { // after the streams have lost the path: they would take the next connection for this one
		s.start(func() { s.keepPath(r, minRedial) })
	}
}

// detachAll removes a path from the streams that it serves and returns their aggregators. The
// caller holds s.mu, and tells the aggregators after it has released it: an aggregator's lock
// is taken before the session's.
func (s *ClientSession) detachAll(p *path) (streams []*streamAggregator) {
	for _, open := range s.streams {
		if open.attached[p.id] == p {
			delete(open.attached, p.id)
			streams = append(streams, open.agg)
		}
	}
	return streams
}

// closedOnPurpose reports whether a side closed a connection with an error code of the
// application: the primary ended the session, or broke the protocol.
func closedOnPurpose(err error) bool {
	e, ok := errors.AsType[*quic.ApplicationError](err)
	return ok && e.ErrorCode != ApplicationErrorCode(NoError)
}

// abandonPrimary closes all paths to the primary for good. The caller holds s.mu.
func (s *ClientSession) abandonPrimary(sv *serverRecord) {
	if sv.isAnnounced() {
		s.abandonServer(sv)
	}
}

// isRefusal reports whether the primary closed a path because the client may no longer read from
// it.
func isRefusal(err error) bool {
	e, ok := errors.AsType[*Error](err)
	return ok && e.Remote && e.Code == ErrAccessRefused
}

// abandonSecondaries closes all paths to secondaries for good. Secondaries act for the primary:
// they serve no client that the primary refuses. The caller holds s.mu.
func (s *ClientSession) abandonSecondaries() {
	for _, sv := range s.servers {
		if sv.role == ServerRoleSecondary && sv.isAnnounced() {
			s.abandonServer(sv)
		}
	}
}

// restoreWithdrawn has the servers dialed again that the primary withdrew while streams were open.
// A server that was restarted is withdrawn until it has joined again, and a primary that is gone
// cannot announce it. The caller holds s.mu.
func (s *ClientSession) restoreWithdrawn() {
	for _, open := range s.streams {
		for id, ticket := range open.withdrawn {
			sv := s.servers[id]
			if sv == nil || sv.info == nil || sv.banned || open.released {
				continue
			}
			open.tickets[id] = ticket
			s.updateServer(sv, sv.info, sv.addrs)
			for _, r := range sv.paths {
				s.startKeeper(r, minRedial)
			}
		}
	}
}

// abandonServer closes all paths to a server that is announced, for good. The caller holds s.mu.
func (s *ClientSession) abandonServer(sv *serverRecord) {
	sv.withdraw()
	sv.withdraw = nil
	for _, r := range sv.paths {
		if p := r.path; p != nil {
			s.wg.Go(func() { p.fail(nil) })
		}
	}
}
