package kwik

import (
	"flag"
	"fmt"
	"os"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"kwikcp/internal/simnet"
)

// This simulator runs whole sessions, each in the world of its seed. Plain, pulled and pushed
// streams run at once, over paths that are lost and return. Servers break every rule, and the
// network loses, delays and corrupts packets. After a time all of that heals.
//
//	seed -> simScenario -> simWorld (network, servers, villains, client) -> simFlow (a stream and its application) -> demands
//
// The demands are in simFlow.judge (each stream), simWorld.watch (at all times) and
// simWorld.settle (in the end). The fate of packets follows from the seed, but the order of
// goroutines also depends on Go's scheduler. A failing seed therefore fails again mostly, not
// always: run it several times (-count), and add it to testdata/sim-seeds.txt.

var (
	simSeeds = flag.Int("simseeds", 0, "how many seeds TestSim runs; 0: 24, and fewer with -short or the race detector")
	simFirst = flag.Uint64("simfirst", 1, "the first of them")
)

// TestSim runs the seeds of testdata/sim-seeds.txt, which failed once, and then the requested
// ones. With -simfirst it runs the requested ones only.
func TestSim(t *testing.T) {
	n := *simSeeds
	if n == 0 {
		n = 24
		if testing.Short() || raceEnabled {
			n = 10
		}
	}
	var all simTotals
	if *simFirst == 1 {
		for _, seed := range simPastSeeds(t) {
			t.Run(fmt.Sprintf("past/%d", seed), func(t *testing.T) { all.add(simRun(t, seed)) })
		}
	}
	for seed := *simFirst; seed < *simFirst+uint64(n); seed++ {
		t.Run(strconv.FormatUint(seed, 10), func(t *testing.T) { all.add(simRun(t, seed)) })
	}
	t.Logf("%v", &all)
}

// TestSimScenarioFollowsFromItsSeed checks that a seed always gives the same scenario.
func TestSimScenarioFollowsFromItsSeed(t *testing.T) {
	for seed := range uint64(1000) {
		a, b := newSimScenario(seed), newSimScenario(seed)
		if !reflect.DeepEqual(a, b) {
			t.Fatalf("seed %d gives\n%v and\n%v", seed, a, b)
		}
		for i, st := range a.streams {
			at := int64(0)
			for _, n := range st.segments {
				at += n
			}
			if st.size < 1 || (at != 0 && at != st.size) {
				t.Fatalf("stream %d has %d bytes and segments of %d in\n%v", i, st.size, at, a)
			}
			primaryServes := a.death == simLives && a.cut == 0 && st.quits == 0
			if st.kind == simPulled && primaryServes && a.anchor != 0 {
				t.Fatalf("stream %d could rely on the primary, but its anchor is server %d in\n%v", i, a.anchor, a)
			}
		}
	}
}

// simPastSeeds returns the seeds that failed once.
func simPastSeeds(t *testing.T) []uint64 {
	past, err := simnet.ReadSeeds("testdata/sim-seeds.txt")
	if err != nil {
		t.Fatal(err)
	}
	return past
}

// simTotals are sums over runs.
type simTotals struct {
	seeds, failed, deaths, cuts, villains   int
	acts, whole, failures, plain, conflicts int
	refuted                                 int
	wall, virtual                           time.Duration
	network                                 simnet.Stats
}

// A simOutcome is the result of a run.
type simOutcome struct {
	simTotals
	faults []string
}

func (a *simTotals) add(o simOutcome) {
	for sum, n := range map[*int]int{
		&a.seeds: o.seeds, &a.failed: o.failed, &a.deaths: o.deaths, &a.cuts: o.cuts, &a.villains: o.villains, &a.acts: o.acts,
		&a.whole: o.whole, &a.failures: o.failures, &a.plain: o.plain, &a.conflicts: o.conflicts, &a.refuted: o.refuted,
		&a.network.Packets: o.network.Packets, &a.network.Lost: o.network.Lost, &a.network.Overflowed: o.network.Overflowed,
		&a.network.Unreachable: o.network.Unreachable,
	} {
		*sum += n
	}
	a.wall += o.wall
	a.virtual += o.virtual
}

func (a *simTotals) String() string {
	return fmt.Sprintf("%d seeds, %d failed; the primary died in %d, the session was cut in %d, %d hostile servers did %d things\n"+
		"%d aggregate streams ended whole, %d with an error, %d plain ones whole; %d conflicts, %d deliveries refuted\n"+
		"%.1f s wall, %v virtual; %d packets, %d dropped",
		a.seeds, a.failed, a.deaths, a.cuts, a.villains, a.acts, a.whole, a.failures, a.plain, a.conflicts, a.refuted,
		a.wall.Seconds(), a.virtual.Round(time.Second), a.network.Packets, a.network.Dropped())
}

// simHung bounds the real time of a run. If something spins in a bubble, the clock of the
// bubble stands still, and only the real clock can tell.
const simHung = 2 * time.Minute

// simRun runs the scenario of a seed and fails the test for every demand that is not met.
func simRun(t *testing.T, seed uint64) (o simOutcome) {
	t.Helper()
	s := newSimScenario(seed)
	again := fmt.Sprintf("again: go test ./kwik -run 'TestSim$' -simfirst %d -simseeds 1 -count 20", seed)
	begun := time.Now()
	watchdog := time.AfterFunc(simHung, func() { panic(fmt.Sprintf("no end within %v\n%v%s", simHung, s, again)) })
	defer watchdog.Stop()
	returned := false
	defer func() {
		if !returned { // a panic, or synctest found a deadlock
			fmt.Fprintf(os.Stderr, "%v%s\n", s, again)
		}
	}()
	synctest.Test(t, func(t *testing.T) { o = newSimWorld(t, s).run() })
	returned = true
	o.seeds, o.wall = 1, time.Since(begun)
	if len(o.faults) > 0 || t.Failed() {
		o.failed = 1
		t.Errorf("%v%s\nafter %v of its time:\n  %s", s, again, o.virtual.Round(time.Millisecond), strings.Join(o.faults, "\n  "))
	}
	return o
}

// count fills in the counts of an outcome.
func (w *simWorld) count(o *simOutcome) {
	for _, h := range w.hosts {
		if h.villain != nil {
			o.villains++
		}
	}
	o.acts, o.network = int(w.acted.Load()), w.net.Stats()
	if w.s.death != simLives {
		o.deaths = 1
	}
	if w.s.cut > 0 {
		o.cuts = 1
	}
	for _, f := range w.streams {
		switch {
		case !f.isOver():
		case f.kind < simPulled && f.err == nil:
			o.plain++
		case f.kind < simPulled:
		case f.err == nil:
			o.whole++
		default:
			o.failures++
		}
		if f.isOver() && f.reader != nil {
			o.conflicts += f.reader.Stats().Conflicts
		}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, n := range w.refuted {
		o.refuted += n
	}
	o.faults = slices.Clone(w.faults)
}
