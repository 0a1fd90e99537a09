package sim

import (
	"flag"
	"fmt"
	"strconv"
	"testing"
	"time"

	"kwikcp/internal/simnet"
)

var (
	seeds = flag.Int("seeds", DefaultSeeds, "how many seeds to run")
	first = flag.Uint64("first", 1, "the first of them")
)

func init() { flag.BoolVar(&Trace, "tell", false, "log what the client reports") }

// TestSeeds runs whole transfers, each in the world of its seed. It starts with the seeds of
// testdata/seeds.txt, which failed once. With -first it runs only the seeds that the flags
// select.
func TestSeeds(t *testing.T) {
	var all totals
	if *first == 1 {
		for _, seed := range pastSeeds(t) {
			t.Run(fmt.Sprintf("past/%d", seed), func(t *testing.T) { all.add(Run(t, seed)) })
		}
	}
	for seed := *first; seed < *first+uint64(*seeds); seed++ {
		t.Run(strconv.FormatUint(seed, 10), func(t *testing.T) { all.add(Run(t, seed)) })
	}
	t.Logf("%v", all)
}

// totals add up outcomes.
type totals struct {
	seeds, failed, doomed, outages, liars int
	wall, virtual, slowest                time.Duration
	slowestSeed                           uint64
	network                               simnet.Stats
	bytes, wasted, resumed                int64
	again                                 int
	kinds                                 [16]int
}

func (a *totals) add(o Outcome) {
	a.seeds++
	if len(o.Faults) > 0 {
		a.failed++
	}
	if o.Scenario.Doom != DoomNone {
		a.doomed++
		if e, ok := asError(o.Err); ok {
			a.kinds[e.Kind]++
		}
	}
	if o.Scenario.troubled() {
		a.outages++
	}
	a.liars += o.Scenario.liars()
	a.wall += o.Wall
	a.virtual += o.Virtual
	if o.Virtual > a.slowest {
		a.slowest, a.slowestSeed = o.Virtual, o.Scenario.Seed
	}
	a.network.Packets += o.Network.Packets
	a.network.Lost += o.Network.Lost
	a.network.Overflowed += o.Network.Overflowed
	a.network.Unreachable += o.Network.Unreachable
	a.bytes += o.Result.Bytes
	a.wasted += o.Result.Wasted
	a.resumed += o.Result.Resumed
	if o.Again {
		a.again++
	}
}

func (a totals) String() string {
	return fmt.Sprintf("%d seeds, %d failed; %d with outages, %d doomed (errors by kind %v), %d liars, %d run again\n"+
		"%.1f s wall, %v virtual (%.0f times as fast; the slowest transfer, seed %d, took %v)\n"+
		"%d packets, %d dropped; %d bytes had, %d of them from before, %d came in vain",
		a.seeds, a.failed, a.outages, a.doomed, a.kinds[:9], a.liars, a.again,
		a.wall.Seconds(), a.virtual.Round(time.Second), a.virtual.Seconds()/a.wall.Seconds(), a.slowestSeed,
		a.slowest.Round(time.Millisecond),
		a.network.Packets, a.network.Dropped(), a.bytes, a.resumed, a.wasted)
}

// pastSeeds returns the seeds that failed once.
func pastSeeds(t *testing.T) []uint64 {
	past, err := simnet.ReadSeeds("testdata/seeds.txt")
	if err != nil {
		t.Fatal(err)
	}
	return past
}

// TestScenarioFollowsFromItsSeed is what makes a seed worth printing.
func TestScenarioFollowsFromItsSeed(t *testing.T) {
	for seed := range uint64(1000) {
		a, b := NewScenario(seed), NewScenario(seed)
		if a != b {
			t.Fatalf("seed %d gives\n%v and\n%v", seed, a, b)
		}
		if a.Doom == DoomNone {
			anchor := a.Servers[a.Anchor]
			if anchor.Copy != CopyRight || anchor.Outage.Kind != OutageNone || anchor.JoinsAt != 0 {
				t.Fatalf("seed %d has no server that can be relied on:\n%v", seed, a)
			}
		}
	}
}
