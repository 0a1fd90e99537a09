package kwik

import (
	"context"
	"crypto/tls"
	"errors"
	"net/netip"
	"slices"
	"time"

	"github.com/quic-go/quic-go"

	"kwikcp/internal/trust"
	kwikpb "kwikcp/kwik/proto"
)

// A serverRecord is what a session knows about a server. Guarded by the session.
type serverRecord struct {
	id     ServerID
	role   ServerRole
	banned bool

	info    *kwikpb.AddPath    // the newest; nil for a primary that offers no further paths
	addrs   []netip.AddrPort   // those of info that may be dialled
	offered context.Context    // ends when the primary withdraws the server
	cancel  context.CancelFunc // ends offered; nil without info and after a withdrawal

	paths  []*pathRecord // the first one and further ones, in order
	widths widthPolicy
}

// A pathRecord is what a session knows about one path to a server, whether there is a connection or not. Guarded by the session.
type pathRecord struct {
	id     PathID
	server *serverRecord
	addr   netip.AddrPort // where it was reached, or the first address to try
	state  PathState
	reason error
	path   *path     // while active
	past   WireStats // of the connections before

	news    chan struct{} // has an element when the server's info is newer than the last dial
	kept    bool          // keepPath runs, or is about to
	tried   bool          // was dialled at least once, with whatever result
	dropped bool          // a further path that is not wanted any more
}

const (
	minRedial = 500 * time.Millisecond
	maxRedial = 15 * time.Second
)

// newServer makes a server known, with its first path. Called with the lock held.
func (s *ClientSession) newServer(id ServerID, role ServerRole, addr netip.AddrPort) *serverRecord {
	sv := &serverRecord{id: id, role: role, widths: newWidthPolicy(s.config.ConnectionsPerServer)}
	s.servers[id] = sv
	s.newPath(sv, id.path(1), addr)
	return sv
}

// newPath makes a path to a server known. Called with the lock held.
func (s *ClientSession) newPath(sv *serverRecord, id PathID, addr netip.AddrPort) *pathRecord {
	r := &pathRecord{id: id, server: sv, addr: addr, state: PathConnecting, news: make(chan struct{}, 1)}
	sv.paths = append(sv.paths, r)
	s.paths[id] = r
	return r
}

// addPath starts to keep a path to a secondary that the primary named.
func (s *ClientSession) addPath(info *kwikpb.AddPath) error {
	id := ServerID(info.GetPathId())
	if (!id.valid() && id != primaryID) || len(info.GetTicket()) != ticketSize || len(info.GetKeyHash()) != len(trust.Pin{}) || len(info.GetAddresses()) > maxAddresses {
		return errorf(ErrMetadataProtocolViolation, "AddPath that names no path")
	}
	if id == primaryID {
		if len(info.GetAddresses()) > 0 {
			return errorf(ErrMetadataProtocolViolation, "AddPath that moves the primary")
		}
		s.addPrimary(info)
		return nil
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
	sv := s.servers[id]
	if s.ctx.Err() != nil || (sv == nil && !s.roomForServer()) || (sv != nil && sv.banned) {
		return nil
	}
	if sv == nil {
		sv = s.newServer(id, ServerRoleSecondary, addrs[0])
	}
	s.take(sv, info, addrs)
	for _, r := range sv.paths {
		s.keep(r, 0)
	}
	return nil
}

// addPrimary takes what further paths to the primary need: several at once, or one after it was restarted.
func (s *ClientSession) addPrimary(info *kwikpb.AddPath) {
	if chain := s.primary.conn.ConnectionState().TLS.PeerCertificates; len(chain) == 0 || trust.PinOf(chain[0]) != trust.Pin(info.GetKeyHash()) {
		return // it has several keys, and there is no telling which one will answer
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.take(s.servers[primaryID], info, []netip.AddrPort{s.primary.addr})
}

// take records what the primary says about a server. Called with the lock held.
func (s *ClientSession) take(sv *serverRecord, info *kwikpb.AddPath, addrs []netip.AddrPort) {
	sv.info, sv.addrs = info, addrs
	if sv.cancel == nil {
		sv.offered, sv.cancel = context.WithCancel(s.ctx)
	}
	for _, r := range sv.paths {
		if !r.kept {
			continue // nobody waits with a dial
		}
		select {
		case r.news <- struct{}{}:
		default:
		}
	}
}

// keep has a path kept from now on: dialled after a time, and again whenever it ends. Called with the lock held.
func (s *ClientSession) keep(r *pathRecord, after time.Duration) {
	if !r.kept && s.worthKeeping(r) { // otherwise it goes on with what is new
		r.kept = true
		s.wg.Go(func() { s.keepPath(r, after) })
	}
}

// worthKeeping reports whether a path should be dialled when it is not connected. Called with the lock held.
func (s *ClientSession) worthKeeping(r *pathRecord) bool {
	sv := r.server
	if sv.cancel == nil || sv.banned || r.dropped || s.ctx.Err() != nil {
		return false
	}
	// What the primary may be needed for after its first path ended is the aggregate streams that are open.
	return sv.role == ServerRoleSecondary || s.unreleased() > 0
}

// roomForServer reports whether one more secondary may be kept, and forgets an old one that is not if there are many. Called
// with the lock held.
func (s *ClientSession) roomForServer() bool {
	kept, old := 0, (*serverRecord)(nil)
	for _, sv := range s.servers {
		switch {
		case slices.ContainsFunc(sv.paths, func(r *pathRecord) bool { return r.kept }):
			kept++
		case sv.role == ServerRoleSecondary && !sv.banned:
			old = sv
		}
	}
	if len(s.servers) > 2*maxSecondaryPaths {
		if old == nil {
			return false
		}
		delete(s.servers, old.id)
		for _, r := range old.paths {
			delete(s.paths, r.id)
			s.handler.forget(r.id)
		}
	}
	return kept < maxSecondaryPaths
}

// mayDial is the rule of docs/PROTOCOL.md section 2: a primary cannot send its clients to addresses that only they
// can reach.
func (s *ClientSession) mayDial(addr netip.AddrPort) bool {
	ip := addr.Addr().Unmap()
	if addr.Port() == 0 || !s.config.Family.has(ip) || !ip.IsValid() || ip.IsUnspecified() || ip.IsMulticast() || ip.Zone() != "" {
		return false
	}
	if !ip.IsLoopback() && !ip.IsLinkLocalUnicast() {
		return true
	}
	primary := s.primary.addr.Addr().Unmap()
	return primary.IsLoopback() || primary.IsLinkLocalUnicast() || slices.Contains(s.config.LocalAddresses(), primary)
}

// removePath ends the keeping of the paths to a server that the primary withdrew. A connection that serves a stream stays until it
// is not needed any more: its bytes are as good as before.
func (s *ClientSession) removePath(id ServerID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if id == primaryID {
		return
	}
	for _, open := range s.streams {
		delete(open.tickets, id) // new ones come if the path does
	}
	sv := s.servers[id]
	if sv == nil || sv.cancel == nil {
		return
	}
	sv.cancel()
	sv.cancel = nil
	for _, r := range sv.paths {
		s.retire(r)
	}
}

// retire closes the connection of a path that is not to be kept as soon as no stream needs it. Called with the lock held.
func (s *ClientSession) retire(r *pathRecord) {
	p := r.path
	if p == nil || p.role == ServerRolePrimary || s.ctx.Err() != nil || (r.server.cancel != nil && !r.dropped && !p.leaving) {
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
		offered, ok := s.stillKept(r)
		if !ok {
			return
		}
		select {
		case <-offered.Done():
			after = minRedial
			continue
		case <-r.news:
			wait = minRedial
		case <-time.After(after):
		}
		if offered, ok = s.stillKept(r); !ok {
			return
		}
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
		after, wait = wait, min(2*wait, maxRedial)
	}
}

// stillKept returns until when a path is kept; false if it is not worth it any more, and its keeper has to end.
func (s *ClientSession) stillKept(r *pathRecord) (context.Context, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	r.kept = s.worthKeeping(r)
	return r.server.offered, r.kept
}

// dialPath connects to a server by way of its AddPath and takes the path into service.
func (s *ClientSession) dialPath(ctx context.Context, r *pathRecord) (*path, error) {
	s.mu.Lock()
	r.state = PathConnecting
	info, addrs := r.server.info, r.server.addrs
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
	p, err := openPath(ctx, s, d, r.id, ServerRoleSecondary, info.GetTicket())
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	if ctx.Err() != nil || r.server.banned || r.dropped {
		s.mu.Unlock()
		p.fail(nil)
		p.release()
		return nil, errSessionClosed // or the path was withdrawn
	}
	r.path, r.addr, r.tried = p, p.addr, true
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

// pathMissed records that a server could not be reached.
func (s *ClientSession) pathMissed(r *pathRecord, err error) {
	s.mu.Lock()
	if r.state != PathBanned {
		r.state, r.reason = PathClosed, err
	}
	r.tried = true
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
	r.server.widths.forget(p.id)
	if e, ok := errors.AsType[*quic.ApplicationError](err); ok && p.role == ServerRolePrimary && e.ErrorCode != ApplicationErrorCode(NoError) {
		s.dismiss(r.server)
	}
	again := !r.kept && s.worthKeeping(r)
	r.kept = r.kept || again // there is hope for the streams that it leaves
	s.mu.Unlock()
	for _, a := range streams {
		a.detach(p.id, err)
	}
	if again { // not before: the streams would take the next connection for this one
		s.wg.Go(func() { s.keepPath(r, minRedial) })
	}
}

// dismiss does without a primary that ended the session on purpose, or broke the protocol. Called with the lock held.
func (s *ClientSession) dismiss(sv *serverRecord) {
	if sv.cancel == nil {
		return
	}
	sv.cancel()
	sv.cancel = nil
	for _, r := range sv.paths {
		if p := r.path; p != nil {
			s.wg.Go(func() { p.fail(nil) })
		}
	}
}

// ban ends the paths to a server whose bytes failed their proof, for this session, and tells the primary.
func (s *ClientSession) ban(id PathID, stream StreamID, off, n int64, cause error) {
	s.mu.Lock()
	sv := s.servers[id.server()]
	if sv.banned {
		s.mu.Unlock()
		return
	}
	sv.banned = true
	var ids []PathID
	var further []*path // the one that delivered the bytes ends with their secondary stream
	for _, r := range sv.paths {
		r.state, r.reason = PathBanned, cause
		ids = append(ids, r.id)
		if r.path != nil && r.id != id {
			further = append(further, r.path)
		}
	}
	var streams []*streamAggregator
	for _, open := range s.streams {
		streams = append(streams, open.agg)
	}
	s.mu.Unlock()
	s.blame(sv.id, kwikpb.PathState_PATH_STATE_BANNED, &kwikpb.Blame{KwikStreamId: uint64(stream), Offset: uint64(off), Length: uint64(n)}, cause)
	for _, a := range streams {
		for _, id := range ids {
			a.detach(id, cause)
		}
	}
	for _, p := range further {
		p.fail(errorf(ErrSourceRefuted, "bytes of another path failed their proof"))
	}
}

// blame tells the primary which bytes of a server failed their proof, and what became of it.
func (s *ClientSession) blame(id ServerID, state kwikpb.PathState, b *kwikpb.Blame, cause error) {
	s.primary.control.send(&kwikpb.ControlFrame{Frame: &kwikpb.ControlFrame_PathStatus{PathStatus: &kwikpb.PathStatus{
		PathId: string(id), State: state, Reason: printable(cause.Error()), Blame: b,
	}}})
}
