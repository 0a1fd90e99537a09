package sched

import (
	"slices"
	"time"
)

// A grant is one extent that a source may write. Its states:
//
//	exclusive  queued with its source; no other source is granted its remainder
//	shared     queued with its source; its remainder is free for other sources as well
//	ended      not queued: delivered, or revoked
//
// A grant remains known after it has ended, until its secondary stream ends, so that bytes in flight are recognised.
type grant struct {
	id         uint64
	source     *source
	start, pos int64 // pos: bytes before it were accepted
	end        int64 // end of what the source may still write; shortening lowers it
	granted    int64 // end of the extent as it was granted
	lateEnd    int64 // end of the bytes that arrived although they had been taken back; 0 if none did
	shared     bool
}

func (g *grant) remainder() int64 { return g.end - g.pos }

// isQueued reports whether a grant is exclusive or shared, and not ended.
func (g *grant) isQueued() bool { return slices.Contains(g.source.grants, g) }

// addLate notes that bytes up to end arrived. It returns how many of them had been taken back before; these arrive twice.
func (g *grant) addLate(end int64) (late int64) {
	from := max(g.pos, g.end, g.lateEnd)
	if end <= from {
		return 0
	}
	g.lateEnd = end
	return end - from
}

// newGrant returns a new known grant of [start, end) that is not queued.
func (s *Scheduler) newGrant(src *source, start, end int64) *grant {
	s.last++
	g := &grant{id: s.last, source: src, start: start, pos: start, end: end, granted: end}
	s.grants[g.id] = g
	return g
}

// grant grants the extent [start, end), which must be free, to a source. A grant to a stalled source is a probe, and is
// shared from the start.
func (s *Scheduler) grant(src *source, start, end int64, now time.Time) {
	g := s.newGrant(src, start, end)
	if len(src.grants) == 0 {
		src.lastProgress, src.lastAccept = now, now
	}
	src.grants = append(src.grants, g)
	src.granted += end - start
	if src.stalled {
		g.shared = true
		src.probeAt = now.Add(src.stallTime())
	} else {
		s.free.Sub(start, end)
	}
	s.actions = append(s.actions, Action{Kind: ActionGrant, Source: src.id, Grant: g.id, Start: start, End: end})
}

// advance records that the bytes of a grant up to end arrived.
func (s *Scheduler) advance(g *grant, end int64) {
	g.pos = max(g.pos, min(end, g.end))
	if g.remainder() <= 0 {
		s.unqueue(g)
	}
}

// shorten takes back the tail of a grant from end on and frees it.
func (s *Scheduler) shorten(g *grant, end int64) {
	s.freeMissing(end, g.end)
	g.source.granted -= g.end - end
	g.end = end
	s.actions = append(s.actions, Action{Kind: ActionShorten, Source: g.source.id, Grant: g.id, End: end})
}

// revoke takes back a grant and frees its remainder. A source need not answer a revoked grant, so the scheduler forgets
// the oldest when a source has more than MaxRevoked of them.
func (s *Scheduler) revoke(g *grant) {
	s.unqueue(g)
	s.freeRemainder(g)
	g.end = g.pos
	src := g.source
	if len(src.revoked) == MaxRevoked {
		delete(s.grants, src.revoked[0])
		src.revoked = src.revoked[1:]
	}
	src.revoked = append(src.revoked, g.id)
	s.actions = append(s.actions, Action{Kind: ActionRevoke, Source: src.id, Grant: g.id})
}

// revokeQueued revokes the grants of a source that wait behind the one that it is writing, newest first.
func (s *Scheduler) revokeQueued(src *source) {
	for len(src.grants) > 1 {
		s.revoke(src.lastGrant())
	}
}

// revokeNeedless revokes every grant of which nothing is missing, because other sources delivered it.
func (s *Scheduler) revokeNeedless() {
	for _, src := range s.sources {
		for _, g := range slices.Clone(src.grants) {
			if s.Has(g.pos, g.end) {
				s.revoke(g)
			}
		}
	}
}

// share makes the remainder of an exclusive grant free for other sources as well.
func (s *Scheduler) share(g *grant) {
	if !g.shared {
		g.shared = true
		s.freeMissing(g.pos, g.end)
	}
}

// reclaim makes a shared grant exclusive again, unless another source was granted or delivered a part of its remainder.
// It reports whether it did.
func (s *Scheduler) reclaim(g *grant) bool {
	if s.free.Overlap(g.pos, g.end)+s.had.Overlap(g.pos, g.end) < g.remainder() {
		return false
	}
	s.free.Sub(g.pos, g.end)
	g.shared = false
	return true
}

// anyShared reports whether any queued grant is shared.
func (s *Scheduler) anyShared() bool {
	for _, src := range s.sources {
		if slices.ContainsFunc(src.grants, func(g *grant) bool { return g.shared }) {
			return true
		}
	}
	return false
}

// unqueue removes a grant from its source's queue.
func (s *Scheduler) unqueue(g *grant) {
	g.source.grants = slices.DeleteFunc(g.source.grants, func(other *grant) bool { return other == g })
}

// freeRemainder frees the remainder of a grant that was unqueued. That of a shared grant is free already, or another
// source was granted it.
func (s *Scheduler) freeRemainder(g *grant) {
	g.source.granted -= max(0, g.remainder())
	if !g.shared {
		s.freeMissing(g.pos, g.end)
	}
}

// freeMissing frees those bytes of [start, end) that are not had.
func (s *Scheduler) freeMissing(start, end int64) {
	for from := start; from < end; {
		r, ok := s.had.NextMissing(from, end)
		if !ok {
			return
		}
		s.free.Add(r.Start, r.End)
		from = r.End
	}
}

// lastGrant returns the newest queued grant of a source that has one.
func (src *source) lastGrant() *grant { return src.grants[len(src.grants)-1] }

// holds returns a queued grant of which bytes of [start, end) remain, nil if there is none.
func (src *source) holds(start, end int64) *grant {
	for _, g := range src.grants {
		if g.pos < end && start < g.end {
			return g
		}
	}
	return nil
}

// outstanding returns how many bytes a source was granted and has not delivered.
func (src *source) outstanding() (n int64) {
	for _, g := range src.grants {
		n += g.remainder()
	}
	return n
}
