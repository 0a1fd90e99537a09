package kwik

import (
	"kwikcp/kwik/internal/sched"
	"time"
)

// This file is the client's side of pushed streams: no grants, but a window. Everything before its end may be written by
// whoever wants to; the end moves on as the application reads. A pushed secondary stream is known to the scheduler like a grant
// that nobody gave (adopt), so that it goes the way of all others from there on.

// pushLimit returns the end of what may be pushed now. Called with the lock held.
func (a *streamAggregator) pushLimit() int64 {
	if a.mode != consumerOrdered {
		return a.units.Total() // an unordered consumer takes everything at once
	}
	return a.units.Floor(min(a.offsets.read+a.window, a.units.Total()))
}

// A pushWindow tells a source of a pushed stream what it may write.
type pushWindow struct {
	start, end int64  // the source may write up to end; the client needs start next
	sync       bool   // the source is not where it should be
	question   uint64 // which question of the source this answers; 0 for none
}

// tellWindow tells a source what may be pushed; sync says that it is not where it should be, and question, if not 0, which of
// its questions is answered. Called with the lock held.
func (a *streamAggregator) tellWindow(s *source, sync bool, question uint64) {
	s.told = a.pushLimit()
	a.sendWindow(s.id, pushWindow{start: min(a.offsets.next, s.told), end: s.told, sync: sync, question: question})
}

// moveWindow tells each source for which the window has moved by a quarter of its size since it last heard of it, or to the
// stream's end. Called with the lock held.
func (a *streamAggregator) moveWindow() {
	limit := a.pushLimit()
	for _, s := range a.sources {
		if moved := limit - s.told; !s.gone && moved > 0 && (moved >= a.window/4 || limit == a.units.Total()) {
			a.tellWindow(s, false, 0)
		}
	}
}

// synchronise answers a source that says where it is. In a pulled stream that only tells how many grants it queues: where it
// goes on is what it is granted. In a pushed stream a source that is behind what the client has, or ahead of what it allows,
// is told to go to where the client is. question is repeated to it, so that it knows the answer from other news.
func (a *streamAggregator) synchronise(id PathID, offset int64, room int, question uint64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	s := a.sources[id]
	if s == nil || s.gone || a.err != nil {
		return
	}
	if a.pushed {
		a.tellWindow(s, offset < a.offsets.next || offset > a.pushLimit(), question)
		return
	}
	a.sched.SetQueueLimit(sched.SourceID(id), room, time.Now())
	a.dispatch()
}

// answersTo reports whether the stream knows what to say to a path that pushes: it was attached, or nobody is any more.
func (a *streamAggregator) answersTo(id PathID) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.sources[id] != nil || a.err != nil || a.released
}

// adopt admits a secondary stream that a source pushes from start on.
func (a *streamAggregator) adopt(id PathID, start int64) (s *source, grant uint64, err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	s = a.sources[id]
	switch {
	case !a.pushed:
		return nil, 0, errorf(ErrMetadataProtocolViolation, "secondary stream without a grant").onPath(id).onStream(a.id, start)
	case a.err != nil || (s != nil && s.gone) || (s == nil && a.released):
		return nil, 0, errSourceGone
	case s == nil:
		return nil, 0, errorf(ErrMetadataProtocolViolation, "a source that was not attached pushes").onPath(id).onStream(a.id, start)
	case start < 0 || start >= a.units.Total() || !a.units.IsBoundary(start):
		return nil, 0, errorf(ErrMetadataProtocolViolation, "no unit begins where it is pushed").onPath(id).onStream(a.id, start)
	}
	grant, ok := a.sched.Adopt(sched.SourceID(id), start)
	if !ok {
		return nil, 0, errSourceGone
	}
	return s, grant, nil
}

// mayPush reports whether a source may write up to end now, and up to where it may. If not it is told where the client is, and its stream is reset: it is
// ahead, or its memory of the window is.
func (a *streamAggregator) mayPush(s *source, end int64) (limit int64, err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if limit = a.pushLimit(); end <= limit {
		return limit, nil
	}
	a.tellWindow(s, true, 0)
	return limit, streamFault{errorf(ErrOffsetSyncFailure, "pushed up to %d, the window ends at %d", end, s.told).onPath(s.id).onStream(a.id, end)}
}

// overdue reports whether a hole of a pushed stream has kept its consumer waiting for too long: an ordered one for the byte that
// is due, an unordered one for any. Called with the lock held.
func (a *streamAggregator) overdue(now time.Time) bool {
	had := a.sched.Had()
	got, busy := a.offsets.next, a.offsets.read < a.offsets.next // with what it has
	if a.mode == consumerUnordered {
		got, busy = had, false
	}
	if !a.pushed || a.waiting.IsZero() || busy || got != a.lastNext || had == a.offsets.next {
		a.lastNext, a.waiting = got, now
		return false
	}
	return now.Sub(a.waiting) >= a.reorderTimeout
}
