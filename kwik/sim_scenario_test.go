package kwik

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"kwikcp/internal/simnet"
)

// A simScenario holds all that a run of the simulator depends on, drawn from a seed. Times are
// virtual and count from the start of the client's session.
type simScenario struct {
	seed    uint64
	client  simnet.Link
	servers []simServer // the primary first, then one to four secondaries
	streams []simStream
	faults  time.Duration   // how long there are faults; then everything heals
	moves   []time.Duration // when the client's address changes
	cut     time.Duration   // when the client closes the session in the middle of everything; 0: when all is done
	death   simDeath        // of the primary
	dies    time.Duration   // when
	anchor  int             // the server that can be relied on for what is pulled; -1 if there is none

	patient  bool // the time-outs are longer than any outage
	conflict ConflictResolutionStrategy
	recovery RecoveryPolicy
	streamed SecondaryStreamConfig
}

// A simServer describes a server and its fate.
type simServer struct {
	link     simnet.Link
	acts     []simAct // of a hostile server; empty if it is honest
	copy     simCopy
	disk     time.Duration // duration of a read
	joins    time.Duration // when it becomes a secondary; 0: before the client
	resets   bool          // it lets clients notice at once that it was restarted
	troubles []simTrouble
}

func (p simServer) hostile() bool { return len(p.acts) > 0 }

// A simCopy is an honest server's copy of pulled streams.
type simCopy int

const (
	simCopyRight   simCopy = iota
	simCopyWrong           // other bytes, in streams with a proof
	simCopyMissing         // nothing
	simCopyShort           // it fails in the middle
	simCopyChanged         // it is found to have changed in the middle
	simCopyHoles           // parts, and it says at once which
	simCopyRotten          // parts, and it finds out when it reads
)

// A simTrouble is a trouble of a server.
type simTrouble struct {
	kind     simTroubleKind
	at, last time.Duration
}

type simTroubleKind int

const (
	simSilenced simTroubleKind = iota // a black hole
	simCutOff                         // it and the client do not reach each other
	simPaused                         // its reads of content do not return
	simHungUp                         // it closes the client's connection
	simDetached                       // a secondary and the primary do not reach each other
	simLeft                           // a secondary withdraws, or is withdrawn, and joins again
	simKilled                         // the process dies silently; then another one, same address and key
	simClosed                         // it shuts down in an orderly way; then another one
	simGone                           // the process dies silently, for good
	simTroubleKinds
)

var simTroubleNames = [...]string{"silenced", "cut off from the client", "paused", "hangs up", "detached", "leaves", "killed", "closed", "gone"}

// A simDeath is the way in which the primary ends for good.
type simDeath int

const (
	simLives simDeath = iota
	simDiesKilled
	simDiesSilenced
	simDiesClosed // and with it, as far as the client hears, go its secondaries
)

var simDeathNames = [...]string{"lives", "is killed", "falls silent", "shuts down"}

type simKind int

const (
	simPlain  simKind = iota // opened by the client, echoed by the primary
	simServed                // opened by the primary, echoed by the client
	simPulled
	simPushed
	simKinds
)

var simKindNames = [...]string{"plain", "plain of the primary", "pulled", "pushed"}

// A simStream is one KWIK stream and the behavior of its application.
type simStream struct {
	kind      simKind
	at        time.Duration // when it is opened
	size      int64
	alignment int64
	segments  []int64
	headStart int64         // of a pulled stream
	starts    time.Duration // how long the primary takes to begin it
	ordered   bool          // Read, not CopyTo
	proof     bool
	pace      time.Duration // delay of the consumer after each piece
	quits     int64         // bytes after which the consumer closes it; 0: it does not
	pieces    []simPiece    // of a pushed stream
	poisoned  bool          // hostile servers may push wrong bytes although there is no proof
	haste     time.Duration // the longest that a source waits before it pushes a piece
	rest      time.Duration // between the reader's first wish and its first look
}

// A simPiece is a piece of a pushed stream and the server that pushes it. The bytes are those
// of the stream, each changed as the version says; 0 is right.
type simPiece struct {
	server     int // -1: none
	start, end int64
	version    int
}

// simWrong is the version that liars have.
const simWrong = 7

// lasting reports whether a server runs in the end, or returns, whatever happens before.
func (s *simScenario) lasting(i int) bool {
	p := s.servers[i]
	switch {
	case p.hostile() || p.copy == simCopyWrong || slices.ContainsFunc(p.troubles, func(x simTrouble) bool { return x.kind == simGone }):
		return false
	case i == 0:
		return s.death == simLives
	case p.mayStayUnreached():
		return false
	case s.death == simLives:
		return true // a restarted secondary joins again and is announced again
	}
	// Without a primary there are no new tickets.
	return s.death != simDiesClosed && p.joins == 0 && !slices.ContainsFunc(p.troubles, func(x simTrouble) bool { return x.kind >= simDetached })
}

// mayStayUnreached reports whether the client may use up its tries of a secondary's address before
// the first answer (dial_limit.go). The next one may be ten minutes later.
func (p simServer) mayStayUnreached() bool {
	return slices.ContainsFunc(p.troubles, func(x simTrouble) bool {
		return x.kind <= simCutOff && x.at < p.joins+2*time.Second && x.last > 2*minUnreachedTimeout
	})
}

// hostiles reports whether any server breaks the protocol or sends wrong bytes.
func (s *simScenario) hostiles() bool {
	return slices.ContainsFunc(s.servers, func(p simServer) bool { return p.hostile() || p.copy == simCopyWrong })
}

// undisturbed reports whether there are no troubles, so that every answer arrives.
func (s *simScenario) undisturbed() bool {
	return s.death == simLives && s.cut == 0 && len(s.moves) == 0 && !slices.ContainsFunc(s.servers, func(p simServer) bool { return len(p.troubles) > 0 })
}

// calm reports whether the scenario is undisturbed, no server is slow, and none writes the
// bytes of another.
func (s *simScenario) calm() bool {
	return s.undisturbed() && !s.hostiles() &&
		!slices.ContainsFunc(s.servers, func(p simServer) bool { return p.disk > 0 || p.copy != simCopyRight })
}

// lossless reports whether no packet is lost, nor dropped because it was corrupted. After a loss the
// bytes behind it wait for a retransmission. If that takes a stall's time, their source counts as
// stalled, and the budget does not bound what is repeated for stalled sources.
func (s *simScenario) lossless() bool {
	return s.client.Loss+s.client.Flip == 0 &&
		!slices.ContainsFunc(s.servers, func(p simServer) bool { return p.link.Loss+p.link.Flip > 0 })
}

// must reports whether a stream must end well. A reliable server then has its bytes, and no
// policy of the client ends it because of the others.
func (s *simScenario) must(st simStream) bool {
	if s.cut > 0 || st.quits > 0 {
		return false
	}
	if s.hostiles() && (s.recovery.Metadata == RecoveryCloseStream || s.recovery.Aggregation == FallbackCloseStream) && st.kind >= simPulled {
		return false
	}
	switch st.kind {
	case simPulled:
		return s.anchor >= 0
	case simPushed:
		at := int64(0)
		for _, piece := range st.pieces { // the first ones cover the stream, in order
			if piece.start == at {
				if piece.server < 0 || !s.lasting(piece.server) {
					return false
				}
				at = piece.end
			}
		}
		return at == st.size
	}
	return s.death == simLives
}

// newSimScenario draws a scenario.
func newSimScenario(seed uint64) *simScenario {
	r := simDice{simnet.NewDice(seed, 0x73696d)}
	s := &simScenario{seed: seed, faults: r.Duration(time.Second, 30*time.Second)}
	link := r.Links()
	s.client = link()
	s.servers = make([]simServer, 2+r.IntN(4))
	hostile, poor, late, slow := !r.OneIn(3), r.Half(), r.Half(), r.Half() // slowness leaves others time for mischief
	for i := range s.servers {
		p := &s.servers[i]
		p.link, p.resets = link(), r.Half()
		if slow && r.Half() {
			p.disk = r.Duration(time.Millisecond, 100*time.Millisecond)
		}
		if i == 0 {
			continue
		}
		if late && r.Half() {
			p.joins = r.at(s.faults)
		}
		if hostile && !r.OneIn(3) {
			p.acts = r.acts()
		} else if poor && r.Half() {
			p.copy = simCopyWrong + simCopy(r.IntN(4))
			if p.copy == simCopyMissing && seed%4 > 0 { // not from the dice, so that older seeds keep their meaning
				p.copy = simCopyHoles + simCopy(seed%2)
			}
		}
	}
	s.fate(r)
	s.knobs(r)
	s.streams = make([]simStream, 1+r.IntN(16))
	for i := range s.streams {
		s.streams[i] = s.stream(r)
	}
	own := simDice{simnet.NewDice(seed, 0x73746172)} // separate dice, so that older seeds keep their meaning
	for i := range s.streams {
		if st := &s.streams[i]; st.kind == simPulled && own.Half() {
			if st.headStart = 1 + own.Int64N(2*maxHeadStart); own.Half() {
				st.starts = own.Duration(time.Millisecond, 5*time.Second)
			}
		}
	}
	if s.gentle() {
		for range 1 + r.IntN(2) {
			s.moves = append(s.moves, r.at(s.faults))
		}
	}
	if r.OneIn(8) {
		s.cut = r.at(s.faults)
	}
	// A hole closes, and a source is given up, in the end at the latest.
	s.patient = s.death != simLives || len(s.moves) > 0 || r.Half()
	for _, p := range s.servers {
		s.patient = s.patient || p.joins > 0 || len(p.troubles) > 0
	}
	return s
}

// gentle reports whether only packets to an address that the client leaves are lost. quic-go
// v0.65.0 spins when the next probe of a new path is due and the clock stands still. In a
// bubble it stands still for ever.
func (s *simScenario) gentle() bool {
	l := s.client
	return s.death == simLives && l.Flip+l.Reorder+l.Loss == 0 &&
		!slices.ContainsFunc(s.servers, func(p simServer) bool { return len(p.troubles) > 0 || p.link.Loss > 0 })
}

// fate draws the fates of the servers, and the reliable one.
func (s *simScenario) fate(r simDice) {
	if r.OneIn(5) {
		s.death, s.dies = simDeath(1+r.IntN(3)), r.at(s.faults)
		s.anchor = -1
		for i, p := range s.servers {
			if i > 0 && !p.hostile() && p.copy == simCopyRight && s.death != simDiesClosed {
				s.anchor = i
			}
		}
		if s.anchor > 0 {
			s.servers[s.anchor].joins = 0
		}
	}
	if r.Half() {
		return
	}
	for i := range s.servers {
		p := &s.servers[i]
		if i == 0 && s.death != simLives || r.Half() {
			continue
		}
		if i == s.anchor || i == 0 { // a trouble that a connection survives, or an anchor with its tickets
			kinds := []simTroubleKind{simSilenced, simCutOff, simPaused, simHungUp}
			if i == 0 {
				kinds = kinds[:3]
			}
			p.troubles = append(p.troubles, simTrouble{kinds[r.IntN(len(kinds))], r.at(s.faults), r.Duration(20*time.Millisecond, 5*time.Second)})
			continue
		}
		at := time.Duration(0)
		for range 1 + r.IntN(3) {
			x := simTrouble{simTroubleKind(r.IntN(int(simTroubleKinds))), at + r.at(s.faults), r.Duration(20*time.Millisecond, 20*time.Second)}
			at = x.at + x.last // one after the other
			if at < s.faults || len(p.troubles) == 0 {
				p.troubles = append(p.troubles, x)
			}
		}
	}
}

// knobs draws the settings of the application.
func (s *simScenario) knobs(r simDice) {
	s.conflict = ConflictResolutionStrategy(r.IntN(4))
	if r.Half() {
		s.recovery.Metadata = MetadataRecoveryStrategy(r.IntN(5))
		s.recovery.Aggregation = AggregationFallbackStrategy(r.IntN(4))
	}
	if r.Half() {
		s.streamed.BufferSize = []int{64 << 10, 128 << 10, 1 << 20}[r.IntN(3)]
		s.streamed.AggregationBatchSize = []int{-1, 4 << 10, 64 << 10}[r.IntN(3)]
	}
	if r.OneIn(4) {
		s.streamed.MaxStreamsPerPath = 1 + r.IntN(8)
	}
}

// stream draws a stream.
func (s *simScenario) stream(r simDice) simStream {
	kind := simKind(r.IntN(int(simKinds) + 2))
	st := simStream{kind: min(kind, simPushed), at: r.at(s.faults), size: r.size(), ordered: r.Half(), proof: r.Half()}
	if kind > simPushed {
		st.kind, st.size = simPulled, st.size+int64(r.Log(unit, simMaxShare)) // for several sources
	}
	if r.Half() {
		st.at = 0
	}
	if s.death != simLives && st.at >= s.dies {
		st.at = s.dies / 2 // no primary would open it
	}
	if st.kind >= simPulled {
		st.alignment = []int64{0, 1000, 4 << 10, unit}[r.IntN(4)]
	}
	if r.OneIn(3) {
		st.pace = r.Duration(100*time.Microsecond, 50*time.Millisecond)
	}
	if st.ordered && r.OneIn(3) {
		st.rest = r.Duration(10*time.Millisecond, 5*time.Second)
	}
	if r.OneIn(10) {
		st.quits = 1 + r.Int64N(st.size)
	}
	switch st.kind {
	case simPlain, simServed:
		st.size = min(st.size, 256<<10)
	case simPulled:
		if r.OneIn(4) {
			for left := st.size; left > 0; left -= st.segments[len(st.segments)-1] {
				st.segments = append(st.segments, max(left-left/2-r.Int64N(left/2+1), 1))
			}
		}
	case simPushed:
		s.pieces(r, &st)
	}
	return st
}

// pieces draws the pieces of a stream and their servers.
func (s *simScenario) pieces(r simDice, st *simStream) {
	if st.ordered && r.OneIn(5) { // beyond the window
		st.size = minReorderWindow + 1 + r.Int64N(simMaxSize-minReorderWindow)
	}
	if s.streamed.MaxStreamsPerPath > 0 { // streams that wait for the window would block those that are due
		st.size = min(st.size, minReorderWindow)
	}
	if s.conflict == ConflictResolutionReject {
		st.alignment = max(st.alignment, 4<<10, st.size/64) // rejected bytes are pushed again unit by unit
	}
	u, _ := newUnits(uint64(st.size), uint64(st.alignment), nil)
	honest := []int{}
	for i, p := range s.servers {
		if !p.hostile() {
			honest = append(honest, i)
		}
	}
	cuts := []int64{0, st.size}
	for range r.IntN(8) {
		cuts = append(cuts, u.Floor(r.Int64N(st.size)))
	}
	slices.Sort(cuts)
	cuts = slices.Compact(cuts)
	who := func() int { return honest[r.IntN(len(honest))] }
	for i := range cuts[1:] {
		st.pieces = append(st.pieces, simPiece{server: who(), start: cuts[i], end: cuts[i+1]})
	}
	st.poisoned = !st.proof && r.Half()
	if r.Half() { // others overlap them
		versions := 1
		if !st.proof && r.Half() {
			versions = 3 // and differ
		}
		for range 1 + r.IntN(4) {
			x := simPiece{server: who(), start: u.Floor(r.Int64N(st.size)), version: r.IntN(versions)}
			x.end = u.Ceil(x.start + 1 + r.Int64N(st.size-x.start))
			if x.start > 0 { // the start of the stream has a piece already
				st.pieces = append(st.pieces, x)
			}
		}
	}
	if r.OneIn(6) {
		st.pieces[r.IntN(len(cuts)-1)].server = -1
	}
	if r.Half() {
		st.haste = r.Duration(time.Millisecond, 2*time.Second)
	}
}

// String returns the schedule.
func (s *simScenario) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "seed %d: faults for %v, the primary %s", s.seed, s.faults.Round(time.Millisecond), simDeathNames[s.death])
	if s.death != simLives {
		fmt.Fprintf(&b, " at %v", s.dies.Round(time.Millisecond))
	}
	fmt.Fprintf(&b, "; anchor %d, patient %t, cut at %v, conflicts %d, recovery %+v, streams %+v\n", s.anchor, s.patient, s.cut, s.conflict, s.recovery, s.streamed)
	fmt.Fprintf(&b, "  client: %+v, moves at %v\n", s.client, s.moves)
	for i, p := range s.servers {
		fmt.Fprintf(&b, "  server %d: %+v; joins at %v, copy %d, disk %v, hostile %v", i, p.link, p.joins, p.copy, p.disk, p.acts)
		for _, x := range p.troubles {
			fmt.Fprintf(&b, "; %s at %v for %v", simTroubleNames[x.kind], x.at.Round(time.Millisecond), x.last.Round(time.Millisecond))
		}
		b.WriteByte('\n')
	}
	for i, st := range s.streams {
		fmt.Fprintf(&b, "  stream %d at %v: %s, %d bytes in units of %d, segments %d, ordered %t, proof %t, pace %v, rest %v, quits at %d, head start %d after %v",
			i, st.at.Round(time.Millisecond), simKindNames[st.kind], st.size, st.alignment, len(st.segments), st.ordered, st.proof, st.pace, st.rest, st.quits, st.headStart, st.starts)
		if st.kind == simPushed {
			fmt.Fprintf(&b, ", poisoned %t, haste %v, pieces %v", st.poisoned, st.haste, st.pieces)
		}
		fmt.Fprintf(&b, "; must end well: %t\n", s.must(st))
	}
	return b.String()
}
