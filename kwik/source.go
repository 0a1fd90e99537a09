package kwik

import (
	"sync/atomic"
	"time"

	"kwikcp/kwik/internal/sched"
)

// A source is one path's part in one aggregate stream.
type source struct {
	id       PathID
	primary  bool
	rtt      func() time.Duration
	received atomic.Int64 // payload bytes that arrived
	counted  atomic.Int64 // bytes that counted, since the secondary stream handler last asked
	placing  atomic.Int32 // deliveries under way, or held up by a limit: what the source does meanwhile is not its fault
	accepted int64        // bytes that counted; guarded by the aggregator's lock
	earlier  int64        // payload bytes that arrived before it was attached this time; guarded likewise
	before   int64        // of those that counted, the ones before it was attached this time; guarded likewise
	barren   int          // times that it was attached before without anything that counted, in a row; guarded likewise
	strikes  int          // extents given up without cause, in a row; guarded likewise
	refuted  int          // deliveries that failed their proof; guarded likewise
	gone     bool         // guarded likewise
	stalled  bool         // guarded likewise
	reason   error        // why it is gone; guarded likewise
	lacks    error        // why it does not have all; guarded likewise
	told     int64        // the end of a pushed stream's window as the source knows it; guarded likewise
	passed   int64        // bytes of its path that had counted when it was last looked at; guarded likewise
}

// maxStrikes is how many extents in a row a source may give up before it is done without.
const maxStrikes = 3

// attach makes a path a source. The caller has sent the attachment before, so that grants follow it.
func (a *streamAggregator) attach(id PathID, rtt func() time.Duration) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if old := a.sources[id]; a.err != nil || (old != nil && !old.gone) {
		return
	}
	s := &source{id: id, primary: id.server() == primaryID, rtt: rtt}
	if old := a.sources[id]; old != nil { // the same server again
		s.accepted, s.before, s.refuted = old.accepted, old.accepted, old.refuted
		s.earlier = old.earlier + old.received.Load()
		if old.accepted == old.before {
			s.barren = old.barren + 1
		}
	}
	s.passed, _ = a.queue(id) // what the path brought before is no news, whenever it comes back
	a.sources[id] = s
	a.sched.AddSource(schedSource(id, rtt()), time.Now())
	a.dispatch()
	if a.pushed {
		a.tellWindow(s, false, 0)
	}
}

// schedSource describes a path to the scheduler.
func schedSource(id PathID, rtt time.Duration) sched.Source {
	return sched.Source{ID: sched.SourceID(id), RTT: rtt, SharesLink: id.isFurther()}
}

// detach takes a path out: it ended, or it cannot serve the stream.
func (a *streamAggregator) detach(id PathID, reason error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if s := a.sources[id]; s != nil && !s.gone {
		s.gone, s.reason = true, reason
		a.sched.RemoveSource(sched.SourceID(id), time.Now())
		a.dispatch()
	}
}

// maxLacks bounds in how many pieces a source may lack bytes of a stream.
const maxLacks = 8192

// lack says that a source does not have [start, end), whole units, and why.
func (a *streamAggregator) lack(id PathID, start, end int64, reason error) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	s := a.sources[id]
	switch {
	case a.pushed, start < 0, start >= end, end > a.units.Total(), !a.units.IsBoundary(start), !a.units.IsBoundary(end):
		return errorf(ErrMetadataProtocolViolation, "the source lacks [%d, %d)", start, end).onPath(id).onStream(a.id, start)
	case s == nil || s.gone:
		return nil
	}
	s.lacks = reason
	if a.sched.MarkMissing(sched.SourceID(id), start, end, time.Now()) > maxLacks {
		s.gone, s.reason = true, errorf(ErrContentUnavailable, "lacks more than %d pieces", maxLacks).onPath(id)
		a.sched.RemoveSource(sched.SourceID(id), time.Now())
	}
	a.dispatch()
	return nil
}

// drain says that a source is about to leave: it finishes what it is at, and gets nothing more unless there is nobody else. A source that
// pushes decides for itself.
func (a *streamAggregator) drain(id PathID) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if !a.pushed {
		a.sched.Drain(sched.SourceID(id), time.Now())
		a.dispatch()
	}
}

// strike counts a fault of a source and takes it out if it is the last of too many in a row. Called with the lock held.
func (a *streamAggregator) strike(s *source, cause error) {
	if s.strikes++; s.strikes >= maxStrikes {
		s.gone, s.reason = true, errorf(ErrContentUnavailable, "gave up %d extents in a row: %w", s.strikes, cause).onPath(s.id)
		a.sched.RemoveSource(sched.SourceID(s.id), time.Now())
	}
}
