package kwik

import (
	"context"
	"errors"
	"maps"
	"slices"
	"time"

	"github.com/quic-go/quic-go"
)

// This file ends sessions that are not used. A server keeps no client alive: only the client sends
// keep-alives, and they do not count as use.

// reasonIdle is the reason with which a server closes a session that had no stream for too long,
// with KWIK_NO_ERROR (docs/PROTOCOL.md section 3).
const reasonIdle = "idle"

// A sessionState tells whether a session has, or had since the last observation, a stream.
type sessionState struct {
	resident *resident
	busy     bool
	touched  time.Time // when the client last took bytes or attached to a stream
}

// watchSessions closes the sessions that had no stream for SessionIdleTimeout, up to a twelfth of
// it late. It ends with the listener.
func (l *Listener) watchSessions() {
	ticker := time.NewTicker(max(l.config.SessionIdleTimeout/12, 10*time.Millisecond))
	defer ticker.Stop()
	for {
		select {
		case <-l.ctx.Done():
			return
		case <-ticker.C:
			for _, r := range l.observeSessions() {
				r.session.endIdle()
			}
			for _, s := range l.silentSessions(time.Now()) {
				s.CloseWithError(ApplicationErrorCode(NoError), "nothing arrived")
			}
		}
	}
}

// silentSessions returns the sessions of clients from which nothing has arrived for twice QUIC's
// idle time-out. QUIC itself waits for three probe time-outs if those are longer, and a client that
// has acknowledged late makes them as long as it likes.
func (l *Listener) silentSessions(now time.Time) (silent []*ServerSession) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for s := range l.sessions {
		if n := s.conn.ConnectionStats().BytesReceived; n != s.heard || s.heardAt.IsZero() {
			s.heard, s.heardAt = n, now
		} else if now.Sub(s.heardAt) >= 2*l.config.QUIC.MaxIdleTimeout {
			silent = append(silent, s)
		}
	}
	return silent
}

// observeSessions tells the gate which sessions have a stream. It returns the sessions to close.
func (l *Listener) observeSessions() []*resident {
	l.mu.Lock()
	sessions := slices.Collect(maps.Keys(l.sessions))
	l.mu.Unlock()
	states := make([]sessionState, len(sessions))
	for i, s := range sessions {
		busy, touched := s.activity()
		states[i] = sessionState{s.resident, busy, touched}
	}
	return l.gate.observe(states, l.config.SessionIdleTimeout)
}

// enter gives a session a place at the listener. Another session may lose its own.
func (l *Listener) enter(s *ServerSession) error {
	now := time.Now()
	s.resident = &resident{
		from: clientPrefix(s.conn.RemoteAddr()), id: s.id, idleSince: now, touched: now, session: s,
	}
	if l.gate.isFull(s.resident) {
		l.observeSessions() // a session that has a stream by now must not lose its place
	}
	evicted, err := l.gate.enter(s.resident)
	if evicted != nil {
		evicted.session.endFor(evicted.lost)
	}
	return err
}

// activity reports whether the session has a stream, or had one that began since the last call.
// touched is when the client last took bytes or used a stream.
func (s *ServerSession) activity() (busy bool, touched time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.uses != s.usesSeen {
		s.usesSeen, s.usedAt = s.uses, time.Now()
		busy = true
	}
	if touched = s.lastTaken(); touched.Before(s.usedAt) {
		touched = s.usedAt
	}
	return busy || s.streams() > 0, touched
}

// streams returns the number of streams that are not over. Plain ones are over when this side has
// written all. The caller holds s.mu.
func (s *ServerSession) streams() int {
	return len(s.offers) + len(s.attached) + len(s.pushed) + s.plain
}

// endIdle closes a session without a stream.
func (s *ServerSession) endIdle() { s.CloseWithError(ApplicationErrorCode(NoError), reasonIdle) }

// endFor closes a session that has lost its place.
func (s *ServerSession) endFor(why refusal) {
	if why == endedIdle {
		s.endIdle()
		return
	}
	s.CloseWithError(ApplicationErrorCode(ErrServerBusy), string(why))
}

// IsIdleClose reports whether a session, or a call on it, ended because the server closed the
// session after it had no stream for too long. A new session may be dialled at once.
func IsIdleClose(err error) bool {
	e, ok := errors.AsType[*quic.ApplicationError](err)
	return ok && e.Remote && ErrorCode(e.ErrorCode) == NoError && e.ErrorMessage == reasonIdle
}

// closedIdle reports whether the server of a path closed it because no stream used it.
func (p *path) closedIdle() bool { return IsIdleClose(context.Cause(p.conn.Context())) }
