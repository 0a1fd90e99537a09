package kwik

import kwikpb "kwikcp/kwik/proto"

// ban closes the paths to the server of path id for the rest of the session, because bytes of
// that path failed their proof. It reports the bytes, [off, off+n) of a stream, to the primary.
func (s *ClientSession) ban(id PathID, stream StreamID, off, n int64, cause error) {
	s.mu.Lock()
	sv := s.servers[id.server()]
	if sv.banned {
		s.mu.Unlock()
		return
	}
	sv.banned = true
	var ids []PathID
	var others []*path // the path that delivered the bytes is closed by the handler of their secondary stream
	for _, r := range sv.paths {
		r.state, r.reason = PathBanned, cause
		ids = append(ids, r.id)
		if r.path != nil && r.id != id {
			others = append(others, r.path)
		}
	}
	var streams []*streamAggregator
	for _, open := range s.streams {
		streams = append(streams, open.agg)
	}
	s.mu.Unlock()
	rejected := &kwikpb.Blame{KwikStreamId: uint64(stream), Offset: uint64(off), Length: uint64(n)}
	s.reportRejected(sv.id, kwikpb.PathState_PATH_STATE_BANNED, rejected, cause)
	for _, a := range streams {
		for _, id := range ids {
			a.detach(id, cause)
		}
	}
	for _, p := range others {
		p.fail(errorf(ErrSourceRefuted, "bytes of another path failed their proof"))
	}
}

// reportRejected reports bytes of a server that failed their proof to the primary, with the
// state of the server's paths.
func (s *ClientSession) reportRejected(id ServerID, state kwikpb.PathState, rejected *kwikpb.Blame, cause error) {
	s.primary.control.send(&kwikpb.ControlFrame{Frame: &kwikpb.ControlFrame_PathStatus{PathStatus: &kwikpb.PathStatus{
		PathId: string(id), State: state, Reason: printable(cause.Error()), Blame: rejected,
	}}})
}
