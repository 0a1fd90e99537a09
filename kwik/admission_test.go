package kwik

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"testing"
	"time"
)

// admissionWorld is an admission with a clock.
type admissionWorld struct {
	*admissionControl
	t   *testing.T
	now time.Time
}

var smallLimits = admissionLimits{
	handshakes: 16, handshakesPerClient: 4, joins: 8, joinsPerClient: 2,
	sessions: 16, sessionsPerClient: 4, helloTimeout: 10 * time.Second,
}

func newAdmissionWorld(t *testing.T, limits admissionLimits) *admissionWorld {
	return &admissionWorld{newAdmission(limits), t, time.Date(2026, 11, 27, 0, 0, 0, 0, time.UTC)}
}

// clientNumber returns the prefix of a client.
func clientNumber(n int) netip.Prefix {
	return netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(n >> 16), byte(n >> 8), byte(n)}), 32)
}

// mustArrive adds a newcomer and returns it and those that it displaced.
func (w *admissionWorld) mustArrive(from netip.Prefix) (*newcomer, []*newcomer) {
	w.t.Helper()
	n, evicted, why := w.arrive(from, w.now)
	if why != admitted {
		w.t.Fatalf("a newcomer from %v was refused: %s", from, why)
	}
	w.serve(n)
	w.now = w.now.Add(time.Millisecond)
	return n, evicted
}

func TestAdmissionOfOneClient(t *testing.T) {
	w := newAdmissionWorld(t, smallLimits)
	var all []*newcomer
	for range 4 {
		n, evicted := w.mustArrive(clientNumber(1))
		if all = append(all, n); evicted != nil {
			t.Fatal("a newcomer lost its place before the limit")
		}
	}
	if _, why := w.join(all[0]); why != admitted {
		t.Fatal(why)
	}
	n, evicted := w.mustArrive(clientNumber(1))
	if len(evicted) != 1 || evicted[0] != all[1] { // the oldest that is silent
		t.Fatalf("%d lost their places", len(evicted))
	}
	w.join(all[2])
	if _, why := w.join(all[3]); why != refusedJoinOf {
		t.Errorf("the third join: %q", why)
	}
	w.leave(all[3])
	w.leave(all[3])
	w.leave(n)
	if len(w.newcomers) != 2 {
		t.Errorf("%d are left", len(w.newcomers))
	}
	w.leave(all[0])
	w.leave(all[2])
	if len(w.newcomers) != 0 {
		t.Errorf("%d are left", len(w.newcomers))
	}
}

// A client all of whose connections are joining is refused; others are not.
func TestAdmissionRefusesWithoutASilentOne(t *testing.T) {
	limits := smallLimits
	limits.joinsPerClient, limits.joins = 4, 16
	w := newAdmissionWorld(t, limits)
	fill := func(c int) {
		for range 4 {
			n, _ := w.mustArrive(clientNumber(c))
			if _, why := w.join(n); why != admitted {
				t.Fatal(why)
			}
		}
	}
	fill(1)
	if _, _, why := w.arrive(clientNumber(1), w.now); why != refusedHandshakeOf {
		t.Errorf("%q", why)
	}
	n, _ := w.mustArrive(netip.Prefix{})
	if _, why := w.validate(n, clientNumber(1), w.now); why != refusedHandshakeOf {
		t.Errorf("%q", why)
	}
	w.leave(n)
	for c := 2; c <= 4; c++ {
		fill(c)
	}
	if _, _, why := w.arrive(clientNumber(5), w.now); why != refusedHandshake {
		t.Errorf("%q", why)
	}
}

// When all places are taken, the client that has the most loses the oldest silent one.
func TestAdmissionWhenFull(t *testing.T) {
	w := newAdmissionWorld(t, smallLimits)
	first, _ := w.mustArrive(clientNumber(0))
	var crowd []*newcomer
	for c := 1; len(w.newcomers) < 16; c++ {
		for range min(4, 16-len(w.newcomers)) {
			n, _ := w.mustArrive(clientNumber(c))
			crowd = append(crowd, n)
		}
	}
	_, evicted := w.mustArrive(clientNumber(9))
	if len(evicted) != 1 || evicted[0] != crowd[0] {
		t.Errorf("%d lost their places", len(evicted))
	}
	if first.gone {
		t.Error("the oldest lost its place to clients that have more")
	}
}

// While half of the places are taken, a silent newcomer has a fifth of the time-out.
func TestAdmissionUnderPressure(t *testing.T) {
	w := newAdmissionWorld(t, smallLimits)
	for c := range 7 {
		w.mustArrive(clientNumber(c))
	}
	w.now = w.now.Add(5 * time.Second)
	if _, evicted := w.mustArrive(clientNumber(8)); len(evicted) != 0 {
		t.Errorf("%d lost their places without pressure", len(evicted))
	}
	if _, evicted := w.mustArrive(clientNumber(9)); len(evicted) != 7 {
		t.Errorf("%d lost their places, want the 7 that are older than 2 s", len(evicted))
	}
	if len(w.newcomers) != 2 {
		t.Errorf("%d are left", len(w.newcomers))
	}
}

// An address that may be spoofed is not counted for a client until the handshake is complete.
func TestAdmissionOfUnprovedAddresses(t *testing.T) {
	limits := smallLimits
	limits.handshakes, limits.handshakesPerClient = 256, 64
	w := newAdmissionWorld(t, limits)
	var some []*newcomer
	for !w.needsRetry(w.now) {
		n, _ := w.mustArrive(netip.Prefix{})
		some = append(some, n)
	}
	if len(some) != maxUnvalidated {
		t.Errorf("%d handshakes began without a Retry, want %d", len(some), maxUnvalidated)
	}
	if _, why := w.validate(some[0], clientNumber(1), w.now); why != admitted || w.needsRetry(w.now) {
		t.Errorf("%q; a proved address still counts as unproved", why)
	}
	if _, why := w.validate(some[0], clientNumber(2), w.now); why != admitted || some[0].from != clientNumber(1) {
		t.Errorf("%q: an address was proved twice", why)
	}
}

// Initials without a token that arrive faster than one in 10 ms need a Retry, however short the
// handshakes are.
func TestAdmissionBoundsTheRateOfInitials(t *testing.T) {
	w := newAdmissionWorld(t, smallLimits)
	begun := 0
	for range 6000 * 2 { // 6,000 a second for 2 s
		if !w.needsRetry(w.now) {
			begun++
		}
		w.now = w.now.Add(time.Second / 6000)
	}
	if most := initialRate.Burst + 200; begun > most+1 || begun < most-1 {
		t.Errorf("%d began without a Retry, want %d", begun, most)
	}
	w.now = w.now.Add(time.Minute)
	if w.needsRetry(w.now) {
		t.Error("a Retry after a minute of quiet")
	}
}

// A client that connects too often is refused, and has its rate again later. Others are not
// concerned.
func TestAdmissionBoundsTheRateOfAClient(t *testing.T) {
	w := newAdmissionWorld(t, smallLimits)
	try := func(c int) refusal {
		n, _, why := w.arrive(clientNumber(c), w.now)
		if n != nil {
			w.leave(n)
		}
		return why
	}
	for i := range connectionRate.Burst {
		if why := try(1); why != admitted {
			t.Fatalf("connection %d: %q", i, why)
		}
	}
	if why := try(1); why != refusedRate {
		t.Errorf("%q", why)
	}
	if why := try(2); why != admitted {
		t.Errorf("another client: %q", why)
	}
	w.now = w.now.Add(5 * time.Millisecond)
	if why := try(1); why != admitted {
		t.Errorf("%q", why)
	}
	if why := try(1); why != refusedRate {
		t.Errorf("%q", why)
	}
}

// A client cannot reset its rate with addresses that it invents, however many they are.
func TestAdmissionRemembersTheWorstClient(t *testing.T) {
	limits := smallLimits
	w := newAdmissionWorld(t, limits)
	for range connectionRate.Burst {
		n, _, _ := w.arrive(clientNumber(0), w.now)
		w.leave(n)
	}
	for c := 1; c <= 3*maxPrefixes; c++ {
		if n, _, why := w.arrive(clientNumber(c), w.now); why == admitted {
			w.leave(n)
		}
	}
	if _, _, why := w.arrive(clientNumber(0), w.now); why != refusedRate {
		t.Errorf("%q", why)
	}
	if n := w.rate.Len(); n > maxPrefixes {
		t.Errorf("%d prefixes are remembered", n)
	}
}

func (w *admissionWorld) session(c int, id byte) *resident {
	return &resident{from: clientNumber(c), id: SessionID{id, byte(c)}, idleSince: w.now, touched: w.now}
}

func TestAdmissionOfSessions(t *testing.T) {
	w := newAdmissionWorld(t, smallLimits)
	var mine []*resident
	for i := range byte(4) {
		r := w.session(1, i)
		if evicted, why := w.enter(r, w.now); why != admitted || evicted != nil {
			t.Fatalf("%q", why)
		}
		mine = append(mine, r)
	}
	if !w.isFull(clientNumber(1)) || w.isFull(clientNumber(2)) {
		t.Error("isFull is wrong")
	}
	if _, why := w.enter(w.session(1, 9), w.now); why != refusedSessionOf {
		t.Errorf("no session was idle for %v: %q", minIdle, why)
	}
	w.now = w.now.Add(minIdle)
	mine[0].idleSince = time.Time{} // has a stream
	mine[2].idleSince = mine[2].idleSince.Add(-time.Millisecond)
	if evicted, why := w.enter(w.session(1, 10), w.now); why != admitted || evicted != mine[2] {
		t.Errorf("%q: not the one that was idle longest", why)
	}
	w.depart(mine[2]) // it ends later
	for _, r := range mine {
		w.depart(r)
	}
	if len(w.residents) != 1 {
		t.Errorf("%d are left", len(w.residents))
	}
}

// When all places are taken, the client that has the most loses an idle session. If none is idle,
// the network that has the most loses one.
func TestAdmissionOfSessionsWhenFull(t *testing.T) {
	w := newAdmissionWorld(t, smallLimits)
	for c := range 4 {
		for i := range byte(4) {
			if _, why := w.enter(w.session(c, i), w.now); why != admitted {
				t.Fatal(why)
			}
		}
	}
	for r := range w.residents {
		if r.from == clientNumber(0) {
			w.depart(r) // the first client has three
			break
		}
	}
	single := w.session(8, 0)
	w.enter(single, w.now.Add(-time.Hour))
	single.idleSince = w.now.Add(-time.Hour)
	w.now = w.now.Add(minIdle)
	evicted, why := w.enter(w.session(9, 0), w.now)
	if why != admitted || evicted == nil {
		t.Fatalf("%q, %v lost its place", why, evicted)
	}
	if evicted == single || evicted.from == clientNumber(0) {
		t.Errorf("a client that has fewer lost a place: %v", evicted.from)
	}
	for r := range w.residents {
		r.idleSince, r.touched = time.Time{}, w.now
	}
	for c := 10; ; c++ { // the networks that have more than others yield, until all have two
		evicted, why := w.enter(w.session(c, 0), w.now)
		if why == refusedSession {
			break
		}
		if evicted == nil || evicted.lost != endedForOthers || evicted.from == single.from {
			t.Fatalf("%q, %v lost its place", why, evicted)
		}
		for r := range w.residents {
			r.idleSince = time.Time{}
		}
	}
	count := make(map[netip.Prefix]int)
	for r := range w.residents {
		count[r.from]++
	}
	for from, n := range count {
		if n > 2 {
			t.Errorf("%v has %d places of %d", from, n, len(w.residents))
		}
	}
	// One whose client takes nothing yields as if it had no stream.
	var quiet *resident
	for r := range w.residents {
		quiet = r
		quiet.touched = w.now.Add(-takeTimeout)
		break
	}
	evicted, why = w.enter(w.session(99, 0), w.now)
	if why != admitted || evicted != quiet || evicted.lost != endedUnused {
		t.Errorf("%q, %v lost its place", why, evicted)
	}
}

// Further paths of sessions leave half of the places to other sessions.
func TestAdmissionOfFurtherPaths(t *testing.T) {
	w := newAdmissionWorld(t, smallLimits)
	enter := func(c int, id byte) refusal {
		_, why := w.enter(w.session(c, id), w.now)
		return why
	}
	for i, want := range []refusal{admitted, admitted, refusedFurther, refusedFurther} {
		if why := enter(1, 0); why != want {
			t.Errorf("path %d: %q, want %q", i, why, want)
		}
	}
	for i, want := range []refusal{admitted, admitted, refusedSessionOf} {
		if why := enter(1, byte(1+i)); why != want {
			t.Errorf("session %d: %q, want %q", i, why, want)
		}
	}
}

// Random arrivals, joins and ends never exceed a limit, and a client within its own limits always
// gets a place while some newcomer is silent.
func TestAdmissionModel(t *testing.T) {
	for seed := range uint64(50) {
		dice := rand.New(rand.NewPCG(seed, 1))
		w := newAdmissionWorld(t, smallLimits)
		var here []*newcomer
		for range 2000 {
			w.now = w.now.Add(time.Duration(dice.IntN(200)) * time.Millisecond)
			from := netip.Prefix{}
			if dice.IntN(3) > 0 {
				from = clientNumber(dice.IntN(12))
			}
			switch dice.IntN(6) {
			case 0, 1, 2:
				if !from.IsValid() && w.needsRetry(w.now) {
					continue
				}
				n, _, why := w.arrive(from, w.now)
				if n != nil {
					here = append(here, n)
					w.serve(n)
				} else if why == refusedHandshake && w.silentOfFullest() != nil {
					t.Fatalf("seed %d: refused while a silent one was there", seed)
				}
			case 3:
				if len(here) > 0 {
					w.leave(here[dice.IntN(len(here))])
				}
			case 4:
				if len(here) > 0 {
					w.join(here[dice.IntN(len(here))])
				}
			case 5:
				if len(here) > 0 {
					w.validate(here[dice.IntN(len(here))], clientNumber(dice.IntN(12)), w.now)
				}
			}
			if err := w.check(); err != nil {
				t.Fatalf("seed %d: %v", seed, err)
			}
		}
	}
}

// check returns an error if a limit is exceeded or a list disagrees with its elements.
func (w *admissionWorld) check() error {
	count, joins := make(map[netip.Prefix]int), make(map[netip.Prefix]int)
	total := 0
	for i, n := range w.newcomers {
		if n.gone {
			return fmt.Errorf("newcomer %d has left and is listed", i)
		}
		if i > 0 && n.arrived.Before(w.newcomers[i-1].arrived) {
			return fmt.Errorf("newcomer %d is out of order", i)
		}
		count[n.from]++
		if n.joining {
			joins[n.from]++
			total++
		}
	}
	l := w.limits
	if len(w.newcomers) > l.handshakes || total > l.joins || count[netip.Prefix{}] > maxUnvalidated {
		return fmt.Errorf("%d newcomers, %d joins, %d unproved", len(w.newcomers), total, count[netip.Prefix{}])
	}
	for from, n := range count {
		if from.IsValid() && (n > l.handshakesPerClient || joins[from] > l.joinsPerClient) {
			return fmt.Errorf("%v has %d newcomers, %d joins", from, n, joins[from])
		}
	}
	return nil
}

// Refusals are reported at once, then at most once a minute for each reason.
func TestRefusalCounts(t *testing.T) {
	w := newAdmissionWorld(t, smallLimits)
	reports := 0
	for i := range 1000 * 60 * 3 { // 1,000 a second for three minutes
		w.refusals.add(refusedSession, clientNumber(i))
		for _, r := range w.refusals.due(w.now) {
			if r.why != refusedSession || (reports == 0) != (r.count == 1) || r.from != clientNumber(i) {
				t.Errorf("%+v", r)
			}
			reports++
		}
		w.now = w.now.Add(time.Millisecond)
	}
	if reports != 3 {
		t.Errorf("%d reports", reports)
	}
	if r := w.refusals.due(w.now.Add(time.Minute)); len(r) != 1 || len(w.refusals.due(w.now.Add(2*time.Minute))) != 0 {
		t.Errorf("the last ones were reported as %+v", r)
	}
	w.refusals.add(refusedJoin, clientNumber(1))
	if r := w.refusals.due(w.now); len(r) != 1 {
		t.Errorf("another reason: %+v", r)
	}
}
