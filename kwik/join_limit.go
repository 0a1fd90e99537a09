package kwik

import (
	"net/netip"
	"time"
)

const (
	// Of one prefix, joinBurst attempts to join may have failed or be in progress, and one more
	// for each joinRefill. It is the rate at which one attacker can guess a token.
	joinBurst  = 16
	joinRefill = time.Second
	// The same for all prefixes together. Prefixes with a member are exempt.
	allJoinsBurst  = 256
	allJoinsRefill = time.Second / 32
	// Of one prefix, anyJoinBurst joins may succeed or fail, and one more for each joinRefill: the
	// primary tells its clients of each that succeeds.
	anyJoinBurst = 128
)

// A joinLimit slows attempts to join. Those that succeed count for one limit only. It has no
// clock, and the listener's lock guards it.
type joinLimit struct{ each, all, any *prefixLimit }

func newJoinLimit() *joinLimit {
	return &joinLimit{
		each: newPrefixLimit(joinBurst, joinRefill),
		all:  newPrefixLimit(allJoinsBurst, allJoinsRefill),
		any:  newPrefixLimit(anyJoinBurst, joinRefill),
	}
}

// everyone is the only key of joinLimit.all.
var everyone netip.Prefix

// begin reports whether a peer may attempt to join. isExempt means that it is exempt from the
// limit for all.
func (j *joinLimit) begin(from netip.Prefix, isExempt bool, now time.Time) bool {
	if !j.each.take(from, now) {
		return false
	}
	if isExempt || j.all.take(everyone, now) {
		if j.any.take(from, now) {
			return true
		}
		j.succeeded(from, isExempt, now)
		return false
	}
	j.each.giveBack(from, now)
	return false
}

// succeeded takes back an attempt from the limits of those that fail.
func (j *joinLimit) succeeded(from netip.Prefix, isExempt bool, now time.Time) {
	j.each.giveBack(from, now)
	if !isExempt {
		j.all.giveBack(everyone, now)
	}
}

// beginJoin returns the function to call with the result of an attempt to join, or nil if there
// are too many.
func (l *Listener) beginJoin(from netip.Prefix) (settle func(ok bool)) {
	l.mu.Lock()
	defer l.mu.Unlock()
	isExempt := l.members.has(from)
	if !l.joins.begin(from, isExempt, time.Now()) {
		return nil
	}
	return func(ok bool) {
		if !ok {
			return
		}
		l.mu.Lock()
		defer l.mu.Unlock()
		l.joins.succeeded(from, isExempt, time.Now())
	}
}

// has reports whether a member joined from a prefix.
func (m *members) has(from netip.Prefix) bool {
	for _, member := range m.byID {
		if member.from == from {
			return true
		}
	}
	return false
}
