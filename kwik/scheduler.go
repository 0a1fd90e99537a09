package kwik

import (
	"slices"
	"time"

	"kwikcp/internal/rangeset"
)

// A scheduler decides which source writes which extent of one aggregate stream. It is a pure state machine: what
// happens, and when, comes in as method calls; grants and withdrawals go out through take. It has no goroutine, clock,
// lock or socket; the stream aggregator owns it and guards it.
//
// At all times each missing byte of the stream is in exactly one of two places: free (nobody's), or the remainder of
// exactly one exclusive grant. A grant of a stalled source, or of one that is far too slow, stops being exclusive: its
// remainder is free for others as well, and whoever delivers first wins. (A remainder may have holes: bytes of an
// earlier grant that were under way when it was taken back.)
//
// What is granted when, and how much, is in scheduler_policy.go.
type scheduler struct {
	units   units
	limit   int64 // no grants at or beyond this boundary: the end of the reorder window, or of the stream
	wanted  int64 // bytes that were not had before
	started bool  // somebody wants the bytes
	had     rangeset.Set
	free    rangeset.Set
	first   rangeset.Range // is granted before the rest; whole units, or empty
	paths   []*schedPath   // in the order in which they came
	grants  map[uint64]*schedGrant
	last    uint64 // id of the newest grant
	spare   int64  // bytes that may still come twice to end sooner

	// connecting counts sources that are on their way; until reserveUntil their share is not granted to others.
	connecting   int
	reserveUntil time.Time

	out []schedAction
}

// A schedPath is a source as the scheduler sees it.
type schedPath struct {
	id      PathID
	room    int           // grants it will queue
	grants  []*schedGrant // in the order in which the source writes them; only those with a remainder
	stalled bool
	leaving bool         // gets nothing more as long as there are others
	lacks   rangeset.Set // what it does not have
	rtt     time.Duration

	rate         float64   // bytes a second, smoothed; 0 while unknown
	ratedAt      time.Time // since when it is known
	received     int64     // payload bytes that arrived, as last observed
	sampled      time.Time
	lastProgress time.Time // when bytes last arrived, or were first owed
	lastAccept   time.Time // when bytes were last accepted, or were first owed
	granted      int64     // bytes granted so far, less what was taken back
	probeAt      time.Time // when a stalled source may be tried again
	takenBack    []uint64  // the newest grants that were taken back whole
}

// A schedGrant is one grant. It stays known until its secondary stream ends, so that bytes under way are recognised
// after it was shortened or taken back.
type schedGrant struct {
	id         uint64
	path       *schedPath
	start, pos int64 // pos: accepted up to here
	end        int64 // what the source may still write ends here; shrinks
	granted    int64 // the end as it was first granted
	beyond     int64 // what came although it had been taken back ends here
	shared     bool  // the remainder is free for others, too
}

func (g *schedGrant) remainder() int64 { return g.end - g.pos }

// A schedAction is something to tell a source.
type schedAction struct {
	kind       schedActionKind
	path       PathID
	grant      uint64
	start, end int64  // the extent of a new grant; the new end of a shortened one; a window
	sync       bool   // of a window: the source was not where it should be
	question   uint64 // of a window: which question of the source it answers, 0 for none
}

type schedActionKind int

const (
	schedGrantExtent schedActionKind = iota // write [start, end)
	schedShorten                            // the grant ends at end now
	schedRevoke                             // the grant is taken back whole
	schedWindow                             // a pushed stream may be written up to end; start comes next
)

func newScheduler(u units, limit int64) *scheduler {
	s := &scheduler{units: u, limit: limit, wanted: u.total, grants: make(map[uint64]*schedGrant)}
	s.spare = max(u.total/spareFraction, spareUnits*u.size)
	s.free.Add(0, u.total)
	return s
}

// take returns what has to be told to sources since the last call.
func (s *scheduler) take() []schedAction {
	out := s.out
	s.out = nil
	return out
}

// start says that somebody wants the bytes now. Before that nothing is granted.
func (s *scheduler) start(now time.Time) {
	s.started = true
	for _, p := range s.paths {
		p.lastProgress, p.lastAccept, p.sampled = now, now, now
	}
	s.fill(now)
}

// keep says that [start, end) is had already, before anything is granted.
func (s *scheduler) keep(start, end int64) {
	s.wanted -= s.had.Add(start, end)
	s.free.Sub(start, end)
}

// expect says that n sources are on their way and will have come, or not, by until.
func (s *scheduler) expect(n int, until, now time.Time) {
	s.connecting, s.reserveUntil = n, until
	s.fill(now)
}

// addPath brings a source in.
func (s *scheduler) addPath(id PathID, rtt time.Duration, now time.Time) {
	if s.path(id) != nil {
		return
	}
	for grant, g := range s.grants { // of the same server before it went
		if g.path.id == id {
			delete(s.grants, grant)
		}
	}
	s.paths = append(s.paths, &schedPath{id: id, room: defaultRoom, rtt: rtt, lastProgress: now, sampled: now})
	s.fill(now)
}

// headStart says, before anything else, that a source was granted [0, end) without having been asked for it.
func (s *scheduler) headStart(id PathID, end int64, rtt time.Duration, now time.Time) {
	s.addPath(id, rtt, now)
	s.grant(s.path(id), 0, end, now)
	s.out = nil // it knows
}

// removePath takes a source out: it died, left, cannot serve the stream or sent wrong bytes. Its grants stay known, as
// taken back: bytes that were under way are no offence.
func (s *scheduler) removePath(id PathID, now time.Time) {
	p := s.path(id)
	if p == nil {
		return
	}
	s.paths = slices.DeleteFunc(s.paths, func(q *schedPath) bool { return q == p })
	for len(p.grants) > 0 {
		s.revoke(p.grants[len(p.grants)-1])
	}
	s.fill(now)
}

// drain says that a source is about to leave. What waits behind its current grant is taken back, unless there is nobody else.
func (s *scheduler) drain(id PathID, now time.Time) {
	p := s.path(id)
	if p == nil {
		return
	}
	p.leaving = true
	if s.replaceable(p) {
		for len(p.grants) > 1 {
			s.revoke(p.grants[len(p.grants)-1])
		}
	}
	s.fill(now)
}

// replaceable reports whether somebody else can do what a leaving source would be granted.
func (s *scheduler) replaceable(p *schedPath) bool {
	return p.leaving && slices.ContainsFunc(s.paths, func(q *schedPath) bool { return !q.leaving && !q.stalled && q.lacks.Len() == 0 })
}

// lack says that a source does not have [start, end), whole units. It drops by itself what it was granted of them.
func (s *scheduler) lack(id PathID, start, end int64, now time.Time) {
	p := s.path(id)
	if p == nil {
		return
	}
	p.lacks.Add(start, end)
	for g := p.holds(start, end); g != nil; g = p.holds(start, end) {
		s.revoke(g)
	}
	s.fill(now)
}

// deliverable reports whether any source has any of the bytes that are missing and wanted now.
func (s *scheduler) deliverable() bool {
	for _, p := range s.paths {
		if p.lacks.Len() == 0 {
			return true
		}
		for at := int64(0); at < s.limit; {
			r, ok := s.had.NextMissing(at, s.limit)
			if !ok {
				break
			}
			if !p.lacks.ContainsRange(r.Start, r.End) {
				return true
			}
			at = r.End
		}
	}
	return false
}

// drained returns the leaving sources that have nothing left to do and are not needed.
func (s *scheduler) drained() (ids []PathID) {
	for _, p := range s.paths {
		if len(p.grants) == 0 && s.replaceable(p) {
			ids = append(ids, p.id)
		}
	}
	return ids
}

// setRoom records how many grants a source will queue.
func (s *scheduler) setRoom(id PathID, room int, now time.Time) {
	if p := s.path(id); p != nil {
		p.room = max(1, min(room, maxGrantsQueued))
		s.fill(now)
	}
}

// setLimit moves the end of the reorder window, which never goes back.
func (s *scheduler) setLimit(limit int64, now time.Time) {
	if limit = s.units.floor(limit); limit > s.limit {
		s.limit = limit
		s.fill(now)
	}
}

// observe reports, now and then, how many payload bytes a source has delivered since it came, proved or not, and the
// path's round-trip time. Rates and stalls are judged by it.
func (s *scheduler) observe(id PathID, received int64, rtt time.Duration, now time.Time) {
	p := s.path(id)
	if p == nil {
		return
	}
	p.rtt = rtt
	s.sample(p, received, now)
}

// excuse says that a source is held up by this side, so that its silence is no stall.
func (s *scheduler) excuse(id PathID, now time.Time) {
	if p := s.path(id); p != nil {
		p.lastProgress, p.lastAccept = now, now
	}
}

// tick lets time pass: sources that owe bytes and sent none for too long are stalled, and idle ones get work.
// It returns the sources whose state changed.
func (s *scheduler) tick(now time.Time) (changed []PathID) {
	for _, p := range s.paths {
		if was := p.stalled; s.judge(p, now) != was {
			changed = append(changed, p.id)
		}
	}
	s.fill(now)
	return changed
}

// accept says that the bytes up to end came under a grant, and that those of fresh had been missing and are right. What
// else the grant brought had come before.
func (s *scheduler) accept(grant uint64, end int64, fresh []rangeset.Range, now time.Time) {
	for _, r := range fresh {
		s.had.Add(r.Start, r.End)
		s.free.Sub(r.Start, r.End)
	}
	if g := s.grants[grant]; g != nil {
		if from := max(g.pos, g.end, g.beyond); end > from { // it was under way when it was taken back, and comes twice
			s.spare -= end - from
			g.beyond = end
		}
		g.pos = max(g.pos, min(end, g.end))
		g.path.lastProgress, g.path.lastAccept = now, now
		if g.remainder() <= 0 {
			s.unqueue(g)
		}
	}
	if s.anyShared() {
		s.revokeNeedless()
	}
	s.fill(now)
}

// refuse says that the bytes [start, end) came under a grant and are wrong. They are free again, or, if again is set, granted to
// the same source once more.
func (s *scheduler) refuse(grant uint64, start, end int64, again bool, now time.Time) {
	g := s.grants[grant]
	if g == nil {
		s.freeMissing(start, end)
		s.fill(now)
		return
	}
	g.pos = max(g.pos, min(end, g.end))
	if g.remainder() <= 0 {
		s.unqueue(g)
	}
	s.freeMissing(start, end)
	if again && s.path(g.path.id) == g.path {
		s.grantFree(g.path, start, end, now)
	}
	s.fill(now)
}

// adopt makes known that a source of a pushed stream writes from start on, without having been asked, and returns the
// number under which accept and closed know it. It is nobody's exclusive extent.
func (s *scheduler) adopt(id PathID, start int64) (grant uint64, ok bool) {
	p := s.path(id)
	if p == nil {
		return 0, false
	}
	s.last++
	s.grants[s.last] = &schedGrant{id: s.last, path: p, start: start, pos: start, end: s.units.total, granted: s.units.total, shared: true}
	return s.last, true
}

// closed says that the secondary stream of a grant has ended. What it did not deliver though it was still asked for is
// granted anew; closed returns how much that is.
func (s *scheduler) closed(grant uint64, now time.Time) (undelivered int64) {
	g := s.grants[grant]
	if g == nil {
		return 0
	}
	delete(s.grants, grant)
	if g.remainder() > 0 && slices.Contains(g.path.grants, g) {
		undelivered = g.remainder()
		s.unqueue(g)
		s.giveBack(g)
	}
	s.fill(now)
	return undelivered
}

// extent returns what a grant of a source allows: its start, its end, and the end as it was first granted.
func (s *scheduler) extent(id PathID, grant uint64) (start, end, granted int64, ok bool) {
	g := s.grants[grant]
	if g == nil || g.path.id != id {
		return 0, 0, 0, false
	}
	return g.start, g.end, g.granted, true
}

// missing reports whether any byte of [start, end) is not had.
func (s *scheduler) missing(start, end int64) bool { return !s.had.ContainsRange(start, end) }

// wanting reports whether bytes are missing that somebody wants now.
func (s *scheduler) wanting() bool { return s.started && !s.had.ContainsRange(0, s.limit) }

// done reports whether every byte is had.
func (s *scheduler) done() bool { return s.had.Total() == s.units.total }

// sources returns how many sources there are, and how many of them are not stalled.
func (s *scheduler) sources() (all, live int) {
	for _, p := range s.paths {
		if !p.stalled {
			live++
		}
	}
	return len(s.paths), live
}

func (s *scheduler) path(id PathID) *schedPath {
	for _, p := range s.paths {
		if p.id == id {
			return p
		}
	}
	return nil
}

// grant gives a source the extent [start, end), which must be free; to a stalled one as a probe, shared at once.
func (s *scheduler) grant(p *schedPath, start, end int64, now time.Time) {
	s.last++
	g := &schedGrant{id: s.last, path: p, start: start, pos: start, end: end, granted: end, shared: p.stalled}
	s.grants[g.id] = g
	if len(p.grants) == 0 {
		p.lastProgress, p.lastAccept = now, now
	}
	p.grants = append(p.grants, g)
	p.granted += end - start
	if p.stalled {
		p.probeAt = now.Add(max(minStall, 4*p.rtt))
	} else {
		s.free.Sub(start, end)
	}
	s.out = append(s.out, schedAction{kind: schedGrantExtent, path: p.id, grant: g.id, start: start, end: end})
}

// shorten takes the tail of a grant from end on back and makes it free.
func (s *scheduler) shorten(g *schedGrant, end int64) {
	s.freeMissing(end, g.end)
	g.path.granted -= g.end - end
	g.end = end
	s.out = append(s.out, schedAction{kind: schedShorten, path: g.path.id, grant: g.id, end: end})
}

// revoke takes a grant back whole; what it did not deliver is free.
func (s *scheduler) revoke(g *schedGrant) {
	s.unqueue(g)
	s.giveBack(g)
	g.end = g.pos
	// A source need not answer a grant that was taken back, so it would stay known for ever.
	if p := g.path; len(p.takenBack) < maxTakenBack {
		p.takenBack = append(p.takenBack, g.id)
	} else {
		delete(s.grants, p.takenBack[0])
		p.takenBack = append(p.takenBack[1:], g.id)
	}
	s.out = append(s.out, schedAction{kind: schedRevoke, path: g.path.id, grant: g.id})
}

// share makes the remainder of a grant free for others as well.
func (s *scheduler) share(g *schedGrant) {
	if !g.shared {
		g.shared = true
		s.freeMissing(g.pos, g.end)
	}
}

// reclaim makes a shared grant exclusive again if nobody has taken any of its remainder, and reports whether it did.
func (s *scheduler) reclaim(g *schedGrant) bool {
	if s.free.Overlap(g.pos, g.end)+s.had.Overlap(g.pos, g.end) < g.remainder() {
		return false
	}
	s.free.Sub(g.pos, g.end)
	g.shared = false
	return true
}

// giveBack frees the remainder of a grant that was taken off its path, unless others have it already.
func (s *scheduler) giveBack(g *schedGrant) {
	g.path.granted -= max(0, g.remainder())
	if !g.shared {
		s.freeMissing(g.pos, g.end)
	}
}

// freeMissing makes free what is not had of [start, end).
func (s *scheduler) freeMissing(start, end int64) {
	for from := start; from < end; {
		r, ok := s.had.NextMissing(from, end)
		if !ok {
			return
		}
		s.free.Add(r.Start, r.End)
		from = r.End
	}
}

// unqueue takes a grant off its path's queue.
func (s *scheduler) unqueue(g *schedGrant) {
	g.path.grants = slices.DeleteFunc(g.path.grants, func(h *schedGrant) bool { return h == g })
}

func (s *scheduler) anyShared() bool {
	for _, p := range s.paths {
		for _, g := range p.grants {
			if g.shared {
				return true
			}
		}
	}
	return false
}

// revokeNeedless takes back every grant of which nothing is missing any more because somebody else delivered it.
func (s *scheduler) revokeNeedless() {
	for _, p := range s.paths {
		for _, g := range slices.Clone(p.grants) {
			if !s.missing(g.pos, g.end) {
				s.revoke(g)
			}
		}
	}
}

// holds returns a source's grant that has bytes of [start, end) left, nil if there is none.
func (p *schedPath) holds(start, end int64) *schedGrant {
	for _, g := range p.grants {
		if g.pos < end && start < g.end {
			return g
		}
	}
	return nil
}

// finishTime estimates the seconds that a source of known rate needs for what it was granted.
func (p *schedPath) finishTime() float64 {
	return float64(p.outstanding())/p.rate + p.rtt.Seconds()
}

// outstanding returns the bytes that a source was granted and has not delivered.
func (p *schedPath) outstanding() (n int64) {
	for _, g := range p.grants {
		n += g.remainder()
	}
	return n
}
