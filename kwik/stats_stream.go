package kwik

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
	st := StreamStats{Size: a.units.total, Bytes: a.sched.had.Total(), Kept: a.offsets.kept, Wasted: a.offsets.wasted, Conflicts: a.offsets.conflicts}
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
