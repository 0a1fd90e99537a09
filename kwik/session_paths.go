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
	path   *path // while active

	info   *kwikpb.AddPath    // the newest; nil for the primary
	addrs  []netip.AddrPort   // those of info that may be dialled
	cancel context.CancelFunc // ends the goroutine that keeps the path; nil for the primary
	tried  bool               // was dialled at least once, with whatever result
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
	case s.ctx.Err() != nil || (r == nil && len(s.paths) > maxSecondaryPaths):
		return nil
	case r == nil:
		r = &pathRecord{id: id, role: ServerRoleSecondary, addr: addrs[0], state: PathConnecting}
		s.paths[id] = r
	case r.state == PathBanned:
		return nil
	}
	r.info, r.addrs = info, addrs
	if r.cancel != nil {
		return nil // it is kept already; the next dial uses what is new
	}
	ctx, cancel := context.WithCancel(s.ctx)
	r.cancel = cancel
	s.wg.Go(func() {
		defer cancel()
		s.keepPath(ctx, r)
	})
	return nil
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
	if r := s.paths[id]; r != nil && r.cancel != nil {
		r.cancel()
		r.cancel = nil
	}
}

// keepPath dials a secondary, again and again with back-off, and serves the connection while there is one, until ctx
// ends.
func (s *ClientSession) keepPath(ctx context.Context, r *pathRecord) {
	wait := minRedial
	for {
		p, err := s.dialPath(ctx, r)
		if err == nil {
			wait = minRedial
			err = p.run()
			s.pathEnded(p, err)
		} else {
			s.pathMissed(r, err)
		}
		s.mu.Lock()
		banned := r.state == PathBanned
		s.mu.Unlock()
		if banned {
			return
		}
		select {
		case <-ctx.Done():
			return
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
	if s.ctx.Err() != nil || r.state == PathBanned {
		s.mu.Unlock()
		p.fail(nil)
		p.release()
		return nil, errSessionClosed
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
	s.primary.control.send(&kwikpb.ControlFrame{Frame: &kwikpb.ControlFrame_PathStatus{PathStatus: &kwikpb.PathStatus{
		PathId: string(id), State: kwikpb.PathState_PATH_STATE_BANNED, Reason: printable(cause.Error()),
		Blame: &kwikpb.Blame{KwikStreamId: uint64(stream), Offset: uint64(off), Length: uint64(n)},
	}}})
	s.mu.Unlock()
	for _, a := range streams {
		a.detach(id, cause)
	}
}
