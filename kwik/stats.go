package kwik

import (
	"slices"

	"github.com/quic-go/quic-go"
)

// WireStats counts what went over the network, as QUIC counts it: without UDP and IP headers, with retransmissions. Losses
// are those of this side's packets; for the servers' see PathStats.ServerLost.
type WireStats struct {
	BytesSent, BytesReceived, BytesLost       uint64
	PacketsSent, PacketsReceived, PacketsLost uint64
}

func (w *WireStats) add(x WireStats) {
	w.BytesSent += x.BytesSent
	w.BytesReceived += x.BytesReceived
	w.BytesLost += x.BytesLost
	w.PacketsSent += x.PacketsSent
	w.PacketsReceived += x.PacketsReceived
	w.PacketsLost += x.PacketsLost
}

// wireOf takes the counts out of those of a QUIC connection.
func wireOf(c quic.ConnectionStats) WireStats {
	return WireStats{
		BytesSent: c.BytesSent, BytesReceived: c.BytesReceived, BytesLost: c.BytesLost,
		PacketsSent: c.PacketsSent, PacketsReceived: c.PacketsReceived, PacketsLost: c.PacketsLost,
	}
}

// serverStats returns a snapshot of a server: the sums over the paths to it, and what else there is of the first that is connected.
// Called with the session's lock held.
func (s *ClientSession) serverStats(sv *serverRecord) PathStats {
	shown := sv.paths[0]
	if i := slices.IndexFunc(sv.paths, func(r *pathRecord) bool { return r.path != nil }); i >= 0 {
		shown = sv.paths[i]
	}
	st := PathStats{ID: sv.id, Role: sv.role, Addr: shown.addr, State: shown.state, Reason: shown.reason}
	if shown.path != nil {
		c := shown.path.conn.ConnectionStats()
		st.RTT, st.MinRTT = c.SmoothedRTT, c.MinRTT
	}
	for _, r := range sv.paths {
		st.Wire.add(r.past)
		st.SecondaryStreams.add(s.handler.stats(r.id))
		if r.path != nil {
			c := r.path.conn.ConnectionStats()
			st.Connections++
			st.CongestionWindow += c.CongestionWindow
			st.Wire.add(wireOf(c))
			report := sv.widths.last[r.id]
			st.ServerSent += report.sent
			st.ServerLost += report.lost
			st.ServerWindow += report.window
		}
	}
	return st
}

// SessionStats is a snapshot of a client's session: the sums over its paths.
type SessionStats struct {
	ActivePaths      int // servers that are connected now
	AggregateStreams int // open now
	Wire             WireStats
	SecondaryStreams SecondaryStreamStats
}

// Stats returns a snapshot of the session.
func (s *ClientSession) Stats() (st SessionStats) {
	for _, p := range s.Paths() {
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

// ConnectionStats returns QUIC's statistics of the primary's path, as a quic-go connection does.
func (s *ClientSession) ConnectionStats() quic.ConnectionStats {
	return s.primary.conn.ConnectionStats()
}

// ConnectionStats returns QUIC's statistics of the client's connection, as a quic-go connection does.
func (s *ServerSession) ConnectionStats() quic.ConnectionStats { return s.conn.ConnectionStats() }

// A SourceStats says what one server did for one aggregate stream.
type SourceStats struct {
	Path PathID
	// Primary is true for the primary.
	Primary bool
	// Bytes that counted: proved, first to arrive.
	Bytes int64
	// Stalled is true while the server owes bytes and sends none.
	Stalled bool
	// Offset is one past the last byte that came from it, in whatever order; 0 before the first.
	Offset int64
	// Gone is nil while the server takes part, and otherwise says why it no longer does.
	Gone error
}

// stats returns a snapshot: bytes had, bytes that came in vain, and each source's part.
func (a *streamAggregator) stats() StreamStats {
	a.mu.Lock()
	defer a.mu.Unlock()
	st := StreamStats{Size: a.units.Total(), Bytes: a.sched.Had(), Kept: a.offsets.kept, Wasted: a.offsets.wasted, Conflicts: a.offsets.conflicts}
	servers := make(map[PathID]int) // where they are in st.Sources
	for _, s := range a.sources {
		i, ok := servers[s.id.server()]
		if !ok {
			i = len(st.Sources)
			servers[s.id.server()] = i
			st.Sources = append(st.Sources, SourceStats{Path: s.id.server(), Primary: s.primary, Stalled: true, Gone: errStreamClosed})
		}
		st.Sources[i].add(s)
		st.Sources[i].Offset = max(st.Sources[i].Offset, a.offsets.sourceOffsets[s.id])
	}
	for i := range st.Sources {
		st.Sources[i].Stalled = st.Sources[i].Stalled && st.Sources[i].Gone == nil
	}
	return st
}

// add adds what one of a server's paths did. A server is gone when all its paths are, and stalled when all that are there are.
func (x *SourceStats) add(s *source) {
	x.Bytes += s.accepted
	switch {
	case !s.gone:
		x.Gone = nil
		x.Stalled = x.Stalled && s.stalled
	case x.Gone != nil && s.reason != nil:
		x.Gone = s.reason
	}
}

// A StreamStats is a snapshot of an aggregate stream.
type StreamStats struct {
	Size   int64 // bytes of the stream
	Bytes  int64 // bytes that counted so far, those that were kept included
	Kept   int64 // bytes that were had before (SetHave)
	Wasted int64 // bytes that came in vain: twice, or refuted
	// Conflicts counts deliveries of which a part had been delivered before.
	Conflicts int
	Sources   []SourceStats
}
