package kwik

import (
	"context"
	"maps"
	"slices"

	kwikpb "kwikcp/kwik/proto"
)

// This file is about servers that leave in an orderly way: nobody loses a byte by it, and nobody waits for it.
//
// The server takes no new sessions and says GoAway to those that it has. A client finishes, at that server, the grant that is being
// written, grants nothing more there while there are others, and closes the path when no stream needs it. Where there is nobody
// else the server goes on to the end of the stream, or of its patience.

// Shutdown closes the listener when its clients are done with it or with ctx, whichever is first: they are told that the server
// leaves, and go on with others. reason is for people. It returns what Close does. Memberships should be closed before, so that no
// client is sent here any more.
func (l *Listener) Shutdown(ctx context.Context, reason string) error {
	l.mu.Lock()
	if !l.leaving && len(l.sessions) == 0 {
		close(l.empty)
	}
	l.leaving = true
	sessions := slices.Collect(maps.Keys(l.sessions))
	l.mu.Unlock()
	for _, s := range sessions {
		s.control.send(&kwikpb.ControlFrame{Frame: &kwikpb.ControlFrame_GoAway{GoAway: &kwikpb.GoAway{Reason: printable(reason)}}})
		s.endIfDone()
	}
	select {
	case <-ctx.Done():
	case <-l.empty:
	}
	return l.Close()
}

// endIfDone closes the session if the server is leaving and the client has used it and holds nothing here any more: no stream that was
// offered or attached, and no plain one on which this side may still write.
func (s *ServerSession) endIfDone() {
	s.listener.mu.Lock()
	leaving := s.listener.leaving
	s.listener.mu.Unlock()
	s.mu.Lock()
	done := leaving && s.used && len(s.offers)+len(s.attached)+len(s.pushed)+s.plain == 0
	s.mu.Unlock()
	if done {
		s.CloseWithError(ApplicationErrorCode(NoError), "server is leaving")
	}
}

// goAway acts on a server's word that it leaves: the path is not used for anything new.
func (s *ClientSession) goAway(p *path) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if r := s.paths[p.id]; r.path == p {
		s.leave(r)
	}
}

// leave has the streams leave a path, and closes it when they have. The first path to the primary stays open for the application. Called
// with the lock held.
func (s *ClientSession) leave(r *pathRecord) {
	p := r.path
	if p == nil || p.leaving || s.ctx.Err() != nil {
		return
	}
	p.leaving = true
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
	s.retire(r)
}

// standing reports whether a path still serves a stream, and whether streams should leave it.
func (s *ClientSession) standing(open *openStream, p *path) (attached, leaving bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return open.attached[p.id] == p, p.leaving
}

// detached lets a source go that has nothing left to do for a stream.
func (s *ClientSession) detached(open *openStream, id PathID) {
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
	s.retire(r)
}
