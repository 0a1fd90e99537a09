package kwik

import (
	"net/netip"
	"time"

	"kwikcp/internal/bucket"
)

var (
	// joinRate bounds the attempts to join of one network that fail or are in progress. It is the
	// rate at which one attacker can guess a token.
	joinRate = bucket.Rate{PerSecond: 1, Burst: 16}
	// allJoinsRate is the same for all networks together. Prefixes with a member are exempt.
	allJoinsRate = bucket.Rate{PerSecond: 32, Burst: 256}
	// anyJoinRate bounds all attempts of one network, also those that succeed: the primary tells
	// its clients of each.
	anyJoinRate = bucket.Rate{PerSecond: 1, Burst: 128}
)

// A joinLimit slows attempts to join. Those that succeed count for one limit only. The keys are
// networks (networkOf): a secondary has few, an attacker has many prefixes. It has no clock, and
// the listener's lock guards it.
type joinLimit struct {
	each, any prefixLimit
	all       bucket.Bucket
}

func newJoinLimit() *joinLimit {
	return &joinLimit{each: newPrefixLimit(joinRate), any: newPrefixLimit(anyJoinRate)}
}

// begin reports whether a peer may attempt to join. isExempt means that it is exempt from the
// limit for all.
func (j *joinLimit) begin(from netip.Prefix, isExempt bool, now time.Time) bool {
	network := networkOf(from)
	if !j.each.TryTake(network, now) {
		return false
	}
	if isExempt || j.all.TryTake(allJoinsRate, now) {
		if j.any.TryTake(network, now) {
			return true
		}
		j.succeeded(from, isExempt)
		return false
	}
	j.each.GiveBack(network)
	return false
}

// succeeded takes back an attempt from the limits of those that fail.
func (j *joinLimit) succeeded(from netip.Prefix, isExempt bool) {
	j.each.GiveBack(networkOf(from))
	if !isExempt {
		j.all.GiveBack(allJoinsRate)
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
		l.joins.succeeded(from, isExempt)
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
