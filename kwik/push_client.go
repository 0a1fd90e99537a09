package kwik

import (
	"time"
)

// This file is the client's side of pushed streams: no grants, but a window. Everything before its end may be written by
// whoever wants to; the end moves on as the application reads. A pushed secondary stream is known to the scheduler like a grant
// that nobody gave (adopt), so that it goes the way of all others from there on.

// pushLimit returns the end of what may be pushed now. Called with the lock held.
func (a *streamAggregator) pushLimit() int64 {
	if a.mode != consumerOrdered {
		return a.units.total // an unordered consumer takes everything at once
	}
	return a.units.floor(min(a.offsets.read+a.window, a.units.total))
}

// tellWindow tells a source what may be pushed. Called with the lock held.
func (a *streamAggregator) tellWindow(id PathID, sync bool) {
	limit := a.pushLimit()
	a.tell(schedAction{kind: schedWindow, path: id, start: min(a.offsets.next, limit), end: limit, sync: sync})
	a.toldLimit = limit
}

// moveWindow tells all sources when the window has moved by a quarter of its size. Called with the lock held.
func (a *streamAggregator) moveWindow() {
	limit := a.pushLimit()
	if limit-a.toldLimit < a.window/4 && (limit < a.units.total || a.toldLimit == limit) {
		return
	}
	for id, s := range a.sources {
		if !s.gone {
			a.tellWindow(id, false)
		}
	}
}

// synchronise answers a source that says where it is. In a pulled stream that only tells how many grants it queues: where it
// goes on is what it is granted. In a pushed stream a source that is behind what the client has, or ahead of what it allows,
// is told to go to where the client is.
func (a *streamAggregator) synchronise(id PathID, offset int64, room int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	s := a.sources[id]
	if s == nil || s.gone || a.err != nil {
		return
	}
	if a.pushed {
		a.tellWindow(id, offset < a.offsets.next || offset > a.pushLimit())
		return
	}
	a.sched.setRoom(id, room, time.Now())
	a.dispatch()
}

// hasSource reports whether a path was attached.
func (a *streamAggregator) hasSource(id PathID) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.sources[id] != nil
}

// adopt admits a secondary stream that a source pushes from start on.
func (a *streamAggregator) adopt(id PathID, start int64) (s *source, grant uint64, err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	s = a.sources[id]
	switch {
	case !a.pushed:
		return nil, 0, errorf(ErrMetadataProtocolViolation, "secondary stream without a grant").onPath(id).onStream(a.id, start)
	case s == nil || s.gone:
		return nil, 0, errSourceGone
	case start < 0 || start >= a.units.total || !a.units.isBoundary(start):
		return nil, 0, errorf(ErrMetadataProtocolViolation, "no unit begins where it is pushed").onPath(id).onStream(a.id, start)
	}
	grant, ok := a.sched.adopt(id, start)
	if !ok {
		return nil, 0, errSourceGone
	}
	return s, grant, nil
}

// mayPush reports whether a source may write up to end now. If not it is told where the client is, and its stream is reset: it is
// ahead, or its memory of the window is.
func (a *streamAggregator) mayPush(id PathID, end int64) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if end <= a.pushLimit() {
		return nil
	}
	a.tellWindow(id, true)
	return streamFault{errorf(ErrOffsetSyncFailure, "pushed up to %d, the window ends at %d", end, a.pushLimit()).onPath(id).onStream(a.id, end)}
}

// overdue reports whether a hole of a pushed stream has kept the reader waiting for too long. Called with the lock held.
func (a *streamAggregator) overdue(now time.Time) bool {
	if !a.pushed || a.waiting.IsZero() || a.offsets.next != a.lastNext || a.sched.had.Total() == a.offsets.next {
		a.lastNext, a.waiting = a.offsets.next, now
		return false
	}
	return now.Sub(a.waiting) >= a.reorderTimeout
}
