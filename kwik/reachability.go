package kwik

import (
	"maps"
	"net/netip"
	"slices"
	"time"
)

// This file decides to which clients a primary offers a secondary that some clients cannot reach.
//
// Clients report the secondaries that they reach, and those that do not answer. A report counts for
// the client's network: others may be able to reach the secondary, and the client may lie. The
// secondary is offered to the network less, not never, so that the network notices when it can be
// reached again. If many networks report it and none reaches it, it is offered to all others less.
// One network that reaches it ends that.

const (
	// unreachedPause is how long a network is offered less of a secondary that it reported. Each
	// further report doubles it, up to maxUnreachedPause.
	unreachedPause    = 10 * time.Minute
	maxUnreachedPause = 2 * time.Hour
	// One in networkTrial sessions of a network that reported a secondary is offered it. If many
	// networks reported it, so is one in generalTrial of the others.
	networkTrial, generalTrial = 8, 4
	// manyUnreached is the number of networks whose reports count for other networks.
	manyUnreached = 4
	// reachedLife is how long it counts that a network reached a secondary.
	reachedLife = time.Hour
	// maxReachNetworks bounds the networks that are remembered for a secondary, of each kind.
	maxReachNetworks = 256
	// unreachedNotice is the least time between two notices about a secondary.
	unreachedNotice = time.Minute
)

// A reachRecord is what clients reported about a secondary. Time is an argument; the listener's
// lock guards it. The zero value is ready.
type reachRecord struct {
	reached   map[netip.Prefix]time.Time // by network: when it last reached the secondary
	unreached map[netip.Prefix]unreachedBy
	reachedAt time.Time // when any network last reached it
	noticedAt time.Time // when the operator was last told that a network does not
}

// An unreachedBy is the record of a network that cannot reach a secondary.
type unreachedBy struct {
	reports int
	until   time.Time // the secondary is offered to the network less until then
}

// addReached records that a client of a network has reached the secondary.
func (r *reachRecord) addReached(network netip.Prefix, now time.Time) {
	if r.reached == nil {
		r.reached = make(map[netip.Prefix]time.Time)
	}
	if _, known := r.reached[network]; !known && len(r.reached) >= maxReachNetworks {
		maps.DeleteFunc(r.reached, func(_ netip.Prefix, at time.Time) bool { return now.Sub(at) >= reachedLife })
		if len(r.reached) >= maxReachNetworks {
			removeOne(r.reached)
		}
	}
	r.reached[network], r.reachedAt = now, now
	delete(r.unreached, network)
}

// addUnreached records that a client of a network could not reach the secondary. It reports whether
// the operator should be told.
func (r *reachRecord) addUnreached(network netip.Prefix, now time.Time) (notice bool) {
	if at, ok := r.reached[network]; ok && now.Sub(at) < reachedLife {
		return false // another client of the network contradicts
	}
	if r.unreached == nil {
		r.unreached = make(map[netip.Prefix]unreachedBy)
	}
	by, known := r.unreached[network]
	if !known && len(r.unreached) >= maxReachNetworks {
		maps.DeleteFunc(r.unreached, func(_ netip.Prefix, by unreachedBy) bool { return !now.Before(by.until) })
		if len(r.unreached) >= maxReachNetworks {
			removeOne(r.unreached)
		}
	}
	pause := min(unreachedPause<<min(by.reports, 8), maxUnreachedPause)
	r.unreached[network] = unreachedBy{reports: by.reports + 1, until: now.Add(pause)}
	if !r.noticedAt.IsZero() && now.Sub(r.noticedAt) < unreachedNotice {
		return false
	}
	r.noticedAt = now
	return true
}

func removeOne[T any](records map[netip.Prefix]T) {
	for network := range records {
		delete(records, network)
		return
	}
}

// mayOffer reports whether the secondary is offered to a session of a client of a network.
func (r *reachRecord) mayOffer(network netip.Prefix, session SessionID, now time.Time) bool {
	if now.Before(r.unreached[network].until) {
		return session[0]%networkTrial == 0
	}
	if now.Sub(r.reachedAt) < reachedLife {
		return true
	}
	unreached := 0
	for _, by := range r.unreached {
		if now.Before(by.until) {
			unreached++
		}
	}
	return unreached < manyUnreached || session[0]%generalTrial == 0
}

// reachability holds the records of a primary's secondaries. They outlive a membership: a secondary
// that joins again at its address is as reachable as before.
type reachability map[memberKey]*reachRecord

// of returns the record of a member, and makes one if there is none. Of more than limit records it
// keeps those of members.
func (all reachability) of(m *member, limit int, isMember func(memberKey) bool) *reachRecord {
	where := m.identity()
	r := all[where]
	if r == nil {
		if len(all) >= limit {
			maps.DeleteFunc(all, func(where memberKey, _ *reachRecord) bool { return !isMember(where) })
		}
		r = &reachRecord{}
		all[where] = r
	}
	return r
}

// isMember reports whether a secondary with this address and key is a member. The caller holds
// l.mu.
func (l *Listener) isMember(where memberKey) bool {
	return slices.ContainsFunc(slices.Collect(maps.Values(l.members.byID)), func(m *member) bool {
		return where == m.identity()
	})
}

// handleReach records a client's report on whether it reaches a secondary. A session counts
// once for each secondary that it was offered.
func (l *Listener) handleReach(s *ServerSession, id ServerID, isReached bool, reason string) {
	notice := false
	network := networkOf(clientPrefix(s.RemoteAddr()))
	l.mu.Lock()
	m := l.members.byID[id]
	isUseless := m == nil || !network.IsValid() || s.reachReports[id] == reportOf(isReached)
	if isUseless || !s.offersTo[m.identity()] {
		l.mu.Unlock()
		return
	}
	if s.reachReports == nil {
		s.reachReports = make(map[ServerID]reachReport)
	}
	s.reachReports[id] = reportOf(isReached)
	r := l.members.reach.of(m, 2*l.config.maxMembers, l.isMember)
	if isReached {
		r.addReached(network, l.config.now())
	} else {
		notice = r.addUnreached(network, l.config.now())
	}
	addr := m.addr
	l.mu.Unlock()
	if notice {
		l.config.OnUnreachable(id, addr, network, reason)
	}
}

// A reachReport is a client's last report on a secondary.
type reachReport int

const (
	reportNone reachReport = iota
	reportReached
	reportUnreached
)

func reportOf(isReached bool) reachReport {
	if isReached {
		return reportReached
	}
	return reportUnreached
}

// isOffered reports whether the session's client is told of a server. The answer stays the same
// while the session lasts. It is also that for the server if it joins again: it may have been out
// of reach because it was being restarted. Called with the listener's lock held.
func (s *ServerSession) isOffered(m *member) bool {
	if m == s.listener.members.self || s.inspects {
		return true
	}
	if known, decided := s.offersTo[m.identity()]; decided {
		return known
	}
	if s.offersTo == nil {
		s.offersTo = make(map[memberKey]bool)
	}
	isOffered := true
	if r := s.listener.members.reach[m.identity()]; r != nil {
		isOffered = r.mayOffer(networkOf(clientPrefix(s.RemoteAddr())), s.id, s.listener.config.now())
	}
	s.offersTo[m.identity()] = isOffered
	return isOffered
}

// offerable returns the servers for which the session's client gets tickets. Called with the
// listener's lock held.
func (s *ServerSession) offerable() []*member {
	return slices.DeleteFunc(s.listener.members.offerable(), func(m *member) bool { return !s.isOffered(m) })
}
