package kwik

import kwikpb "kwikcp/kwik/proto"

// This file is about servers that leave in an orderly way: nobody loses a byte by it, and nobody waits for it.
//
// The server takes no new sessions and says GoAway to those that it has. A client finishes, at that server, the grant that is being
// written, grants nothing more there while there are others, and closes the path when no stream needs it. Where there is nobody
// else the server goes on to the end of the stream, or of its patience.

// goAway acts on a server's word that it leaves: the path is not used for anything new.
func (s *ClientSession) goAway(p *path) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if r := s.paths[p.id]; r.path == p {
		s.drainPath(r)
	}
}

// drainPath has the streams drainPath a path, and closes it when they have. The first path to the primary stays open for the application. Called
// with the lock held.
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
	s.wg.Go(func() { // an aggregator's lock comes before the session's
		for _, a := range streams {
			a.drain(r.id)
		}
	})
	s.closeIfUnused(r)
}

// sourceState reports whether a path still serves a stream, and whether streams should leave it.
func (s *ClientSession) sourceState(open *openStream, p *path) (attached, leaving bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return open.attached[p.id] == p, p.draining
}

// sourceDrained lets a source go that has nothing left to do for a stream.
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
