package kwik

import "time"

// SourceStats is one server's part in one aggregate stream.
type SourceStats struct {
	Server ServerID
	// Primary reports whether the server is the primary.
	Primary bool
	// Bytes counts the verified bytes that were the first to arrive.
	Bytes int64
	// Stalled reports whether the server owes bytes and sends none.
	Stalled bool
	// Offset is one past the highest byte that arrived from the server; 0 before the first.
	Offset int64
	// Gone is the reason why the server no longer takes part, or nil while it does.
	Gone error
}

// stats returns a snapshot of the stream with one entry per server.
func (a *streamAggregator) stats() StreamStats {
	a.mu.Lock()
	defer a.mu.Unlock()
	st := StreamStats{Size: a.units.Total(), Bytes: a.sched.Had(), Kept: a.offsets.kept,
		Wasted: a.offsets.wasted, Conflicts: a.offsets.conflicts,
		Idle: a.liveness.idle}
	servers := make(map[ServerID]int) // index in st.Sources
	for _, s := range a.sources {
		i, ok := servers[s.id.server()]
		if !ok {
			i = len(st.Sources)
			servers[s.id.server()] = i
			st.Sources = append(st.Sources, SourceStats{Server: s.id.server(), Primary: s.primary,
				Stalled: true, Gone: errStreamClosed})
		}
		st.Sources[i].add(s)
		st.Sources[i].Offset = max(st.Sources[i].Offset, a.offsets.sourceOffsets[s.id])
	}
	for i := range st.Sources {
		st.Sources[i].Stalled = st.Sources[i].Stalled && st.Sources[i].Gone == nil
	}
	return st
}

// add adds one path of the server. A server is gone when all its paths are gone. It is stalled when
// all paths that are not gone are stalled.
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

// StreamStats is a snapshot of an aggregate stream.
type StreamStats struct {
	Size   int64 // bytes of the stream
	Bytes  int64 // bytes that are in place, including Kept
	Kept   int64 // bytes that were in place before (CopyOptions.Have)
	Wasted int64 // bytes that were discarded: received twice, or rejected
	// Conflicts counts deliveries that overlapped an earlier delivery.
	Conflicts int
	// Idle is how long the consumer has waited and nothing has arrived; 0 while something does.
	Idle    time.Duration
	Sources []SourceStats
}
