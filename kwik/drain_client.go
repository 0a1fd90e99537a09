package kwik

import kwikpb "kwikcp/kwik/proto"

// This file is the client's side of draining: a server shuts down in an orderly way, and no stream
// loses a byte or waits.
//
// A draining server takes no new sessions and sends GoAway on the open ones. The client lets it
// finish the grant that it is writing and gives it no other while there are other sources. When no
// stream needs the path, the client closes it. Where there is no other source, the server continues
// until the stream ends or until the drain time-out.

// goAway handles GoAway: the server drains, and no stream should start to use the path.
func (s *ClientSession) goAway(p *path) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if r := s.paths[p.id]; r.path == p {
		s.drainPath(r)
	}
}

// drainPath stops new grants on a path and closes it when no stream needs it. The first path to the
// primary stays open for the application. The caller holds s.mu.
func (s *ClientSession) drainPath(r *pathRecord) {
	p := r.path
	if p == nil || p.draining || s.ctx.Err() != nil {
		return
	}
	p.draining = true
	var streams []*streamAggregator
	for _, open := range s.streams {
		if open.attached[r.id] == p && !open.released {
			streams = append(streams, open.agg)
		}
	}
	s.start(func() { // an aggregator's lock is taken before the session's
		for _, a := range streams {
			a.drain(r.id)
		}
	})
	s.closeIfUnused(r)
}

// sourceState reports whether a path is a source of a stream, and whether streams should stop using
// it.
func (s *ClientSession) sourceState(open *openStream, p *path) (attached, leaving bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return open.attached[p.id] == p, p.draining
}

// sourceDrained detaches a source that has nothing left to do for a stream.
func (s *ClientSession) sourceDrained(open *openStream, id PathID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	r := s.paths[id]
	if r == nil || r.path == nil || open.attached[id] != r.path {
		return
	}
	delete(open.attached, id)
	open.left[id] = r.path
	r.path.control.sendMetadata(kwikpb.MetadataFrameType_STREAM_MAPPING_UPDATE, &kwikpb.StreamMappingUpdate{
		KwikStreamId: uint64(open.agg.id), Operation: kwikpb.MappingOperation_MAPPING_DELETE,
	})
	s.closeIfUnused(r)
}
