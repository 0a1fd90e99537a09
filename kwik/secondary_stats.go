package kwik

import (
	"errors"
	"slices"
	"time"

	"github.com/quic-go/quic-go"
)

// A SecondaryStreamState is the state of a secondary stream.
type SecondaryStreamState int

const (
	SecondaryStreamOpening SecondaryStreamState = iota // OPEN, or the KWIK stream that it names, has not arrived
	SecondaryStreamActive                              // mapped to a KWIK stream; DATA may arrive
	SecondaryStreamClosing                             // CLOSE has arrived, the stream's end has not
	SecondaryStreamClosed                              // read to its end, or not needed any more
	SecondaryStreamError                               // interrupted, or the source broke a rule
)

func (s SecondaryStreamState) String() string {
	switch s {
	case SecondaryStreamOpening:
		return "opening"
	case SecondaryStreamActive:
		return "active"
	case SecondaryStreamClosing:
		return "closing"
	case SecondaryStreamClosed:
		return "closed"
	case SecondaryStreamError:
		return "error"
	}
	return "unknown"
}

// SecondaryStreamInfo is a snapshot of a secondary stream.
type SecondaryStreamInfo struct {
	Path      PathID
	StreamID  int64 // the QUIC stream id on that path
	State     SecondaryStreamState
	CreatedAt time.Time
	Received  int64            // payload bytes that arrived
	Mapping   *MappingMetadata // nil if it was never mapped
	Err       error            // why it is in SecondaryStreamError
}

// SecondaryStreamStats counts the secondary streams of one path, over all its connections.
type SecondaryStreamStats struct {
	ActiveStreams   int   // open now: MappedStreams and UnmappedStreams
	MappedStreams   int   // whose KWIK stream is known
	UnmappedStreams int   // whose OPEN has not arrived
	TotalStreams    int   // since the session began
	TotalBytes      int64 // payload bytes that arrived
	CountedBytes    int64 // of those, the ones that arrived first and were proved
	// AggregationRatio is CountedBytes divided by TotalBytes, at most 1; 0 before any byte arrives.
	AggregationRatio float64
}

func (s *SecondaryStreamStats) add(t SecondaryStreamStats) {
	s.ActiveStreams += t.ActiveStreams
	s.MappedStreams += t.MappedStreams
	s.UnmappedStreams += t.UnmappedStreams
	s.TotalStreams += t.TotalStreams
	s.TotalBytes += t.TotalBytes
	s.CountedBytes += t.CountedBytes
	if s.TotalBytes > 0 {
		s.AggregationRatio = float64(s.CountedBytes) / float64(s.TotalBytes)
	}
}

// endedKept is the number of ended secondary streams that are remembered for each path.
const endedKept = 16

// A pathStreams is the handler's record of a path, besides its open streams.
type pathStreams struct {
	opened   int                   // streams so far
	open     int                   // of those, the ones that are open
	limit    int                   // that may be open at once
	received int64                 // payload bytes of the streams that ended
	counted  int64                 // bytes that counted
	ended    []SecondaryStreamInfo // the newest endedKept, the oldest first
}

// pathStreams returns the record of a path and creates it if necessary. The caller holds h.mu.
func (h *secondaryStreamHandler) pathStreams(id PathID) *pathStreams {
	p := h.paths[id]
	if p == nil {
		p = &pathStreams{limit: h.config.MaxStreamsPerPath}
		h.paths[id] = p
	}
	return p
}

// register adds an open stream.
func (h *secondaryStreamHandler) register(id secondaryStreamID, info *secondaryStreamInfo) {
	h.mu.Lock()
	defer h.mu.Unlock()
	info.createdAt = time.Now()
	info.openDue = info.createdAt
	h.streams[id] = info
	p := h.pathStreams(id.path)
	p.opened++
	p.open++
}

// unregister removes a stream that has ended and remembers how. err is the reason if it ended
// before CLOSE and FIN.
func (h *secondaryStreamHandler) unregister(
	id secondaryStreamID, info *secondaryStreamInfo, a *streamAggregator, err error,
) {
	h.mu.Lock()
	defer h.mu.Unlock()
	info.state = SecondaryStreamClosed
	if err != nil && !unneeded(a, err) {
		info.state = SecondaryStreamError
	}
	last := h.describe(id, info)
	if info.state == SecondaryStreamError {
		last.Err = err
	}
	delete(h.streams, id)
	h.mappings.remove(id)
	p := h.pathStreams(id.path)
	p.open--
	p.received += last.Received
	if len(p.ended) == endedKept {
		p.ended = slices.Delete(p.ended, 0, 1)
	}
	p.ended = append(p.ended, last)
}

// unneeded reports whether a secondary stream of a ended early because its bytes are not needed.
// a is nil if the KWIK stream is not known.
func unneeded(a *streamAggregator, err error) bool {
	if a != nil && a.ctx.Err() != nil {
		return true // the KWIK stream has ended
	}
	if errors.Is(err, errNotNeeded) || errors.Is(err, errStreamEnded) || errors.Is(err, errSourceGone) {
		return true
	}
	reset, ok := errors.AsType[*quic.StreamError](err)
	return ok && ErrorCode(reset.ErrorCode) == NoError // the grant was revoked
}

// addCounted adds the bytes of a source that have counted since the last call.
func (h *secondaryStreamHandler) addCounted(s *source) {
	n := s.counted.Swap(0)
	h.mu.Lock()
	defer h.mu.Unlock()
	h.pathStreams(s.id).counted += n
}

// pathLoad returns the number of bytes of a path that have counted. busy reports whether more
// than half of the path's secondary streams are open. The server is then likely to delay
// further ones.
func (h *secondaryStreamHandler) pathLoad(path PathID) (counted int64, busy bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	p := h.paths[path]
	if p == nil {
		return 0, false
	}
	return p.counted, 2*p.open > p.limit
}

// setLimit records how many secondary streams of a path may be open at once.
func (h *secondaryStreamHandler) setLimit(path PathID, limit int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.pathStreams(path).limit = limit
}

// removePath removes the record of a path.
func (h *secondaryStreamHandler) removePath(id PathID) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.paths, id)
}

// stats returns the counts of a path.
func (h *secondaryStreamHandler) stats(path PathID) (st SecondaryStreamStats) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if p := h.paths[path]; p != nil {
		st.add(SecondaryStreamStats{TotalStreams: p.opened, TotalBytes: p.received, CountedBytes: p.counted})
	}
	for id, info := range h.streams {
		if id.path == path {
			one := SecondaryStreamStats{ActiveStreams: 1, MappedStreams: 1, TotalBytes: info.received.Load()}
			if h.mappings.target(id) == nil {
				one.MappedStreams, one.UnmappedStreams = 0, 1
			}
			st.add(one)
		}
	}
	return st
}

// describe returns a snapshot of a stream. The caller holds h.mu.
func (h *secondaryStreamHandler) describe(id secondaryStreamID, info *secondaryStreamInfo) SecondaryStreamInfo {
	x := SecondaryStreamInfo{
		Path: id.path, StreamID: id.id, State: info.state,
		CreatedAt: info.createdAt, Received: info.received.Load(),
	}
	if mapping := h.mappings.target(id); mapping != nil {
		meta := mapping.MappingMetadata
		x.Mapping = &meta
	}
	return x
}

// snapshot returns the open streams and the newest ended ones, ordered by path and ID.
func (h *secondaryStreamHandler) snapshot() (all []SecondaryStreamInfo) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for id, info := range h.streams {
		all = append(all, h.describe(id, info))
	}
	for _, p := range h.paths {
		all = append(all, p.ended...)
	}
	slices.SortFunc(all, func(a, b SecondaryStreamInfo) int {
		return secondaryStreamID{a.Path, a.StreamID}.compare(secondaryStreamID{b.Path, b.StreamID})
	})
	return all
}

// SecondaryStreams returns a snapshot of the open secondary streams and the last 16 that ended on
// each path, ordered by path and stream.
func (s *ClientSession) SecondaryStreams() []SecondaryStreamInfo { return s.handler.snapshot() }

// Mappings returns a snapshot of the mappings of secondary streams to KWIK streams, ordered by
// path and stream.
func (s *ClientSession) Mappings() []MappingMetadata {
	s.handler.mu.Lock()
	defer s.handler.mu.Unlock()
	return s.handler.mappings.snapshot()
}
