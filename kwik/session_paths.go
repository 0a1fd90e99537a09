package kwik

import (
	"context"
	"net/netip"
	"slices"
	"time"

	"kwikcp/internal/addrclass"
	"kwikcp/internal/trust"
	kwikpb "kwikcp/kwik/proto"
)

// This file holds the servers that a session knows and their paths, as the primary announces
// and withdraws them (AddPath, RemovePath). path_keeper.go connects the paths, ban.go and
// drain_client.go end their use.

// A serverRecord is the session's record of a server. Guarded by the session's lock.
type serverRecord struct {
	id     ServerID
	role   ServerRole
	banned bool

	info  *kwikpb.AddPath  // newest announcement; nil for a primary that offers no further paths
	addrs []netip.AddrPort // those addresses of info that may be dialed
	// announced is canceled when the primary withdraws the server. withdraw cancels it, and is
	// nil while the server is not announced.
	announced context.Context
	withdraw  context.CancelFunc

	reported reachReport // the last one that the primary got; see report_reach.go

	paths  []*pathRecord // the first path, then the further ones in order
	widths widthPolicy
}

// isAnnounced reports whether the primary has announced the server and not withdrawn it since.
func (sv *serverRecord) isAnnounced() bool { return sv.withdraw != nil }

// hasKeeper reports whether a path to the server is kept, or will be for the next stream.
func (sv *serverRecord) hasKeeper() bool {
	return slices.ContainsFunc(sv.paths, func(r *pathRecord) bool { return r.hasKeeper || r.asleep })
}

// A pathRecord is the session's record of a path to a server, connected or not. Guarded by the
// session's lock.
type pathRecord struct {
	id       PathID
	server   *serverRecord
	addr     netip.AddrPort // the address of the last connection, or the first address to dial
	state    PathState
	reason   error
	path     *path     // nil while not connected
	pastWire WireStats // of the connections that ended

	redial    chan struct{} // has an element when the server's info is newer than the last dial
	hasKeeper bool          // keepPath runs or is about to
	asleep    bool          // the server closed it because no stream used it
	dialed    bool          // a dial has succeeded or failed
	excess    bool          // a further path that the width policy does not want any more
	reached   bool          // it was connected
	dialing   time.Time     // since when it is dialed; zero while it is not
	// refusedSince is since when the server's system refuses packets: nothing listens at the port.
	// It is zero while that is not known.
	refusedSince time.Time
	// closedAt is when the server closed the last connection without an error; zero if it did not,
	// or has answered since.
	closedAt time.Time
}

// newServer adds a server with its first path. The caller holds s.mu.
func (s *ClientSession) newServer(id ServerID, role ServerRole, addr netip.AddrPort) *serverRecord {
	sv := &serverRecord{id: id, role: role, widths: newWidthPolicy(s.config.ConnectionsPerServer)}
	s.servers[id] = sv
	s.newPath(sv, id.path(1), addr)
	return sv
}

// newPath adds a path to a server. The caller holds s.mu.
func (s *ClientSession) newPath(sv *serverRecord, id PathID, addr netip.AddrPort) *pathRecord {
	r := &pathRecord{id: id, server: sv, addr: addr, state: PathConnecting, redial: make(chan struct{}, 1)}
	sv.paths = append(sv.paths, r)
	s.paths[id] = r
	return r
}

// addPath handles AddPath: the primary announces a server.
func (s *ClientSession) addPath(info *kwikpb.AddPath) error {
	id := ServerID(info.GetPathId())
	if !isWellFormed(info) {
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
		return nil // no address that this client may dial
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	sv := s.servers[id]
	switch {
	case s.ctx.Err() != nil:
		return nil
	case sv == nil:
		if !s.admitServer() {
			return nil
		}
		sv = s.newServer(id, ServerRoleSecondary, addrs[0])
	case sv.banned:
		return nil
	}
	s.updateServer(sv, info, addrs)
	for _, r := range sv.paths {
		s.startKeeper(r, 0)
	}
	return nil
}

// isWellFormed reports whether the fields of an AddPath have the lengths that docs/PROTOCOL.md
// requires.
func isWellFormed(info *kwikpb.AddPath) bool {
	id := ServerID(info.GetPathId())
	return (id.valid() || id == primaryID) &&
		len(info.GetTicket()) == ticketSize &&
		len(info.GetKeyHash()) == len(trust.Pin{}) &&
		len(info.GetAddresses()) <= maxAddresses
}

// addPrimary records the ticket for further paths to the primary: several at once, or one after a
// restart of the primary. A primary whose first path showed another key than the first announced
// one has several keys. It cannot be known which of them a further path would show, so there are
// no further paths then. A later announcement may name another key: the primary, which is
// authenticated, has a new certificate.
func (s *ClientSession) addPrimary(info *kwikpb.AddPath) {
	chain := s.primary.conn.ConnectionState().TLS.PeerCertificates
	isFirstKey := len(chain) > 0 && trust.PinOf(chain[0]) == trust.Pin(info.GetKeyHash())
	s.mu.Lock()
	defer s.mu.Unlock()
	primary := s.servers[primaryID]
	if wasAnnounced := primary.info != nil; !isFirstKey && !wasAnnounced {
		return
	}
	s.updateServer(primary, info, []netip.AddrPort{s.primary.addr})
}

// updateServer records an announcement and wakes the keepers that wait to dial. The caller
// holds s.mu.
func (s *ClientSession) updateServer(sv *serverRecord, info *kwikpb.AddPath, addrs []netip.AddrPort) {
	sv.info, sv.addrs = info, addrs
	for _, addr := range addrs {
		s.dials.announce(addr)
	}
	if !sv.isAnnounced() {
		sv.announced, sv.withdraw = context.WithCancel(s.ctx)
	}
	for _, r := range sv.paths {
		if !r.hasKeeper {
			continue
		}
		select {
		case r.redial <- struct{}{}:
		default:
		}
	}
}

// admitServer reports whether the session may add one more secondary. If the session knows very
// many servers, it removes one that is not kept and not banned. The caller holds s.mu.
func (s *ClientSession) admitServer() bool {
	kept, unused := 0, (*serverRecord)(nil)
	for _, sv := range s.servers {
		switch {
		case sv.hasKeeper():
			kept++
		case sv.role == ServerRoleSecondary && !sv.banned:
			unused = sv
		}
	}
	if len(s.servers) > 2*maxSecondaryPaths {
		if unused == nil {
			return false
		}
		s.removeServer(unused)
	}
	return kept < maxSecondaryPaths
}

// removeServer removes all records of a server that has no keeper. The caller holds s.mu.
func (s *ClientSession) removeServer(sv *serverRecord) {
	delete(s.servers, sv.id)
	for _, r := range sv.paths {
		delete(s.paths, r.id)
		s.handler.removePath(r.id)
	}
}

// mayDial applies the rule of docs/PROTOCOL.md section 2: a primary must not send its clients
// to addresses that only the clients can reach.
func (s *ClientSession) mayDial(addr netip.AddrPort) bool {
	ip := addr.Addr().Unmap()
	if !s.config.Family.has(ip) || !mayNamePort(s.primary.addr.Port(), addr.Port()) {
		return false
	}
	return s.MayName(ip)
}

// MayName reports whether the primary may send this client to an address of a server that does not
// speak KWIK. The address must be public, or of a kind that the primary itself has
// (docs/PROTOCOL.md section 2).
func (s *ClientSession) MayName(ip netip.Addr) bool {
	primary := s.primary.addr.Addr().Unmap()
	isHere := primary.IsLoopback() || slices.Contains(s.config.LocalAddresses(), primary)
	return addrclass.MayName(addrclass.Of(primary), addrclass.Of(ip), isHere)
}

// removePath handles RemovePath: the primary withdraws a server. A connection that serves a
// stream stays until no stream needs it. Losing its membership does not make a server's
// verified bytes wrong.
func (s *ClientSession) removePath(id ServerID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if id == primaryID {
		return
	}
	for _, open := range s.streams {
		if ticket := open.tickets[id]; ticket != nil {
			open.withdrawn[id] = ticket
		}
		delete(open.tickets, id) // a later AddPath is followed by new tickets
	}
	sv := s.servers[id]
	if sv == nil || !sv.isAnnounced() {
		return
	}
	sv.withdraw()
	sv.withdraw = nil
	for _, r := range sv.paths {
		s.closeIfUnused(r)
	}
}
