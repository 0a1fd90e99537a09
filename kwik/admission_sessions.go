package kwik

import (
	"net/netip"
	"time"
)

// A resident is a session that has a place at a listener.
type resident struct {
	from netip.Prefix
	id   SessionID
	// idleSince is since when the session has had no stream; the zero time while it has one.
	idleSince time.Time
	touched   time.Time // when the client last took bytes or used a stream, as last observed
	lost      refusal   // why it lost its place
	session   *ServerSession
}

// isIdle reports whether a session has been without a stream for at least a time.
func (r *resident) isIdle(least time.Duration, now time.Time) bool {
	return !r.idleSince.IsZero() && now.Sub(r.idleSince) >= least
}

// unusedSince returns since when a session has been of no use to its client, and why it may lose
// its place. The reason is admitted if it may not. A session that has a stream is of no use if its
// client has taken nothing for takeTimeout.
func (r *resident) unusedSince(now time.Time) (since time.Time, why refusal) {
	switch {
	case r.isIdle(minIdle, now):
		return r.idleSince, endedIdle
	case r.idleSince.IsZero() && now.Sub(r.touched) >= takeTimeout:
		return r.touched, endedUnused
	}
	return time.Time{}, admitted
}

// enter gives a session a place. If there is none, a session without a stream loses its own, or one
// whose client takes nothing. It is one of the same client if that client has too many, otherwise
// one of the client that has the most. If all places are in use, the network that has the most
// loses one (yieldOfFullest). A further path of a session that is here must leave half
// of the places to others, both of the client's places and of all.
func (a *admissionControl) enter(r *resident, now time.Time) (evicted *resident, why refusal) {
	ofClient, isFurther := 0, false
	for other := range a.residents {
		if other.from == r.from {
			ofClient++
			isFurther = isFurther || other.id == r.id
		}
	}
	switch total := len(a.residents); {
	case isFurther && (ofClient >= a.limits.sessionsPerClient/2 || total >= a.limits.sessions/2):
		return nil, refusedFurther
	case ofClient >= a.limits.sessionsPerClient:
		if evicted = a.longestIdle(now, func(o *resident) bool { return o.from == r.from }); evicted == nil {
			return nil, refusedSessionOf
		}
	case total >= a.limits.sessions:
		if evicted = a.longestIdle(now, func(*resident) bool { return true }); evicted == nil {
			evicted = a.yieldOfFullest(r.from)
		}
		if evicted == nil {
			return nil, refusedSession
		}
	}
	if evicted != nil {
		delete(a.residents, evicted)
	}
	a.residents[r] = struct{}{}
	return evicted, admitted
}

// isFull reports whether a session of a client needs the place of another one.
func (a *admissionControl) isFull(from netip.Prefix) bool {
	ofClient := 0
	for r := range a.residents {
		if r.from == from {
			ofClient++
		}
	}
	return ofClient >= a.limits.sessionsPerClient || len(a.residents) >= a.limits.sessions
}

// depart removes a session. It has no effect on one that has lost its place.
func (a *admissionControl) depart(r *resident) { delete(a.residents, r) }

// fairNetworks is the number of networks that can have all places, each an equal part, without
// losing one to others.
const fairNetworks = 16

// yieldOfFullest returns the session that a network must yield to a client of another network. The
// network has the most sessions, more than a fair part of all places, and more than the other would
// have. The session is the one whose client has taken nothing for longest. It returns nil if there
// is no such network.
func (a *admissionControl) yieldOfFullest(from netip.Prefix) (victim *resident) {
	count := make(map[netip.Prefix]int)
	for r := range a.residents {
		count[networkOf(r.from)]++
	}
	most := max(a.limits.sessions/fairNetworks, count[networkOf(from)]+1)
	for r := range a.residents {
		switch n := count[networkOf(r.from)]; {
		case n > most, n == most && victim != nil && r.touched.Before(victim.touched):
			victim, most = r, n
		}
	}
	if victim != nil {
		victim.lost = endedForOthers
	}
	return victim
}

// longestIdle returns the session that has been of no use (unusedSince) for longest. It is one of
// the client that has the most sessions and such a one. It returns nil if no session that matches
// is of no use.
func (a *admissionControl) longestIdle(now time.Time, matches func(*resident) bool) (victim *resident) {
	count := make(map[netip.Prefix]int)
	for r := range a.residents {
		count[r.from]++
	}
	var unused time.Time
	for r := range a.residents {
		since, why := r.unusedSince(now)
		if why == admitted || !matches(r) {
			continue
		}
		if victim == nil || count[r.from] > count[victim.from] ||
			count[r.from] == count[victim.from] && since.Before(unused) {
			victim, unused = r, since
			victim.lost = why
		}
	}
	return victim
}

// refusalCounts counts the refusals of each kind until they are reported.
type refusalCounts map[refusal]*refusalCount

type refusalCount struct {
	count    int
	from     netip.Prefix // of the last one
	reported time.Time
}

// refusalInterval is the least time between two reports of the same kind of refusal.
const refusalInterval = time.Minute

// add counts a refusal. due reports the refusals that are to be reported now; the number of kinds
// bounds the memory.
func (c refusalCounts) add(why refusal, from netip.Prefix) {
	r := c[why]
	if r == nil {
		r = &refusalCount{}
		c[why] = r
	}
	r.count++
	r.from = from
}

// A refusalReport is what ServerConfig.OnRefusal is told.
type refusalReport struct {
	from  netip.Prefix
	why   refusal
	count int
}

// due returns the reports that are due, and resets their counts.
func (c refusalCounts) due(now time.Time) (reports []refusalReport) {
	for why, r := range c {
		if r.count > 0 && (r.reported.IsZero() || now.Sub(r.reported) >= refusalInterval) {
			reports = append(reports, refusalReport{r.from, why, r.count})
			r.count, r.reported = 0, now
		}
	}
	return reports
}
