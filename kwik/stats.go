package kwik

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
	st := StreamStats{Size: a.units.total, Bytes: a.sched.had.Total(), Wasted: a.offsets.wasted, Conflicts: a.offsets.conflicts}
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
	Bytes  int64 // bytes that counted so far
	Wasted int64 // bytes that came in vain: twice, or refuted
	// Conflicts counts deliveries of which a part had been delivered before.
	Conflicts int
	Sources   []SourceStats
}
