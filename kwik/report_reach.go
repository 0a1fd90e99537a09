package kwik

import (
	"errors"
	"syscall"
	"time"

	kwikpb "kwikcp/kwik/proto"
)

// This file tells the primary which secondaries the client reaches and which it does not, so that
// the primary offers the latter less (reachability.go).

// unansweredTime is how long a dial must have lasted at the end of the session until the secondary
// counts as unreachable. Most transfers are shorter.
const unansweredTime = time.Second

var errDialUnanswered = errors.New("no answer before the end of the session")

// reportReach tells the primary that the client has reached a secondary, or could not because of
// err. It does so when that changes. A secondary that was reached before may have ended, so it is
// not reported again. The caller holds s.mu.
func (s *ClientSession) reportReach(r *pathRecord, err error) {
	sv := r.server
	report := reportOf(err == nil)
	wasReached := sv.reported == reportReached
	if sv.role != ServerRoleSecondary || sv.reported == report || wasReached || s.public.Err() != nil {
		return
	}
	isOurs := errors.Is(err, syscall.EMFILE) || errors.Is(err, syscall.ENFILE)
	if isGivenUp := s.ctx.Err() != nil || sv.banned || !sv.isAnnounced(); err != nil && (isOurs || isGivenUp) {
		return
	}
	sv.reported = report
	status := &kwikpb.PathStatus{PathId: string(sv.id), State: kwikpb.PathState_PATH_STATE_ACTIVE}
	if err != nil {
		status.State, status.Reason = kwikpb.PathState_PATH_STATE_UNREACHABLE, printable(err.Error())
	}
	s.primary.control.send(&kwikpb.ControlFrame{Frame: &kwikpb.ControlFrame_PathStatus{PathStatus: status}})
}

// reportUnanswered reports the secondaries that have not answered for a while, at the end of the
// session.
func (s *ClientSession) reportUnanswered() {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	for _, sv := range s.servers {
		r := sv.paths[0]
		isUnanswered := !r.reached && !r.dialing.IsZero() && now.Sub(r.dialing) >= unansweredTime
		if isUnanswered && sv.reported == reportNone {
			s.reportReach(r, errDialUnanswered)
			s.reported.Store(&now)
		}
	}
}
