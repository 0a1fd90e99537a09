package kwik

import "github.com/quic-go/quic-go"

// WireStats counts what went over the network, as QUIC counts it: without UDP and IP headers, with retransmissions. Losses
// are those of this side's packets; what the servers' packets lost is in the server sessions' ConnectionStats.
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

// stats returns a snapshot, but for the secondary streams. Called with the session's lock held.
func (r *pathRecord) stats() PathStats {
	st := PathStats{ID: r.id, Role: r.role, Addr: r.addr, State: r.state, Reason: r.reason, Wire: r.past}
	if r.path != nil {
		c := r.path.conn.ConnectionStats()
		st.RTT, st.MinRTT, st.CongestionWindow = c.SmoothedRTT, c.MinRTT, c.CongestionWindow
		st.Wire.add(wireOf(c))
	}
	return st
}

// SessionStats is a snapshot of a client's session: the sums over its paths.
type SessionStats struct {
	ActivePaths      int // connected now
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
	// Bytes that counted: proved, first to arrive.
	Bytes int64
	// Stalled is true while the server owes bytes and sends none.
	Stalled bool
	// Gone is nil while the server takes part, and otherwise says why it no longer does.
	Gone error
}

// stats returns a snapshot: bytes had, bytes that came in vain, and each source's part.
func (a *streamAggregator) stats() StreamStats {
	a.mu.Lock()
	defer a.mu.Unlock()
	st := StreamStats{Size: a.units.total, Bytes: a.sched.had.Total(), Kept: a.offsets.kept, Wasted: a.offsets.wasted, Conflicts: a.offsets.conflicts}
	for _, s := range a.sources {
		x := SourceStats{Path: s.id, Bytes: s.accepted, Stalled: s.stalled && !s.gone}
		if s.gone {
			if x.Gone = s.reason; x.Gone == nil {
				x.Gone = errStreamClosed
			}
		}
		st.Sources = append(st.Sources, x)
	}
	return st
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
