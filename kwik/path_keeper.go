package kwik

import (
	"context"
	"crypto/tls"
	"errors"
	"time"

	"github.com/quic-go/quic-go"

	"kwikcp/internal/trust"
)

const (
	minRedial = 500 * time.Millisecond
	maxRedial = 15 * time.Second
)

// startKeeper has a path kept from now on: dialled after a time, and again whenever it ends. Called with the lock held.
func (s *ClientSession) startKeeper(r *pathRecord, after time.Duration) {
	if !r.hasKeeper && s.shouldKeep(r) { // otherwise it goes on with what is new
		r.hasKeeper = true
		s.wg.Go(func() { s.keepPath(r, after) })
	}
}

// shouldKeep reports whether a path should be dialled when it is not connected. Called with the lock held.
func (s *ClientSession) shouldKeep(r *pathRecord) bool {
	sv := r.server
	if sv.withdraw == nil || sv.banned || r.excess || s.ctx.Err() != nil {
		return false
	}
	// What the primary may be needed for after its first path ended is the aggregate streams that are open.
	return sv.role == ServerRoleSecondary || s.unreleased() > 0
}

// closeIfUnused closes the connection of a path that is not to be kept as soon as no stream needs it. Called with the lock held.
func (s *ClientSession) closeIfUnused(r *pathRecord) {
	p := r.path
	if p == nil || p.role == ServerRolePrimary || s.ctx.Err() != nil || (r.server.withdraw != nil && !r.excess && !p.draining) {
		return
	}
	for _, open := range s.streams {
		if !open.released && open.attached[r.id] == p {
			return
		}
	}
	s.wg.Go(func() { p.fail(nil) })
}

// keepPath dials a path after a time, and again and again with back-off, and serves the connection while there is one, until the
// path is not worth keeping. One that is withdrawn while it serves is not dialled again.
func (s *ClientSession) keepPath(r *pathRecord, after time.Duration) {
	wait := minRedial
	for {
		offered, ok := s.keeperContext(r)
		if !ok {
			return
		}
		select {
		case <-offered.Done():
			after = minRedial
			continue
		case <-r.redial:
			wait = minRedial
		case <-time.After(after):
		}
		if offered, ok = s.keeperContext(r); !ok {
			return
		}
		begun := time.Now()
		p, err := s.dialPath(offered, r)
		if err == nil {
			err = p.run()
			s.pathEnded(p, err)
		} else {
			s.dialFailed(r, err)
		}
		if time.Since(begun) > 2*maxRedial {
			wait = minRedial // it was in use for some time
		}
		after, wait = wait, min(2*wait, maxRedial)
	}
}

// keeperContext returns until when a path is kept; false if it is not worth it any more, and its keeper has to end.
func (s *ClientSession) keeperContext(r *pathRecord) (context.Context, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	r.hasKeeper = s.shouldKeep(r)
	return r.server.announced, r.hasKeeper
}

// dialPath connects to a server by way of its AddPath and takes the path into service.
func (s *ClientSession) dialPath(ctx context.Context, r *pathRecord) (*path, error) {
	s.mu.Lock()
	r.state = PathConnecting
	info, addrs := r.server.info, r.server.addrs
	select {
	case <-r.redial:
	default:
	}
	s.mu.Unlock()
	tlsConf := clientTLS(trust.PinnedClientConfig(s.secondaryTLS(), trust.Pin(info.GetKeyHash())), ProtocolClient)
	d, err := dialAny(ctx, addrs, tlsConf, s.config.clientQUIC(ServerRoleSecondary), s.config.ListenPacket)
	if err != nil {
		return nil, err
	}
	p, err := openPath(ctx, s, d, r.id, ServerRoleSecondary, info.GetTicket())
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	if ctx.Err() != nil || r.server.banned || r.excess {
		s.mu.Unlock()
		p.fail(nil)
		p.release()
		return nil, errSessionClosed // or the path was withdrawn
	}
	r.path, r.addr, r.dialed = p, p.addr, true
	s.mu.Unlock()
	s.attachNew() // in one flight with Hello
	return p, nil
}

// welcomed takes note that a server has said Welcome on a path.
func (s *ClientSession) welcomed(p *path, host *Host) {
	s.mu.Lock()
	defer s.mu.Unlock()
	p.host = host
	if r := s.paths[p.id]; r != nil && r.path == p && r.state == PathConnecting {
		r.state, r.reason = PathActive, nil
	}
}

// secondaryTLS returns what the paths to secondaries share of the caller's configuration: nothing that says whom to trust
// or who is expected, because the primary says that.
func (s *ClientSession) secondaryTLS() *tls.Config {
	return &tls.Config{
		Rand: s.tls.Rand, Time: s.tls.Time, KeyLogWriter: s.tls.KeyLogWriter,
		CipherSuites: s.tls.CipherSuites, CurvePreferences: s.tls.CurvePreferences,
	}
}

// dialFailed records that a server could not be reached.
func (s *ClientSession) dialFailed(r *pathRecord, err error) {
	s.mu.Lock()
	if r.state != PathBanned {
		r.state, r.reason = PathClosed, err
	}
	r.dialed = true
	s.mu.Unlock()
	s.attachNew() // nobody waits for it any longer
}

// pathEnded records that a connection is over and takes it out of every stream. The primary is dialled again for the sake of
// the streams that are open.
func (s *ClientSession) pathEnded(p *path, err error) {
	s.mu.Lock()
	r := s.paths[p.id]
	if r.path == p {
		r.path = nil
		r.pastWire.add(wireOf(p.conn.ConnectionStats()))
		if r.state != PathBanned {
			r.state, r.reason = PathClosed, err
		}
	}
	var streams []*streamAggregator
	for _, open := range s.streams {
		if open.attached[p.id] == p {
			delete(open.attached, p.id)
			streams = append(streams, open.agg)
		}
	}
	r.server.widths.removePath(p.id)
	if e, ok := errors.AsType[*quic.ApplicationError](err); ok && p.role == ServerRolePrimary && e.ErrorCode != ApplicationErrorCode(NoError) {
		s.abandonPrimary(r.server)
	}
	again := !r.hasKeeper && s.shouldKeep(r)
	r.hasKeeper = r.hasKeeper || again // there is hope for the streams that it leaves
	s.mu.Unlock()
	for _, a := range streams {
		a.detach(p.id, err)
	}
	if again { // not before: the streams would take the next connection for this one
		s.wg.Go(func() { s.keepPath(r, minRedial) })
	}
}

// abandonPrimary does without a primary that ended the session on purpose, or broke the protocol. Called with the lock held.
func (s *ClientSession) abandonPrimary(sv *serverRecord) {
	if sv.withdraw == nil {
		return
	}
	sv.withdraw()
	sv.withdraw = nil
	for _, r := range sv.paths {
		if p := r.path; p != nil {
			s.wg.Go(func() { p.fail(nil) })
		}
	}
}
