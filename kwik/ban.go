package kwik

import kwikpb "kwikcp/kwik/proto"

// ban ends the paths to a server whose bytes failed their proof, for this session, and tells the primary.
func (s *ClientSession) ban(id PathID, stream StreamID, off, n int64, cause error) {
	s.mu.Lock()
	sv := s.servers[id.server()]
	if sv.banned {
		s.mu.Unlock()
		return
	}
	sv.banned = true
	var ids []PathID
	var further []*path // the one that delivered the bytes ends with their secondary stream
	for _, r := range sv.paths {
		r.state, r.reason = PathBanned, cause
		ids = append(ids, r.id)
		if r.path != nil && r.id != id {
			further = append(further, r.path)
		}
	}
	var streams []*streamAggregator
	for _, open := range s.streams {
		streams = append(streams, open.agg)
	}
	s.mu.Unlock()
	s.reportRejected(sv.id, kwikpb.PathState_PATH_STATE_BANNED, &kwikpb.Blame{KwikStreamId: uint64(stream), Offset: uint64(off), Length: uint64(n)}, cause)
	for _, a := range streams {
		for _, id := range ids {
			a.detach(id, cause)
		}
	}
	for _, p := range further {
		p.fail(errorf(ErrSourceRefuted, "bytes of another path failed their proof"))
	}
}

// reportRejected tells the primary which bytes of a server failed their proof, and what became of it.
func (s *ClientSession) reportRejected(id PathID, state kwikpb.PathState, b *kwikpb.Blame, cause error) {
	s.primary.control.send(&kwikpb.ControlFrame{Frame: &kwikpb.ControlFrame_PathStatus{PathStatus: &kwikpb.PathStatus{
		PathId: string(id.server()), State: state, Reason: printable(cause.Error()), Blame: b,
	}}})
}
