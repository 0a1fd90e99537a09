package kwik

import (
	"time"

	kwikpb "kwikcp/kwik/proto"
)

// maxReportDelay bounds the time for which the end of a session is delayed so that its last report
// on rejected bytes arrives.
const maxReportDelay = 250 * time.Millisecond

// ban ends the use of the server of path id for the rest of the session, because bytes of that path
// failed their proof. It closes the paths to the server. It reports the bytes, [off, off+n) of a
// stream, to the primary.
//
// The first path to the primary stays open. It carries the application's streams, such as an answer
// that proves the content of other servers. Wrong content of the primary must not end that.
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
		if r.path != nil && r.id != id && r.path != s.primary {
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
	now := time.Now()
	s.reported.Store(&now)
	s.primary.control.send(&kwikpb.ControlFrame{Frame: &kwikpb.ControlFrame_PathStatus{PathStatus: &kwikpb.PathStatus{
		PathId: string(id), State: state, Reason: printable(cause.Error()), Blame: rejected,
	}}})
}

// awaitReport waits until a report that was just made has been sent. QUIC drops unsent data when a
// connection is closed. Without the report a primary does not learn that it sent wrong bytes.
func (s *ClientSession) awaitReport() {
	reported := s.reported.Load()
	if reported == nil {
		return
	}
	left := min(2*s.primary.rtt()+10*time.Millisecond, maxReportDelay) - time.Since(*reported)
	select {
	case <-time.After(left):
	case <-s.public.Done():
	}
}
