package kwik

import (
	"time"

	"kwikcp/kwik/internal/sched"
)

// This file is the client's side of pushed streams. They have a window instead of grants: every
// server may write any bytes before its end, which moves as the application reads. The scheduler
// treats a pushed secondary stream as a grant that it did not make itself (adopt).

// pushLimit returns the end of the window. Called with the lock held.
func (a *streamAggregator) pushLimit() int64 {
	if a.mode != consumerOrdered {
		return a.units.Total() // an unordered consumer needs no window
	}
	return a.units.Floor(min(a.offsets.read+a.window, a.units.Total()))
}

// A pushWindow is the range that a source of a pushed stream may write.
type pushWindow struct {
	start, end int64  // the source may write up to end; the client needs start next
	sync       bool   // the source is not where it should be
	question   uint64 // which question of the source this answers; 0 for none
}

// tellWindow sends a source the window. sync means that its offset is wrong; question is the
// timestamp of the request that this answers, 0 for none. Called with the lock held.
func (a *streamAggregator) tellWindow(s *source, sync bool, question uint64) {
	s.lastSent = a.pushLimit()
	a.sendWindow(s.id, pushWindow{start: min(a.offsets.next, s.lastSent), end: s.lastSent, sync: sync,
		question: question})
}

// moveWindow sends the window to each source whose last window is out of date. That is so if the
// window has moved by a quarter of its size, or to the stream's end. Called with the lock held.
func (a *streamAggregator) moveWindow() {
	limit := a.pushLimit()
	for _, s := range a.sources {
		if moved := limit - s.lastSent; !s.gone && moved > 0 && (moved >= a.window/4 || limit == a.units.Total()) {
			a.tellWindow(s, false, 0)
		}
	}
}

// synchronise acts on a source's report of its offset. In a pulled stream only the number of
// grants that it queues matters: grants determine the offset. In a pushed stream a source that is
// behind the client's bytes, or beyond the window, is told the client's offset. The answer
// repeats question, so that the source can tell it from other updates.
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

// answersTo reports whether a path that pushes is attached, or no path is any more.
func (a *streamAggregator) answersTo(id PathID) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.sources[id] != nil || a.err != nil || a.released
}

// adopt admits a secondary stream in which a source pushes bytes from start on.
func (a *streamAggregator) adopt(id PathID, start int64) (s *source, grant uint64, err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	s = a.sources[id]
	switch {
	case !a.pushed:
		return nil, 0, errorf(ErrMetadataProtocolViolation,
			"secondary stream without a grant").onPath(id).onStream(a.id, start)
	case a.err != nil || (s != nil && s.gone) || (s == nil && a.released):
		return nil, 0, errSourceGone
	case s == nil:
		return nil, 0, errorf(ErrMetadataProtocolViolation,
			"a source that was not attached pushes").onPath(id).onStream(a.id, start)
	case start < 0 || start >= a.units.Total() || !a.units.IsBoundary(start):
		return nil, 0, errorf(ErrMetadataProtocolViolation,
			"no unit begins where it is pushed").onPath(id).onStream(a.id, start)
	}
	grant, ok := a.sched.Adopt(sched.SourceID(id), start)
	if !ok {
		return nil, 0, errSourceGone
	}
	return s, grant, nil
}

// mayPush returns the end of the window, and an error if end is beyond it. In that case it also
// sends the window to the source; the caller resets the secondary stream.
func (a *streamAggregator) mayPush(s *source, end int64) (limit int64, err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if limit = a.pushLimit(); end <= limit {
		return limit, nil
	}
	a.tellWindow(s, true, 0)
	return limit, streamFault{errorf(ErrOffsetSyncFailure, "pushed up to %d, the window ends at %d", end,
		s.lastSent).onPath(s.id).onStream(a.id, end)}
}

// overdue reports whether the consumer of a pushed stream has waited longer than ReorderTimeout
// for the bytes of a hole. An ordered consumer waits for the next byte, an unordered one for any
// byte. Called with the lock held.
func (a *streamAggregator) overdue(now time.Time) bool {
	had := a.sched.Had()
	got, busy := a.offsets.next, a.offsets.read < a.offsets.next // the reader has bytes left
	if a.mode == consumerUnordered {
		got, busy = had, false
	}
	if !a.pushed || a.waiting.IsZero() || busy || got != a.lastNext || had == a.offsets.next {
		a.lastNext, a.waiting = got, now
		return false
	}
	return now.Sub(a.waiting) >= a.reorderTimeout
}
