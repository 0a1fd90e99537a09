package kwik

import (
	"context"
	"maps"
	"slices"

	kwikpb "kwikcp/kwik/proto"
)

// Shutdown closes the listener when its clients are done with it or with ctx, whichever is first: they are told that the server
// leaves, and go on with others. reason is for people. It returns what Close does. Memberships should be closed before, so that no
// client is sent here any more.
func (l *Listener) Shutdown(ctx context.Context, reason string) error {
	l.mu.Lock()
	if !l.draining && len(l.sessions) == 0 {
		close(l.empty)
	}
	l.draining = true
	sessions := slices.Collect(maps.Keys(l.sessions))
	l.mu.Unlock()
	for _, s := range sessions {
		s.control.send(&kwikpb.ControlFrame{Frame: &kwikpb.ControlFrame_GoAway{GoAway: &kwikpb.GoAway{Reason: printable(reason)}}})
		s.closeIfDrained()
	}
	select {
	case <-ctx.Done():
	case <-l.empty:
	}
	return l.Close()
}

// closeIfDrained closes the session if the server is leaving and the client has used it and holds nothing here any more: no stream that was
// offered or attached, and no plain one on which this side may still write.
func (s *ServerSession) closeIfDrained() {
	s.listener.mu.Lock()
	leaving := s.listener.draining
	s.listener.mu.Unlock()
	s.mu.Lock()
	done := leaving && s.used && len(s.offers)+len(s.attached)+len(s.pushed)+s.plain == 0
	s.mu.Unlock()
	if done {
		s.CloseWithError(ApplicationErrorCode(NoError), "server is leaving")
	}
}
