package kwik

import (
	"context"
	"net/netip"
	"time"

	"kwikcp/internal/bucket"
)

// An admissionControl decides which connections, joins and sessions a listener accepts. It counts
// them in total and by client, where a client is a prefix (clientPrefix). It has no clock and no
// lock: the gate guards it and passes the time.
//
// A connection passes through it like this:
//
//	Initial --needsRetry--> Retry, and the client comes back with a token
//	Initial --arrive--> newcomer without a known address --validate--> newcomer of a client
//	Initial with a token --arrive--> newcomer of a client
//	newcomer --leave, after its first frame--> session (enter) or membership
//
// When there is no place, a newcomer that has sent nothing makes room for the next one. Likewise a
// session without a stream makes room for the next session.
type admissionControl struct {
	limits    admissionLimits
	newcomers []*newcomer // in the order of their arrival
	// stranded counts, for each network, the connections that have lost their places and cannot
	// be closed yet. QUIC has not handed them over, because their ClientHello is not complete.
	stranded  map[netip.Prefix]int
	residents map[*resident]struct{}
	rate      prefixLimit   // new connections of each client
	initials  bucket.Bucket // Initial packets without a token that may begin a handshake
	refusals  refusalCounts // that were not reported yet
}

// admissionLimits are the limits of docs/PROTOCOL.md section 11.
type admissionLimits struct {
	handshakes, handshakesPerClient int // connections that have not sent their first frame
	joins, joinsPerClient           int // joins in progress
	sessions, sessionsPerClient     int
	helloTimeout                    time.Duration
}

const (
	// maxUnvalidated bounds the handshakes with addresses that may be spoofed. Each takes about
	// 100 KiB for up to 5 s, and sends up to three times the bytes that arrived.
	maxUnvalidated = 32
	// unservedShare times as many connections as may be newcomers may exist that QUIC has not
	// handed over.
	unservedShare = 3
	// pressedPatience is the share of the Hello time-out that newcomers have while half of the
	// places are taken.
	pressedPatience = 5
	// minIdle is how long a session must have been without a stream before another takes its
	// place. A client sends its first request with Hello.
	minIdle = 2 * time.Second
)

var (
	// initialRate bounds the rate at which such handshakes begin.
	initialRate = bucket.Rate{PerSecond: 100, Burst: 200}
	// connectionRate bounds the rate of one client's new connections. A handshake takes about 1 ms
	// of processor time.
	connectionRate = bucket.Rate{PerSecond: 200, Burst: 1000}
)

// A prefixLimit bounds how often the clients of each prefix, or each network, may do something.
// The prefixes beyond maxPrefixes, of about 100 bytes each, share one allowance.
type prefixLimit = *bucket.Keyed[netip.Prefix]

const maxPrefixes = 4096

func newPrefixLimit(r bucket.Rate) prefixLimit { return bucket.NewKeyed[netip.Prefix](r, maxPrefixes) }

// A refusal is why a connection, join or session is refused or ended. It is sent to the client.
// The zero value means that it is accepted.
type refusal string

const (
	admitted           refusal = ""
	refusedRate        refusal = "too many new connections from one address"
	refusedHandshake   refusal = "too many handshakes in progress"
	refusedHandshakeOf refusal = "too many handshakes in progress from one address"
	refusedSilent      refusal = "no first frame arrived while many connections waited"
	refusedJoin        refusal = "too many joins in progress"
	refusedJoinOf      refusal = "too many joins in progress from one address"
	refusedSession     refusal = "too many clients are connected"
	refusedSessionOf   refusal = "too many clients are connected from one address"
	endedIdle          refusal = "too many clients are connected: one without a stream was closed"
	endedUnused        refusal = "too many clients are connected: one that took nothing was closed"
	endedForOthers     refusal = "too many clients are connected: one of the network with the most was closed"
	endedJoin          refusal = "too many joins in progress: one of the network with the most was closed"
	refusedFurther     refusal = "too many clients are connected for a further connection of one"
	refusedMember      refusal = "too many secondaries"
	refusedMemberOf    refusal = "too many secondaries at one address"
)

func newAdmission(limits admissionLimits) *admissionControl {
	return &admissionControl{
		limits:    limits,
		stranded:  make(map[netip.Prefix]int),
		residents: make(map[*resident]struct{}),
		rate:      newPrefixLimit(connectionRate),
		refusals:  make(refusalCounts),
	}
}

// A newcomer is a connection that has not sent its first frame, or whose join is in progress.
type newcomer struct {
	from    netip.Prefix // invalid while the address may be spoofed
	arrived time.Time
	joining bool // its JoinRequest has arrived: it is not silent
	gone    bool // it has left or lost its place
	served  bool // QUIC has handed it over: it is closed when it loses its place
	// isStranded is true after it has lost its place, until it is served or has ended.
	isStranded bool

	why   refusal         // why it lost its place
	lost  context.Context // ends when the newcomer loses its place
	evict context.CancelFunc
}

// needsRetry reports whether a client must prove its address with a Retry, which costs it a round
// trip, before a handshake begins. It is called for each Initial packet without a token.
func (a *admissionControl) needsRetry(now time.Time) bool {
	crowded := a.unvalidated() >= maxUnvalidated || len(a.newcomers) >= a.limits.handshakes/2
	return !a.initials.TryTake(initialRate, now) || crowded
}

func (a *admissionControl) unvalidated() (n int) {
	for _, other := range a.newcomers {
		if !other.from.IsValid() {
			n++
		}
	}
	return n + a.stranded[netip.Prefix{}]
}

// arrive adds a connection whose handshake begins. from is invalid while its address may be
// spoofed: then nothing counts against that address, and needsRetry has bounded the number. The
// newcomers in evicted have lost their places.
func (a *admissionControl) arrive(from netip.Prefix, now time.Time) (n *newcomer, evicted []*newcomer, why refusal) {
	if from.IsValid() && !a.rate.TryTake(from, now) {
		return nil, nil, refusedRate
	}
	evicted = a.expire(now)
	switch ofNetwork, all := a.unserved(from); {
	case from.IsValid() && ofNetwork >= a.limits.handshakesPerClient:
		return nil, evicted, refusedHandshakeOf
	case all >= unservedShare*a.limits.handshakes:
		return nil, evicted, refusedHandshake
	}
	n = &newcomer{from: from, arrived: now}
	if from.IsValid() {
		victim, ok := a.makePlaceOf(from, a.limits.handshakesPerClient-1)
		if !ok {
			return nil, evicted, refusedHandshakeOf
		}
		evicted = appendNewcomer(evicted, victim)
	}
	if len(a.newcomers) >= a.limits.handshakes {
		victim := a.silentOfFullest()
		if victim == nil {
			return nil, evicted, refusedHandshake
		}
		a.displace(victim)
		evicted = append(evicted, victim)
	}
	a.newcomers = append(a.newcomers, n)
	return n, evicted, admitted
}

// validate records the address of a newcomer that has completed its handshake without a token.
func (a *admissionControl) validate(n *newcomer, from netip.Prefix, now time.Time) (evicted []*newcomer, why refusal) {
	if n.gone || n.from.IsValid() {
		return nil, admitted
	}
	if !a.rate.TryTake(from, now) {
		return nil, refusedRate
	}
	victim, ok := a.makePlaceOf(from, a.limits.handshakesPerClient-1)
	if !ok {
		return nil, refusedHandshakeOf
	}
	n.from = from
	return appendNewcomer(nil, victim), admitted
}

// join marks a newcomer whose JoinRequest has arrived. It keeps its place until the join has ended.
// While there are too many, the network that has the most yields one to others. A join takes less
// than a second, but a peer without the token can draw it out for ten.
func (a *admissionControl) join(n *newcomer) (evicted []*newcomer, why refusal) {
	joins, ofNetwork := 0, make(map[netip.Prefix]int)
	for _, other := range a.newcomers {
		if other.joining {
			joins++
			ofNetwork[networkOf(other.from)]++
		}
	}
	own := ofNetwork[networkOf(n.from)]
	switch {
	case n.gone:
		return nil, refusedSilent
	case own >= a.limits.joinsPerClient:
		return nil, refusedJoinOf
	case joins >= a.limits.joins:
		var victim *newcomer // the oldest of the network that has the most
		for _, other := range a.newcomers {
			count := ofNetwork[networkOf(other.from)]
			if other.joining && count > own+1 && (victim == nil || count > ofNetwork[networkOf(victim.from)]) {
				victim = other
			}
		}
		if victim == nil {
			return nil, refusedJoin
		}
		victim.why = endedJoin
		a.displace(victim)
		evicted = []*newcomer{victim}
	}
	n.joining = true
	return evicted, admitted
}

// leave removes a newcomer: its first frame has arrived, its join or its connection has ended.
func (a *admissionControl) leave(n *newcomer) {
	if n.gone {
		return
	}
	n.gone = true
	for i, other := range a.newcomers {
		if other == n {
			a.newcomers = append(a.newcomers[:i:i], a.newcomers[i+1:]...)
			return
		}
	}
}

// displace takes the place of a newcomer away.
func (a *admissionControl) displace(n *newcomer) {
	a.leave(n)
	if n.why == admitted {
		n.why = refusedSilent
	}
	if !n.served {
		n.isStranded = true
		a.stranded[networkOf(n.from)]++
	}
}

// serve records that QUIC has handed a connection over. If it has lost its place, it is closed now.
func (a *admissionControl) serve(n *newcomer) {
	n.served = true
	a.unstrand(n)
}

// end removes a connection that has ended.
func (a *admissionControl) end(n *newcomer) {
	a.leave(n)
	a.unstrand(n)
}

func (a *admissionControl) unstrand(n *newcomer) {
	if !n.isStranded {
		return
	}
	n.isStranded = false
	network := networkOf(n.from)
	if a.stranded[network]--; a.stranded[network] == 0 {
		delete(a.stranded, network)
	}
}

// unserved returns the number of connections that cannot be closed, of a client's network and of
// all.
func (a *admissionControl) unserved(from netip.Prefix) (ofNetwork, all int) {
	network := networkOf(from)
	for _, n := range a.stranded {
		all += n
	}
	ofNetwork = a.stranded[network]
	for _, n := range a.newcomers {
		if n.served {
			continue
		}
		all++
		if networkOf(n.from) == network {
			ofNetwork++
		}
	}
	return ofNetwork, all
}

// expire removes the silent newcomers that have waited too long while half of the places are
// taken. Without such pressure the listener's own time-out ends them.
func (a *admissionControl) expire(now time.Time) (expired []*newcomer) {
	if len(a.newcomers) < a.limits.handshakes/2 {
		return nil
	}
	deadline := now.Add(-a.limits.helloTimeout / pressedPatience)
	for _, n := range a.newcomers {
		if !n.joining && n.arrived.Before(deadline) {
			expired = append(expired, n)
		}
	}
	for _, n := range expired {
		a.displace(n)
	}
	return expired
}

// makePlaceOf makes sure that a client has at most limit newcomers: its oldest silent one leaves if
// it has more. It reports false if all of them are joining.
func (a *admissionControl) makePlaceOf(from netip.Prefix, limit int) (victim *newcomer, ok bool) {
	count := 0
	for _, n := range a.newcomers {
		if n.from != from {
			continue
		}
		count++
		if victim == nil && !n.joining {
			victim = n
		}
	}
	if count <= limit {
		return nil, true
	}
	if victim != nil {
		a.displace(victim)
	}
	return victim, victim != nil
}

// silentOfFullest returns the oldest silent newcomer of the network that has the most of them. The
// newcomers without a proved address count as one network. It returns nil if all are joining.
func (a *admissionControl) silentOfFullest() (oldest *newcomer) {
	count := make(map[netip.Prefix]int)
	for _, n := range a.newcomers {
		if !n.joining {
			count[networkOf(n.from)]++
		}
	}
	for _, n := range a.newcomers {
		if !n.joining && (oldest == nil || count[networkOf(n.from)] > count[networkOf(oldest.from)]) {
			oldest = n
		}
	}
	return oldest
}

func appendNewcomer(list []*newcomer, n *newcomer) []*newcomer {
	if n == nil {
		return list
	}
	return append(list, n)
}
