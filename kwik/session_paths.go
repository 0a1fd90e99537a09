package kwik

import (
	"context"
	"crypto/tls"
	"net/netip"
	"slices"
	"time"

	"kwikcp/internal/trust"
	kwikpb "kwikcp/kwik/proto"
)

// A pathRecord is what a session knows about a server, whether there is a connection or not. Guarded by the session.
type pathRecord struct {
	id     PathID
	role   ServerRole
	addr   netip.AddrPort // where it was reached, or the first address to try
	state  PathState
	reason error
	path   *path     // while active
	past   WireStats // of the connections before

	info    *kwikpb.AddPath    // the newest; nil for the primary
	addrs   []netip.AddrPort   // those of info that may be dialled
	news    chan struct{}      // has an element when info is newer than the last dial; nil for the primary
	offered context.Context    // ends when the primary withdraws the path
	cancel  context.CancelFunc // ends offered; nil for the primary and after a withdrawal
	kept    bool               // keepPath runs
	tried   bool               // was dialled at least once, with whatever result
}

const (
	minRedial = 500 * time.Millisecond
	maxRedial = 15 * time.Second
)

// addPath starts to keep a path to a secondary that the primary named.
func (s *ClientSession) addPath(info *kwikpb.AddPath) error {
	id := PathID(info.GetPathId())
	if !id.valid() || len(info.GetKeyHash()) != len(trust.Pin{}) || len(info.GetAddresses()) > maxAddresses {
		return errorf(ErrMetadataProtocolViolation, "AddPath that names no path")
	}
	var addrs []netip.AddrPort
	for _, text := range info.GetAddresses() {
		addr, err := netip.ParseAddrPort(text)
		if err == nil && s.mayDial(addr) {
			addrs = append(addrs, netip.AddrPortFrom(addr.Addr().Unmap(), addr.Port()))
		}
	}
	if len(addrs) == 0 {
		return nil // nothing that this client should try
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	r := s.paths[id]
	switch {
	case s.ctx.Err() != nil || (r == nil && !s.roomForPath()):
		return nil
	case r == nil:
		r = &pathRecord{id: id, role: ServerRoleSecondary, addr: addrs[0], state: PathConnecting, news: make(chan struct{}, 1)}
		s.paths[id] = r
	case r.state == PathBanned:
		return nil
	}
	r.info, r.addrs = info, addrs
	select {
	case r.news <- struct{}{}:
	default:
	}
	if r.cancel == nil {
		r.offered, r.cancel = context.WithCancel(s.ctx)
	}
	if !r.kept { // otherwise it goes on with what is new
		r.kept = true
		s.wg.Go(func() { s.keepPath(r) })
	}
	return nil
}

// roomForPath reports whether one more path may be kept, and forgets an old one that is not if there are many. Called
// with the lock held.
func (s *ClientSession) roomForPath() bool {
	kept, old := 0, PathID("")
	for id, r := range s.paths {
		switch {
		case r.kept:
			kept++
		case r.role == ServerRoleSecondary && r.state != PathBanned:
			old = id
		}
	}
	if len(s.paths) > 2*maxSecondaryPaths {
		if old == "" {
			return false
		}
		delete(s.paths, old)
		s.handler.forget(old)
	}
	return kept < maxSecondaryPaths
}

// mayDial is the rule of docs/PROTOCOL.md section 2: a primary cannot send its clients to addresses that only they
// can reach.
func (s *ClientSession) mayDial(addr netip.AddrPort) bool {
	ip := addr.Addr().Unmap()
	if addr.Port() == 0 || !ip.IsValid() || ip.IsUnspecified() || ip.IsMulticast() || ip.Zone() != "" {
		return false
	}
	if !ip.IsLoopback() && !ip.IsLinkLocalUnicast() {
		return true
	}
	primary := s.primary.addr.Addr().Unmap()
	return primary.IsLoopback() || primary.IsLinkLocalUnicast() || slices.Contains(s.config.LocalAddresses(), primary)
}

// removePath ends the keeping of a path that the primary withdrew. A connection that serves a stream stays until it is
// not needed any more: its bytes are as good as before.
func (s *ClientSession) removePath(id PathID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	r := s.paths[id]
	if r == nil || r.cancel == nil {
		return
	}
	r.cancel()
	r.cancel = nil
	for _, open := range s.streams {
		delete(open.tickets, id) // new ones come if the path does
	}
	s.retire(r)
}

// retire closes the connection of a withdrawn path as soon as no stream needs it. Called with the lock held.
func (s *ClientSession) retire(r *pathRecord) {
	if r.path == nil || r.cancel != nil || r.role == ServerRolePrimary || s.ctx.Err() != nil {
		return
	}
	for _, open := range s.streams {
		if !open.released && open.attached[r.id] == r.path {
			return
		}
	}
	p := r.path
	s.wg.Go(func() { p.fail(nil) })
}

// keepPath dials a secondary, again and again with back-off, and serves the connection while there is one, until the
// primary withdraws the path, the session ends or the path is banned. A path that is withdrawn while it serves is not
// dialled again.
func (s *ClientSession) keepPath(r *pathRecord) {
	wait := minRedial
	for {
		s.mu.Lock()
		offered := r.offered
		if r.kept = r.cancel != nil && r.state != PathBanned && s.ctx.Err() == nil; !r.kept {
			s.mu.Unlock()
			return
		}
		s.mu.Unlock()
		begun := time.Now()
		p, err := s.dialPath(offered, r)
		if err == nil {
			err = p.run()
			s.pathEnded(p, err)
		} else {
			s.pathMissed(r, err)
		}
		if time.Since(begun) > 2*maxRedial {
			wait = minRedial // it was in use for some time
		}
		select {
		case <-offered.Done():
		case <-r.news:
			wait = minRedial
		case <-time.After(wait):
			wait = min(2*wait, maxRedial)
		}
	}
}

// dialPath connects to a secondary and takes the path into service.
func (s *ClientSession) dialPath(ctx context.Context, r *pathRecord) (*path, error) {
	s.mu.Lock()
	r.state = PathConnecting
	info, addrs := r.info, r.addrs
	select {
	case <-r.news:
	default:
	}
	s.mu.Unlock()
	tlsConf := clientTLS(trust.PinnedClientConfig(s.secondaryTLS(), trust.Pin(info.GetKeyHash())), ProtocolClient)
	d, err := dialAny(ctx, addrs, tlsConf, s.config.clientQUIC(ServerRoleSecondary), s.config.ListenPacket)
	if err != nil {
		return nil, err
	}
	p, err := openPath(ctx, s, d, r.id, info.GetTicket())
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	if ctx.Err() != nil || r.state == PathBanned {
		s.mu.Unlock()
		p.fail(nil)
		p.release()
		return nil, errSessionClosed // or the path was withdrawn
	}
	r.path, r.state, r.reason, r.addr, r.tried = p, PathActive, nil, p.addr, true
	s.mu.Unlock()
	s.attachNew()
	return p, nil
}

// secondaryTLS returns what the paths to secondaries share of the caller's configuration: nothing that says whom to trust
// or who is expected, because the primary says that.
func (s *ClientSession) secondaryTLS() *tls.Config {
	return &tls.Config{
		Rand: s.tls.Rand, Time: s.tls.Time, KeyLogWriter: s.tls.KeyLogWriter,
		CipherSuites: s.tls.CipherSuites, CurvePreferences: s.tls.CurvePreferences,
	}
}

// pathMissed records that a secondary could not be reached.
func (s *ClientSession) pathMissed(r *pathRecord, err error) {
	s.mu.Lock()
	if r.state != PathBanned {
		r.state, r.reason = PathClosed, err
	}
	r.tried = true
	s.mu.Unlock()
	s.attachNew() // nobody waits for it any longer
}

// pathEnded records that a connection is over and takes it out of every stream.
func (s *ClientSession) pathEnded(p *path, err error) {
	s.mu.Lock()
	r := s.paths[p.id]
	if r.path == p {
		r.path = nil
		r.past.add(wireOf(p.conn.ConnectionStats()))
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
	s.mu.Unlock()
	for _, a := range streams {
		a.detach(p.id, err)
	}
}

// ban ends a path whose bytes failed their proof, for this session, and tells the primary.
func (s *ClientSession) ban(id PathID, stream StreamID, off, n int64, cause error) {
	s.mu.Lock()
	r := s.paths[id]
	if r.state == PathBanned {
		s.mu.Unlock()
		return
	}
	r.state, r.reason = PathBanned, cause
	var streams []*streamAggregator
	for _, open := range s.streams {
		streams = append(streams, open.agg)
	}
	s.mu.Unlock()
	s.blame(id, kwikpb.PathState_PATH_STATE_BANNED, &kwikpb.Blame{KwikStreamId: uint64(stream), Offset: uint64(off), Length: uint64(n)}, cause)
	for _, a := range streams {
		a.detach(id, cause)
	}
}

// blame tells the primary which bytes of a path failed their proof, and what became of the path.
func (s *ClientSession) blame(id PathID, state kwikpb.PathState, b *kwikpb.Blame, cause error) {
	s.primary.control.send(&kwikpb.ControlFrame{Frame: &kwikpb.ControlFrame_PathStatus{PathStatus: &kwikpb.PathStatus{
		PathId: string(id), State: state, Reason: printable(cause.Error()), Blame: b,
	}}})
}
