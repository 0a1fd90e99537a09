package kwik

import (
	"cmp"
	"slices"
	"time"

	"kwikcp/internal/rangeset"
)

const (
	// maxGrantsQueued is how many grants a source queues for one stream at most (docs/PROTOCOL.md section 11).
	maxGrantsQueued = 64
	// defaultRoom is how many it is assumed to queue before it says so.
	defaultRoom = 4

	// minExtent keeps the cost of a grant (a stream, three frames, a system call or two) below a percent.
	minExtent = 256 << 10
	// maxExtent bounds what one source holds back from others.
	maxExtent = 16 << 20
	// firstOutstanding is granted to a source of unknown rate. Further paths to a server share its link with the first, so they
	// begin with minExtent each.
	firstOutstanding = 1 << 20
	// extentTime is how long a source should be busy with one extent, a compromise between cost and agility.
	extentTime = 100 * time.Millisecond

	// tickInterval is how often the owner of a scheduler calls observe and tick.
	tickInterval = 50 * time.Millisecond
	// rateWeight is the weight of the newest sample in a path's rate.
	rateWeight = 0.3
	// slowStart is how many round trips after its first bytes a source may still be getting faster by the round trip, so that an average
	// of its rate would be late. From 40 KiB to 25 MB/s over 200 ms are seven doublings.
	slowStart = 10
	// minStall is the shortest silence that is a stall; four round trips if that is longer.
	minStall = time.Second
	// stealSlack is how much sooner a stolen tail must be done to be worth stealing.
	stealSlack = 20 * time.Millisecond
	// spareFraction and spareUnits bound what may be granted twice to end sooner: a hundredth of the stream or 16 units.
	spareFraction = 100
	spareUnits    = 16
	// maxTakenBack is how many grants of a source are known that were taken back whole. It is far more than can be on
	// their way to it.
	maxTakenBack = 1024
	// reserveUnits is the size, in units, up to which a stream is not worth waiting for sources that are still
	// connecting.
	reserveUnits = 8
)

// sample updates a path's rate from what it has received.
func (s *scheduler) sample(p *schedPath, received int64, now time.Time) {
	delta := received - p.received
	elapsed := now.Sub(p.sampled)
	if delta > 0 {
		p.lastProgress = now
		p.stalled = false
	}
	if elapsed < tickInterval/2 {
		return // too short to say anything; the bytes count in the next sample
	}
	p.received, p.sampled = received, now
	if delta == 0 && (p.rate == 0 || len(p.grants) == 0) {
		return // nothing came yet, or nothing was asked for
	}
	rate := float64(delta) / elapsed.Seconds()
	if p.rate == 0 {
		p.rate, p.ratedAt = rate, now
		return
	}
	if rate > p.rate && now.Sub(p.ratedAt) < slowStart*p.rtt {
		p.rate = rate
		return
	}
	p.rate += rateWeight * (rate - p.rate)
}

// judge decides whether a source is stalled: it owes bytes and none came for max(1 s, 4 RTT). The grant it is
// writing stays, in case it comes back, but is shared with the others; what waits behind it is taken back.
func (s *scheduler) judge(p *schedPath, now time.Time) (stalled bool) {
	if len(p.grants) == 0 || now.Sub(p.lastProgress) < max(minStall, 4*p.rtt) {
		return p.stalled
	}
	p.stalled = true
	p.rate = 0
	for len(p.grants) > 1 {
		s.revoke(p.grants[len(p.grants)-1])
	}
	s.share(p.grants[0])
	return true
}

// fill grants what can be granted now. For those for whom nothing is free it moves work from those who would finish late to
// those who would finish soon.
func (s *scheduler) fill(now time.Time) {
	if !s.started {
		return
	}
	s.deal(now)
	for _, p := range s.paths {
		for s.hungry(p, now) < 1 && s.steal(p, now) {
		}
	}
	s.deal(now) // what a thief had no room for
}

// deal grants what is free to the source that is furthest below its target first, so that all stay busy.
func (s *scheduler) deal(now time.Time) {
	for {
		p, r := s.hungriest(now)
		if p == nil {
			return
		}
		if g := p.holds(r.Start, r.Start+1); g != nil && !p.stalled && s.reclaim(g) {
			continue // it is writing that already
		}
		// Whole units; what is free starts and ends on their boundaries, so the cut does as well.
		s.grant(p, r.Start, s.units.cut(r.Start, s.extentSize(p, now), r.End), now)
	}
}

// hungriest returns the source that most needs a grant, of equals the fastest, and what it could be granted; nil if there is
// none.
func (s *scheduler) hungriest(now time.Time) (best *schedPath, free rangeset.Range) {
	lowest := 1.0
	for _, p := range s.paths {
		level := s.hungry(p, now)
		if level < lowest || (best != nil && level == lowest && p.rate > best.rate) {
			if r, ok := s.freeFor(p); ok {
				best, lowest, free = p, level, r
			}
		}
	}
	return best, free
}

// freeFor returns what is free and may be granted to p: what is to come first, then what another source lacks, since that
// source can do the rest.
func (s *scheduler) freeFor(p *schedPath) (rangeset.Range, bool) {
	if r, ok := s.freeOf(p, s.first.Start, min(s.first.End, s.limit)); ok {
		return r, true
	}
	for _, q := range s.paths {
		if q == p || q.stalled || q.lacks.Len() == 0 {
			continue
		}
		for r, ok := s.freeOf(p, 0, s.limit); ok; r, ok = s.freeOf(p, r.End, s.limit) {
			if rare, ok := q.lacks.NextPresent(r.Start, r.End); ok {
				return rare, true
			}
		}
	}
	return s.freeOf(p, 0, s.limit)
}

// freeOf returns the first of what is free in [start, end) and p does not lack.
func (s *scheduler) freeOf(p *schedPath, start, end int64) (rangeset.Range, bool) {
	for {
		r, ok := s.free.NextPresent(start, end)
		if !ok || p.lacks.Len() == 0 {
			return r, ok
		}
		if r, ok := p.lacks.NextMissing(r.Start, r.End); ok {
			return r, true
		}
		start = r.End
	}
}

// hungry returns how full a source is: what it was granted ahead over what it should have been, 1 or more if it needs no
// grant or may not have one.
func (s *scheduler) hungry(p *schedPath, now time.Time) float64 {
	if p.stalled && (len(p.grants) > 0 || now.Before(p.probeAt)) {
		return 1
	}
	if len(p.grants) >= p.room || s.heldBack(p, now) || s.replaceable(p) {
		return 1
	}
	return float64(p.outstanding()) / float64(p.target())
}

// target returns how many bytes a source should have been granted ahead: enough to write through the round trip that
// the next grant takes, and to go on while the next two ticks pass.
func (p *schedPath) target() int64 {
	if p.stalled {
		return minExtent // a probe
	}
	switch {
	case p.rate == 0 && p.id.isFurther():
		return minExtent
	case p.rate == 0:
		return firstOutstanding
	}
	ahead := p.rate * (2*p.rtt + extentTime).Seconds()
	return max(int64(ahead), 2*minExtent)
}

// extentSize returns how many bytes to grant a source at once. Towards the end extents get smaller, so that all
// sources finish together.
func (s *scheduler) extentSize(p *schedPath, now time.Time) int64 {
	size := int64(minExtent)
	if !p.stalled && p.rate > 0 {
		size = int64(p.rate * extentTime.Seconds())
	}
	share := s.free.Total() / 2 // half of this source's part of what is left
	if total := s.totalRate(); p.rate > 0 && total > 0 {
		share = int64(float64(share) * p.rate / total)
	} else {
		share /= int64(max(1, len(s.paths)+s.expected(now)))
	}
	return max(min(size, share, maxExtent), minExtent/4)
}

// totalRate sums the known rates of the sources that are not stalled.
func (s *scheduler) totalRate() (sum float64) {
	for _, p := range s.paths {
		sum += p.rate
	}
	return sum
}

// expected returns how many sources are still worth a reserve.
func (s *scheduler) expected(now time.Time) int {
	if s.connecting == 0 || !now.Before(s.reserveUntil) || s.wanted <= reserveUnits*s.units.size {
		return 0
	}
	return s.connecting
}

// heldBack reports whether a source has had its equal part of a stream whose other sources are about to come. So small
// streams are shared by all servers, too, and no source is held back for longer than a connection takes to set up.
func (s *scheduler) heldBack(p *schedPath, now time.Time) bool {
	expected := s.expected(now)
	return expected > 0 && p.granted >= s.wanted/int64(len(s.paths)+expected)
}

// steal moves work to p that another source would finish later, and reports whether it did. It tries those first that
// would be done last.
func (s *scheduler) steal(p *schedPath, now time.Time) bool {
	if p.stalled || p.leaving {
		return false
	}
	var victims []*schedPath
	for _, v := range s.paths {
		if v != p && len(v.grants) > 0 && v.rate > 0 { // else it has only just begun, or it is stalled and shares what it holds
			victims = append(victims, v)
		}
	}
	slices.SortStableFunc(victims, func(a, b *schedPath) int { return cmp.Compare(b.finishTime(), a.finishTime()) })
	for _, v := range victims {
		if s.stealTail(p, v, now) || s.double(p, v, now) {
			return true
		}
	}
	return false
}

// stealTail takes the unsent tail of v that p would finish sooner and grants it to p.
//
// With x bytes moved, both are done at the same time when
//
//	(outstanding(v) - x)/rate(v) = (outstanding(p) + x)/rate(p) + rtt(p)
//
// What v has sent already, or sends before it hears of it, is left to v: a round trip and a half of its rate.
func (s *scheduler) stealTail(p, v *schedPath, now time.Time) bool {
	g := v.grants[len(v.grants)-1]
	if now.Sub(v.ratedAt) < 4*v.rtt {
		return false // it gets faster every round trip, so that more is under way than it seems
	}
	if p.rate == 0 || g.shared || v.finishTime() <= p.finishTime()+p.rtt.Seconds()+stealSlack.Seconds() {
		return false
	}
	outstanding := float64(v.outstanding())
	x := (outstanding*p.rate - float64(p.outstanding())*v.rate - p.rtt.Seconds()*v.rate*p.rate) / (v.rate + p.rate)
	protected := v.rate * (v.rtt*3/2 + stealSlack).Seconds()
	x = min(x, outstanding-protected)
	if !(x >= max(1, v.rate*stealSlack.Seconds())) { // not worth it; NaN neither
		return false
	}
	end := g.end
	cut := max(s.units.ceil(end-int64(min(x, float64(end)))), g.start)
	for r, ok := p.lacks.NextPresent(cut, end); ok; r, ok = p.lacks.NextPresent(cut, end) {
		cut = r.End
	}
	if cut < g.pos || cut >= end || p.holds(cut, end) != nil {
		return false
	}
	if cut == g.start {
		s.revoke(g)
	} else {
		s.shorten(g, cut)
	}
	return s.grantFree(p, cut, end, now)
}

// double grants to p as well what v is writing, if v would need more than twice as long for it: a unit cannot be cut, and
// nobody should wait for one that trickles. A source of unknown rate may help where v takes longer than a stall would.
func (s *scheduler) double(p, v *schedPath, now time.Time) bool {
	var g *schedGrant // the last that is not shared
	var ahead, before int64
	for _, h := range v.grants {
		ahead += h.remainder()
		if !h.shared {
			g, before = h, ahead
		}
	}
	if g == nil || p.holds(g.pos, g.end) != nil || p.lacks.Overlap(g.pos, g.end) > 0 {
		return false
	}
	// Bytes that arrive are not yet bytes that count: who has brought none for a while is not believed to be quick.
	silence := now.Sub(v.lastAccept).Seconds()
	due := max(float64(before)/v.rate+v.rtt.Seconds(), silence)
	stall := max(minStall, 4*p.rtt, 4*v.rtt).Seconds()
	// As bad as one that is silent: but the first bytes of a source that gets going say little about its rate.
	hopeless := due > 2*stall && (silence > 2*stall || now.Sub(v.ratedAt).Seconds() >= stall)
	switch {
	case hopeless && p.rate == 0:
	case p.rate == 0 || due <= 2*(float64(p.outstanding()+g.remainder())/p.rate+2*p.rtt.Seconds())+stealSlack.Seconds():
		return false
	case hopeless:
	case g.remainder() > s.spare:
		return false
	default:
		s.spare -= g.remainder()
	}
	s.share(g)
	return s.grantFree(p, g.pos, g.end, now)
}

// grantFree grants to p what is free of [start, end) and reports whether anything was.
func (s *scheduler) grantFree(p *schedPath, start, end int64, now time.Time) (any bool) {
	for len(p.grants) < p.room {
		r, ok := s.freeOf(p, start, end)
		if !ok {
			break
		}
		s.grant(p, r.Start, r.End, now)
		any, start = true, r.End
	}
	return any
}
