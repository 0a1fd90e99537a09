package kwik

import (
	"context"
	"net/netip"
	"slices"

	"kwikcp/internal/trust"
	kwikpb "kwikcp/kwik/proto"
)

// A serverRecord is what a session knows about a server. Guarded by the session.
type serverRecord struct {
	id     PathID
	role   ServerRole
	banned bool

	info      *kwikpb.AddPath    // the newest; nil for a primary that offers no further paths
	addrs     []netip.AddrPort   // those of info that may be dialled
	announced context.Context    // ends when the primary withdraws the server
	withdraw  context.CancelFunc // ends offered; nil without info and after a withdrawal

	paths  []*pathRecord // the first one and further ones, in order
	widths widthPolicy
}

// A pathRecord is what a session knows about one path to a server, whether there is a connection or not. Guarded by the session.
type pathRecord struct {
	id       PathID
	server   *serverRecord
	addr     netip.AddrPort // where it was reached, or the first address to try
	state    PathState
	reason   error
	path     *path     // while active
	pastWire WireStats // of the connections before

	redial    chan struct{} // has an element when the server's info is newer than the last dial
	hasKeeper bool          // keepPath runs, or is about to
	dialed    bool          // was dialled at least once, with whatever result
	excess    bool          // a further path that is not wanted any more
}

// newServer makes a server known, with its first path. Called with the lock held.
func (s *ClientSession) newServer(id PathID, role ServerRole, addr netip.AddrPort) *serverRecord {
	sv := &serverRecord{id: id, role: role, widths: newWidthPolicy(s.config.ConnectionsPerServer)}
	s.servers[id] = sv
	s.newPath(sv, id, addr)
	return sv
}

// newPath makes a path to a server known. Called with the lock held.
func (s *ClientSession) newPath(sv *serverRecord, id PathID, addr netip.AddrPort) *pathRecord {
	r := &pathRecord{id: id, server: sv, addr: addr, state: PathConnecting, redial: make(chan struct{}, 1)}
	sv.paths = append(sv.paths, r)
	s.paths[id] = r
	return r
}

// addPath starts to keep a path to a secondary that the primary named.
func (s *ClientSession) addPath(info *kwikpb.AddPath) error {
	id := PathID(info.GetPathId())
	if (!id.valid() && id != primaryPathID) || len(info.GetTicket()) != ticketSize || len(info.GetKeyHash()) != len(trust.Pin{}) || len(info.GetAddresses()) > maxAddresses {
		return errorf(ErrMetadataProtocolViolation, "AddPath that names no path")
	}
	if id == primaryPathID {
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
	if s.ctx.Err() != nil || (sv == nil && !s.admitServer()) || (sv != nil && sv.banned) {
		return nil
	}
	if sv == nil {
		sv = s.newServer(id, ServerRoleSecondary, addrs[0])
	}
	s.updateServer(sv, info, addrs)
	for _, r := range sv.paths {
		s.startKeeper(r, 0)
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
	s.updateServer(s.servers[primaryPathID], info, []netip.AddrPort{s.primary.addr})
}

// updateServer records what the primary says about a server. Called with the lock held.
func (s *ClientSession) updateServer(sv *serverRecord, info *kwikpb.AddPath, addrs []netip.AddrPort) {
	sv.info, sv.addrs = info, addrs
	if sv.withdraw == nil {
		sv.announced, sv.withdraw = context.WithCancel(s.ctx)
	}
	for _, r := range sv.paths {
		if !r.hasKeeper {
			continue // nobody waits with a dial
		}
		select {
		case r.redial <- struct{}{}:
		default:
		}
	}
}

// admitServer reports whether one more secondary may be kept, and forgets an old one that is not if there are many. Called
// with the lock held.
func (s *ClientSession) admitServer() bool {
	kept, old := 0, (*serverRecord)(nil)
	for _, sv := range s.servers {
		switch {
		case slices.ContainsFunc(sv.paths, func(r *pathRecord) bool { return r.hasKeeper }):
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
			s.handler.removePath(r.id)
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
func (s *ClientSession) removePath(id PathID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if id == primaryPathID {
		return
	}
	for _, open := range s.streams {
		delete(open.tickets, id) // new ones come if the path does
	}
	sv := s.servers[id]
	if sv == nil || sv.withdraw == nil {
		return
	}
	sv.withdraw()
	sv.withdraw = nil
	for _, r := range sv.paths {
		s.closeIfUnused(r)
	}
}
