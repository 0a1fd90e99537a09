package kwik

import (
	"slices"

	"github.com/quic-go/quic-go"
)

// serverStats returns a snapshot of a server. Counts are sums over its paths. Address, state and
// round-trip time are those of the first path that is connected. The caller holds s.mu.
func (s *ClientSession) serverStats(sv *serverRecord) ServerStats {
	shown := sv.paths[0]
	if i := slices.IndexFunc(sv.paths, func(r *pathRecord) bool { return r.path != nil }); i >= 0 {
		shown = sv.paths[i]
	}
	st := ServerStats{ID: sv.id, Role: sv.role, Addr: shown.addr, State: shown.state, Err: shown.reason}
	if shown.path != nil {
		c := shown.path.conn.ConnectionStats()
		st.RTT, st.MinRTT = c.SmoothedRTT, c.MinRTT
	}
	for _, r := range sv.paths {
		st.Wire.add(r.pastWire)
		st.SecondaryStreams.add(s.handler.stats(r.id))
		if r.path != nil {
			c := r.path.conn.ConnectionStats()
			st.connections++
			st.congestionWindow += c.CongestionWindow
			st.Wire.add(wireOf(c))
			report := sv.widths.last[r.id]
			st.serverSent += report.sent
			st.serverLost += report.lost
			st.serverWindow += report.window
		}
	}
	return st
}

// SessionStats is a snapshot of a client's session. Counts are sums over its paths.
type SessionStats struct {
	ActivePaths      int // servers that are connected
	AggregateStreams int // open
	Wire             WireStats
	SecondaryStreams SecondaryStreamStats
}

// Stats returns a snapshot of the session.
func (s *ClientSession) Stats() (st SessionStats) {
	for _, p := range s.Servers() {
		if p.State == PathActive {
			st.ActivePaths++
		}
		st.Wire.add(p.Wire)
		st.SecondaryStreams.add(p.SecondaryStreams)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	st.AggregateStreams = len(s.streams)
	return st
}

// ConnectionStats returns QUIC's statistics of the primary's path, like the method of a quic-go
// connection.
func (s *ClientSession) ConnectionStats() quic.ConnectionStats {
	return s.primary.conn.ConnectionStats()
}
