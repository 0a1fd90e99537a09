package sched

import (
	"cmp"
	"slices"
	"time"
)

// Near the end of a stream nothing is free, and the sources would not finish together. Then a
// source with a deficit, the helper, takes work from one that would finish later, the victim:
//
//   - stealing: the helper is granted the tail of the victim's last grant, and the victim's grant is shortened or revoked;
//   - hedging: the helper is granted what the victim is writing, and the first of the two to deliver a byte wins.
//
// Stealing moves work; hedging repeats it, and its cost is limited by a budget.

const (
	// stealSlack is how much sooner a stolen tail must arrive to be worth stealing.
	stealSlack = 20 * time.Millisecond
	// The budget of a stream for bytes granted twice is a hundredth of it, or 16 units.
	hedgeFraction = 100
	hedgeUnits    = 16
)

// HedgeBudget returns how many bytes of a stream may be granted, or arrive, twice so that it ends
// sooner. Bytes repeated for a source that is stalled or hopelessly slow are not counted.
func HedgeBudget(u Units) int64 { return max(u.total/hedgeFraction, hedgeUnits*u.size) }

// steal moves or repeats work of one victim for helper, and reports whether it did. The victim
// that would finish last is tried first.
func (s *Scheduler) steal(helper *source, now time.Time) bool {
	if helper.stalled || helper.draining {
		return false
	}
	for _, victim := range s.victims(helper) {
		if s.stealTail(helper, victim, now) || s.hedge(helper, victim, now) {
			return true
		}
	}
	return false
}

// victims returns the sources from which helper may take work, the one that would finish last
// first. A source of unknown rate is none: it has only begun, or it is stalled, and then its grant
// is shared.
func (s *Scheduler) victims(helper *source) (victims []*source) {
	for _, src := range s.sources {
		if src != helper && len(src.grants) > 0 && src.rate > 0 {
			victims = append(victims, src)
		}
	}
	slices.SortStableFunc(victims, func(a, b *source) int { return cmp.Compare(b.finishTime(), a.finishTime()) })
	return victims
}

// finishTime estimates in how many seconds a source of known rate will have delivered everything
// that it was granted.
func (src *source) finishTime() float64 { return src.timeFor(src.outstanding()) }

// timeFor estimates in how many seconds a source of known rate delivers n bytes.
func (src *source) timeFor(n int64) float64 { return float64(n)/src.rate + src.rtt.Seconds() }

// stealTail grants to helper the tail of the victim's last grant that helper would deliver sooner,
// and reports whether it did.
func (s *Scheduler) stealTail(helper, victim *source, now time.Time) bool {
	g := victim.lastGrant()
	finishesSooner := helper.finishTime()+helper.rtt.Seconds()+stealSlack.Seconds() < victim.finishTime()
	switch {
	case helper.rate == 0, g.shared, !finishesSooner:
		return false
	case victim.isAccelerating(now): // more is in flight than its rate suggests
		return false
	}
	n, ok := stealableBytes(helper, victim)
	if !ok {
		return false
	}
	end := g.end
	cut, ok := s.tailCut(helper, g, n)
	if !ok {
		return false
	}
	if cut == g.start {
		s.revoke(g)
	} else {
		s.shorten(g, cut)
	}
	return s.grantFree(helper, cut, end, now)
}

// isAccelerating reports whether the rate of a source became known so recently that it still grows
// every round trip.
func (src *source) isAccelerating(now time.Time) bool { return now.Sub(src.ratedAt) < 4*src.rtt }

// stealableBytes returns how many bytes have to move from victim to helper so that both finish at
// the same time. It returns false if so few bytes are not worth a grant. With x bytes moved, both
// finish at the same time if
//
//	(outstanding(victim) - x)/rate(victim) = (outstanding(helper) + x)/rate(helper) + rtt(helper)
//
// The victim keeps what it has sent, or sends before it learns of the theft: a round trip and a
// half of its rate.
func stealableBytes(helper, victim *source) (n float64, ok bool) {
	outstanding := float64(victim.outstanding())
	balanced := outstanding*helper.rate - float64(helper.outstanding())*victim.rate
	balanced -= helper.rtt.Seconds() * victim.rate * helper.rate
	balanced /= victim.rate + helper.rate
	inFlight := victim.rate * (victim.rtt*3/2 + stealSlack).Seconds()
	n = min(balanced, outstanding-inFlight)
	worthAGrant := n >= max(1, victim.rate*stealSlack.Seconds()) // false for NaN
	return n, worthAGrant
}

// tailCut returns where to cut a grant so that helper can take about the last n bytes of it. The
// cut is a unit boundary, and helper has every byte behind it. It returns false if there is no
// such cut.
func (s *Scheduler) tailCut(helper *source, g *grant, n float64) (cut int64, ok bool) {
	cut = max(s.units.Ceil(g.end-int64(min(n, float64(g.end)))), g.start)
	for {
		missing, any := helper.missing.NextPresent(cut, g.end)
		if !any {
			break
		}
		cut = missing.End
	}
	inRange := g.pos <= cut && cut < g.end
	return cut, inRange && helper.holds(cut, g.end) == nil
}

// hedge grants to helper, as well, the last exclusive grant of victim, and reports whether it did.
// A unit cannot be cut, and the stream must not wait for a source that trickles. The rule:
//
//   - victim must need more than twice as long as helper;
//   - the bytes are charged to the hedge budget and must fit in it;
//   - a hopeless victim is as bad as a stalled one: the budget is not charged, and a helper of unknown rate may help.
func (s *Scheduler) hedge(helper, victim *source, now time.Time) bool {
	g, ahead := victim.lastExclusive()
	if g == nil || helper.holds(g.pos, g.end) != nil || helper.missing.Overlap(g.pos, g.end) > 0 {
		return false
	}
	due := victim.due(ahead, now)
	muchSooner := helper.rate > 0 && due > 2*helper.hedgeTime(g)+stealSlack.Seconds()
	switch {
	case s.isHopeless(victim, helper, due, now) && (muchSooner || helper.rate == 0):
	case !muchSooner, g.remainder() > s.hedgeBudget:
		return false
	default:
		s.hedgeBudget -= g.remainder()
	}
	s.share(g)
	return s.grantFree(helper, g.pos, g.end, now)
}

// lastExclusive returns the last exclusive grant of a source, or nil if there is none. ahead is
// the number of bytes that the source has to deliver up to the end of that grant.
func (src *source) lastExclusive() (last *grant, ahead int64) {
	sum := int64(0)
	for _, g := range src.grants {
		sum += g.remainder()
		if !g.shared {
			last, ahead = g, sum
		}
	}
	return last, ahead
}

// due estimates in how many seconds a source of known rate will have delivered n bytes. The
// estimate is never shorter than the time since its bytes were last accepted: bytes can arrive
// without ever completing a unit.
func (src *source) due(n int64, now time.Time) float64 {
	return max(src.timeFor(n), now.Sub(src.lastAccept).Seconds())
}

// hedgeTime estimates the seconds until a helper of known rate has delivered the remainder of
// another source's grant. The helper finishes its own work first, and the grant takes a round
// trip.
func (src *source) hedgeTime(g *grant) float64 {
	return src.timeFor(src.outstanding()+g.remainder()) + src.rtt.Seconds()
}

// isHopeless reports whether a victim that is due in so many seconds is as bad as a stalled
// source. The first bytes of a source say little about its rate. So the rate must be known for a
// stall's time, or no byte was accepted for twice that time.
func (s *Scheduler) isHopeless(victim, helper *source, due float64, now time.Time) bool {
	stall := max(victim.stallTime(), helper.stallTime()).Seconds()
	rateIsReliable := now.Sub(victim.ratedAt).Seconds() >= stall
	acceptsNothing := now.Sub(victim.lastAccept).Seconds() > 2*stall
	return due > 2*stall && (rateIsReliable || acceptsNothing)
}
