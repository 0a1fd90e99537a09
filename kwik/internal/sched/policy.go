package sched

import (
	"time"

	"kwikcp/internal/rangeset"
)

const (
	// MaxGrantsQueued is how many grants a source queues for one stream at most (docs/PROTOCOL.md
	// section 11).
	MaxGrantsQueued = 64
	// DefaultQueueLimit is how many grants a source is assumed to queue before it states its
	// limit.
	DefaultQueueLimit = 4
	// MaxRevoked is how many revoked grants of a source remain known. Far fewer can be in flight
	// to it.
	MaxRevoked = 1024

	// minExtent, in bytes, keeps the cost of a grant (a stream, three frames, one or two system
	// calls) below a percent. Extents get smaller only near the end of a stream: down to a quarter
	// of minExtent.
	minExtent = 256 << 10
	// maxExtent, in bytes, bounds what one source holds back from the others.
	maxExtent = 16 << 20
	// firstOutstanding is how many bytes are granted ahead to a source of unknown rate that has
	// its own link.
	firstOutstanding = 1 << 20
	// extentTime is how long a source should be busy with one extent. It is a compromise between
	// cost and agility.
	extentTime = 100 * time.Millisecond
	// reserveUnits is the size, in units, up to which a stream is not worth sharing with sources
	// that are being connected.
	reserveUnits = 8
)

// WorthSharing reports whether n bytes of a stream are worth sharing with servers that are not
// connected yet.
func (u Units) WorthSharing(n int64) bool { return n > reserveUnits*u.size }

// schedule grants what can be granted now. A source with a deficit for which nothing is free takes
// work from sources that would finish later.
func (s *Scheduler) schedule(now time.Time) {
	if !s.started {
		return
	}
	s.assign(now)
	for _, src := range s.sources {
		for s.deficit(src, now) > 0 && s.steal(src, now) {
		}
	}
	s.assign(now) // bytes that were taken but exceed the queue limit of the source that took them
}

// assign grants the free bytes. Each grant goes to the source with the largest deficit, so that
// all remain busy.
func (s *Scheduler) assign(now time.Time) {
	for {
		src, free := s.largestDeficit(now)
		if src == nil {
			return
		}
		writing := src.holds(free.Start, free.Start+1)
		if writing != nil && !src.stalled && s.reclaim(writing) {
			continue
		}
		// Free extents start and end at unit boundaries, so the cut is at one, too.
		s.grant(src, free.Start, s.units.Cut(free.Start, s.extentSize(src, now), free.End), now)
	}
}

// largestDeficit returns the source with the largest deficit for which something is free, and that
// extent. Of equals it returns the fastest. The source is nil if there is none.
func (s *Scheduler) largestDeficit(now time.Time) (best *source, free rangeset.Range) {
	largest := 0.0
	for _, src := range s.sources {
		deficit := s.deficit(src, now)
		better := deficit > largest || (best != nil && deficit == largest && src.rate > best.rate)
		if !better {
			continue
		}
		if r, ok := s.freeFor(src); ok {
			best, largest, free = src, deficit, r
		}
	}
	return best, free
}

// deficit returns the fraction of its target that a source lacks. The fraction is 1 if the source
// has no work. It is 0 or less if the source needs no grant or must not receive one.
func (s *Scheduler) deficit(src *source, now time.Time) float64 {
	probeDue := len(src.grants) == 0 && !now.Before(src.probeAt)
	switch {
	case src.stalled && !probeDue:
		return 0
	case len(src.grants) >= src.queueLimit, s.hasEqualPart(src, now), s.isReplaceable(src):
		return 0
	}
	return 1 - float64(src.outstanding())/float64(src.target())
}

// target returns the number of bytes that a source should have in its grants ahead. They last for
// the round trip that the next grant takes, and for the two ticks after it.
func (src *source) target() int64 {
	switch {
	case src.stalled: // a probe
		return minExtent
	case src.rate == 0 && src.sharesLink:
		return minExtent
	case src.rate == 0:
		return firstOutstanding
	}
	ahead := src.rate * (2*src.rtt + extentTime).Seconds()
	return max(int64(ahead), 2*minExtent)
}

// extentSize returns how many bytes to grant to a source at once. Near the end of the stream
// extents are half of the source's part of what is left, so that all sources finish together.
func (s *Scheduler) extentSize(src *source, now time.Time) int64 {
	size := max(minExtent, src.minExtent)
	if !src.stalled && src.rate > 0 {
		size = max(int64(src.rate*extentTime.Seconds()), src.minExtent)
	}
	share := s.free.Total() / 2
	if total := s.totalRate(); src.rate > 0 && total > 0 {
		share = int64(float64(share) * src.rate / total)
	} else {
		share /= int64(max(1, len(s.sources)+s.expected(now)))
	}
	return max(min(size, share, maxExtent), minExtent/4, src.minExtent/4)
}

// freeFor returns the extent that a source should be granted next. Priority bytes precede all
// others. Then follow bytes that another source is missing, since that source can deliver the
// rest.
func (s *Scheduler) freeFor(src *source) (rangeset.Range, bool) {
	if r, ok := s.freeIn(src, s.priority.Start, min(s.priority.End, s.limit)); ok {
		return r, true
	}
	for _, other := range s.sources {
		if other == src || other.stalled || other.missing.Len() == 0 {
			continue
		}
		for r, ok := s.freeIn(src, 0, s.limit); ok; r, ok = s.freeIn(src, r.End, s.limit) {
			if rare, ok := other.missing.NextPresent(r.Start, r.End); ok {
				return rare, true
			}
		}
	}
	return s.freeIn(src, 0, s.limit)
}

// freeIn returns the first free extent in [start, end) that a source has.
func (s *Scheduler) freeIn(src *source, start, end int64) (rangeset.Range, bool) {
	for {
		r, ok := s.free.NextPresent(start, end)
		if !ok || src.missing.Len() == 0 {
			return r, ok
		}
		if r, ok := src.missing.NextMissing(r.Start, r.End); ok {
			return r, true
		}
		start = r.End
	}
}

// grantFree grants to a source the free bytes of [start, end), as far as its queue limit allows.
// It reports whether it granted any.
func (s *Scheduler) grantFree(src *source, start, end int64, now time.Time) (any bool) {
	for len(src.grants) < src.queueLimit {
		r, ok := s.freeIn(src, start, end)
		if !ok {
			break
		}
		s.grant(src, r.Start, r.End, now)
		any, start = true, r.End
	}
	return any
}

// expected returns for how many sources that are being connected a share is kept.
func (s *Scheduler) expected(now time.Time) int {
	if !now.Before(s.reserveUntil) || !s.units.WorthSharing(s.wanted) {
		return 0
	}
	return s.connecting
}

// hasEqualPart reports whether a source has its equal part of a stream, and is still busy with it,
// while other sources are being connected. So all servers share small streams as
// well. A source never waits for them: they may be out of reach.
func (s *Scheduler) hasEqualPart(src *source, now time.Time) bool {
	expected := s.expected(now)
	return expected > 0 && src.granted >= s.wanted/int64(len(s.sources)+expected) &&
		src.outstanding() > src.almostDone()
}

// almostDone returns how many bytes a source may have left before it is granted more, so that it
// does not wait for the grant. Its rate may double in a round trip.
func (src *source) almostDone() int64 {
	return int64(2*src.rate*src.rtt.Seconds()) + minExtent/2
}
