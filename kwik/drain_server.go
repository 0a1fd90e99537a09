package kwik

import (
	"context"
	"maps"
	"slices"

	kwikpb "kwikcp/kwik/proto"
)

// Shutdown drains the listener and closes it. It tells all clients that the server is leaving,
// and closes when the last client is done or ctx ends. Clients continue with other servers.
// reason is a text for people. Shutdown returns the result of Close. Close memberships first,
// so that no more clients are sent to this server.
func (l *Listener) Shutdown(ctx context.Context, reason string) error {
	l.mu.Lock()
	if !l.draining && len(l.sessions) == 0 {
		close(l.empty)
	}
	l.draining = true
	sessions := slices.Collect(maps.Keys(l.sessions))
	l.mu.Unlock()
	for _, s := range sessions {
		goAway := &kwikpb.GoAway{Reason: printable(reason)}
		s.control.send(&kwikpb.ControlFrame{Frame: &kwikpb.ControlFrame_GoAway{GoAway: goAway}})
		s.closeIfDrained()
	}
	select {
	case <-ctx.Done():
	case <-l.empty:
	}
	return l.Close()
}

// closeIfDrained closes the session if the server drains and the client is done. A client is
// done if it has used the session, no stream is offered or attached, and this side has
// finished all plain streams.
func (s *ServerSession) closeIfDrained() {
	s.listener.mu.Lock()
	leaving := s.listener.draining
	s.listener.mu.Unlock()
	s.mu.Lock()
	done := leaving && s.uses > 0 && s.streams() == 0
	s.mu.Unlock()
	if done {
		s.CloseWithError(ApplicationErrorCode(NoError), "server is leaving")
	}
}
