package kwik

import (
	"sync/atomic"
	"time"

	"kwikcp/kwik/internal/sched"
)

// A source is one path as a source of one aggregate stream.
type source struct {
	id       PathID
	primary  bool
	external *externalPath // nil for a path to a server
	rtt      func() time.Duration
	pace     rateShare
	received atomic.Int64 // payload bytes that arrived
	counted  atomic.Int64 // bytes accepted since the secondary stream handler last asked
	// placing counts the deliveries that are being verified or written, or that wait for the rate
	// limit. Meanwhile a silence is not the source's fault.
	placing atomic.Int32

	// The aggregator's lock guards the following fields.

	accepted       int64 // bytes accepted, also in earlier attachments of the path
	acceptedBefore int64 // those of earlier attachments
	noProgress     int   // earlier attachments in a row of which no byte was accepted
	observed       int64 // received at the last tick
	pathCounted    int64 // bytes accepted of its path in all streams, at the last tick
	strikes        int   // extents in a row that it did not deliver, without a reason
	rejected       int   // deliveries with wrong bytes
	lastSent       int64 // end of the window that was last sent to it, in a pushed stream
	stalled        bool
	gone           bool  // removed from the stream
	reason         error // why it was removed
	missing        error // why it does not have the whole stream; nil if it has
}

// maxStrikes bounds the faults of a source in a row: extents that it does not deliver, and
// attachments of which no byte is accepted.
const maxStrikes = 3

// isUseless reports whether a source was attached often enough without a byte that was accepted.
// Its bytes are not progress of the stream.
func (s *source) isUseless() bool {
	return s.noProgress >= maxStrikes && s.accepted == s.acceptedBefore
}

// attach makes a path a source. The caller has sent the attachment before, so that grants follow
// it.
func (a *streamAggregator) attach(id PathID, rtt func() time.Duration) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.addSource(&source{id: id, primary: id.server() == primaryID, rtt: rtt}, schedSource(id, rtt()))
}

// addSource adds a source, unless its path is attached already. Called with the lock held.
func (a *streamAggregator) addSource(s *source, described sched.Source) {
	id := s.id
	old := a.sources[id]
	isAttached := old != nil && !old.gone
	if a.err != nil || isAttached {
		return
	}
	s.pace = a.pace.share()
	if old != nil { // the path was attached before
		s.accepted, s.acceptedBefore, s.rejected = old.accepted, old.accepted, old.rejected
		if old.accepted == old.acceptedBefore {
			s.noProgress = old.noProgress + 1
		}
	}
	s.pathCounted, _ = a.pathLoad(id) // bytes from before the attachment are not progress
	a.sources[id] = s
	a.sched.AddSource(described, time.Now())
	a.dispatch()
	if a.pushed {
		a.tellWindow(s, false, 0)
	}
}

// schedSource describes a path to the scheduler.
func schedSource(id PathID, rtt time.Duration) sched.Source {
	return sched.Source{ID: sched.SourceID(id), RTT: rtt, SharesLink: id.isFurther()}
}

// detach removes a path that has ended or cannot serve the stream.
func (a *streamAggregator) detach(id PathID, reason error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if s := a.sources[id]; s != nil && !s.gone {
		a.remove(s, reason, time.Now())
		a.dispatch()
	}
}

// remove removes a source from the stream. Called with the lock held.
func (a *streamAggregator) remove(s *source, reason error, now time.Time) {
	s.gone, s.reason = true, reason
	if s.external != nil {
		s.external.remove()
	}
	a.sched.RemoveSource(sched.SourceID(s.id), now)
}

// maxMissingPieces bounds the pieces in which bytes of a stream may be missing at one source.
const maxMissingPieces = 8192

// markMissing records that a source does not have [start, end), whole units, and why.
func (a *streamAggregator) markMissing(id PathID, start, end int64, reason error) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	s := a.sources[id]
	switch {
	case a.pushed, !a.isWholeUnits(start, end):
		err := errorf(ErrMetadataProtocolViolation, "the source lacks [%d, %d)", start, end)
		return err.onPath(id).onStream(a.id, start)
	case s == nil || s.gone:
		return nil
	}
	s.missing = reason
	if a.sched.MarkMissing(sched.SourceID(id), start, end, time.Now()) > maxMissingPieces {
		err := errorf(ErrContentUnavailable, "lacks more than %d pieces", maxMissingPieces)
		a.remove(s, err.onPath(id), time.Now())
	}
	a.dispatch()
	return nil
}

// isWholeUnits reports whether [start, end) is a part of the stream and consists of whole units,
// at least one.
func (a *streamAggregator) isWholeUnits(start, end int64) bool {
	isInside := 0 <= start && start < end && end <= a.units.Total()
	return isInside && a.units.IsBoundary(start) && a.units.IsBoundary(end)
}

// drain records that a source will leave. It finishes its grant and gets no other one while
// another source can take the work. A source that pushes decides for itself.
func (a *streamAggregator) drain(id PathID) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if !a.pushed {
		a.sched.Drain(sched.SourceID(id), time.Now())
		a.dispatch()
	}
}

// strike counts a fault of a source and removes it after maxStrikes in a row. Called with the lock
// held.
func (a *streamAggregator) strike(s *source, cause error) {
	s.strikes++
	if s.strikes >= maxStrikes {
		err := errorf(ErrContentUnavailable, "gave up %d extents in a row: %w", s.strikes, cause)
		a.remove(s, err.onPath(s.id), time.Now())
	}
}
