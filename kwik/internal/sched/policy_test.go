package sched

import (
	"math"
	"slices"
	"testing"
	"time"

	"kwikcp/internal/rangeset"
)

// A schedulerSim is a network of sources in discrete time. A message takes half a round trip.
// Written bytes take another half, and their length over the source's rate.
type schedulerSim struct {
	s       *Scheduler
	now     time.Time
	ticked  time.Time
	claimed rangeset.Set
	wasted  int64
	sources []*simSource
}

type simSource struct {
	id     SourceID
	rate   float64 // bytes a second; 0 is silence
	rtt    time.Duration
	grants []*modelGrant
	inbox  []simMessage // messages on their way to it
	outbox []simMessage // messages on their way to the client
	credit float64      // bytes that it may have written by now
	total  int64        // bytes that arrived
	last   time.Time    // when the last of them arrived
}

type simMessage struct {
	at     time.Time
	action Action
	g      *modelGrant // of data, up to action.End
}

const (
	simStep        = time.Millisecond
	testQueueLimit = 16        // the queue limit of a server
	testFrame      = 256 << 10 // the payload of a server's frame
)

func newSchedulerSim(total, unit uint64, sources ...*simSource) *schedulerSim {
	u, err := NewUnits(total, unit, nil)
	if err != nil {
		panic(err)
	}
	sim := &schedulerSim{s: New(u, u.total), now: time.Unix(1e9, 0)}
	sim.s.Start(sim.now)
	for _, src := range sources {
		sim.add(src)
	}
	return sim
}

func (sim *schedulerSim) add(src *simSource) {
	sim.sources = append(sim.sources, src)
	sim.s.AddSource(Source{ID: src.id, RTT: src.rtt}, sim.now)
	sim.s.SetQueueLimit(src.id, testQueueLimit, sim.now)
	sim.tell()
}

func (sim *schedulerSim) tell() {
	for _, a := range sim.s.Actions() {
		for _, src := range sim.sources {
			if src.id == a.Source {
				src.inbox = append(src.inbox, simMessage{at: sim.now.Add(src.rtt / 2), action: a})
			}
		}
	}
}

// run lets time pass until the stream is complete and returns how long it took, or most if it did
// not.
func (sim *schedulerSim) run(most time.Duration) time.Duration {
	start := sim.now
	for ; sim.now.Sub(start) < most; sim.now = sim.now.Add(simStep) {
		for _, src := range sim.sources {
			sim.hear(src)
			sim.write(src)
			sim.receive(src)
		}
		if sim.s.Done() {
			return sim.now.Sub(start)
		}
		if sim.now.Sub(sim.ticked) >= TickInterval {
			sim.ticked = sim.now
			for _, src := range sim.sources {
				sim.s.Observe(src.id, src.total, src.rtt, sim.now)
			}
			sim.s.Tick(sim.now)
			sim.tell()
		}
	}
	return most
}

func (sim *schedulerSim) hear(src *simSource) {
	for len(src.inbox) > 0 && !src.inbox[0].at.After(sim.now) {
		a := src.inbox[0].action
		src.inbox = src.inbox[1:]
		i := slices.IndexFunc(src.grants, func(g *modelGrant) bool { return g.id == a.Grant })
		switch {
		case a.Kind == ActionGrant:
			src.grants = append(src.grants, &modelGrant{id: a.Grant, start: a.Start, sent: a.Start, end: a.End})
		case i >= 0 && a.Kind == ActionShorten:
			src.grants[i].end = a.End
		case i >= 0:
			src.grants[i].end = src.grants[i].start
		}
	}
}

func (sim *schedulerSim) write(src *simSource) {
	src.credit += src.rate * simStep.Seconds()
	for len(src.grants) > 0 {
		g := src.grants[0]
		if g.sent >= g.end {
			src.grants = src.grants[1:]
			continue
		}
		next := sim.s.units.Cut(g.sent, testFrame, g.end)
		if src.credit < float64(next-g.sent) {
			return
		}
		src.credit -= float64(next - g.sent)
		data := Action{Grant: g.id, Start: g.sent, End: next}
		src.outbox = append(src.outbox, simMessage{at: sim.now.Add(src.rtt / 2), g: g, action: data})
		g.sent = next
	}
	src.credit = 0
}

func (sim *schedulerSim) receive(src *simSource) {
	for len(src.outbox) > 0 && !src.outbox[0].at.After(sim.now) {
		a := src.outbox[0].action
		src.outbox = src.outbox[1:]
		var fresh []rangeset.Range
		for from := a.Start; from < a.End; {
			r, ok := sim.claimed.NextMissing(from, a.End)
			if !ok {
				break
			}
			fresh, from = append(fresh, r), r.End
		}
		sim.wasted += a.End - a.Start - sim.claimed.Add(a.Start, a.End)
		src.total += a.End - a.Start
		src.last = sim.now
		sim.s.Accept(a.Grant, a.End, fresh, sim.now)
		sim.tell()
	}
}

// Sources of different speed finish together, and as soon as their sum allows.
func TestStealingEqualisesFinishTimes(t *testing.T) {
	fast := &simSource{id: "200", rate: 200e6, rtt: 10 * time.Millisecond}
	middle := &simSource{id: "100", rate: 100e6, rtt: 10 * time.Millisecond}
	slow := &simSource{id: "50", rate: 50e6, rtt: 10 * time.Millisecond}
	const total = 700 << 20
	sim := newSchedulerSim(total, 64<<10, slow, middle, fast)
	took := sim.run(time.Minute)
	ideal := time.Duration(total / 350e6 * float64(time.Second))
	if took > ideal+ideal/20 {
		t.Errorf("took %v, the sum of the rates allows %v", took, ideal)
	}
	first, last := fast.last, fast.last
	for _, src := range sim.sources {
		if src.last.Before(first) {
			first = src.last
		}
		if src.last.After(last) {
			last = src.last
		}
		if share := float64(src.total) / total; math.Abs(share-src.rate/350e6) > 0.05 {
			t.Errorf("%s delivered %.0f %%, its part of the rate is %.0f %%", src.id, 100*share, 100*src.rate/350e6)
		}
	}
	if last.Sub(first) > 100*time.Millisecond {
		t.Errorf("the last source ended %v after the first", last.Sub(first))
	}
	if sim.wasted > total/100 {
		t.Errorf("%d bytes were wasted", sim.wasted)
	}
	t.Logf("took %v of %v, spread %v, %d bytes wasted, %d grants", took, ideal, last.Sub(first), sim.wasted, sim.s.last)
}

// A source of a hundredth of the speed costs less than two hundredths of the time.
func TestSlowSourceDoesNotDelay(t *testing.T) {
	for _, unit := range []uint64{16 << 10, 64 << 10, 1 << 20} {
		for _, rate := range []float64{10e6, 100e6} {
			total := uint64(rate * 5)
			fast := func() *simSource { return &simSource{id: "fast", rate: rate, rtt: 10 * time.Millisecond} }
			alone := newSchedulerSim(total, unit, fast()).run(time.Minute)
			slow := &simSource{id: "slow", rate: rate / 100, rtt: 10 * time.Millisecond}
			sim := newSchedulerSim(total, unit, slow, fast())
			took := sim.run(time.Minute)
			if took > alone+alone/50 {
				t.Errorf("unit %d, %v B/s: %v with a slow source, %v without", unit, rate, took, alone)
			}
			if budget := max(int64(total)/100, hedgeUnits*int64(unit)); sim.wasted > budget {
				t.Errorf("unit %d, %v B/s: %d bytes wasted, %d allowed", unit, rate, sim.wasted, budget)
			}
			t.Logf("unit %d, %v B/s: %v, alone %v, wasted %d", unit, rate, took, alone, sim.wasted)
		}
	}
}

// One that trickles, however little, is never waited for; nor is one whose rate is not known yet
// left out.
func TestTrickleIsNotWaitedFor(t *testing.T) {
	for name, add := range map[string]func(sim *schedulerSim){
		"from the start": func(sim *schedulerSim) {
			sim.add(&simSource{id: "honest", rate: 20e6, rtt: 10 * time.Millisecond})
		},
		"when all is granted": func(sim *schedulerSim) {
			sim.run(2 * time.Second)
			sim.add(&simSource{id: "honest", rate: 20e6, rtt: 10 * time.Millisecond})
		},
	} {
		t.Run(name, func(t *testing.T) {
			trickle := &simSource{id: "trickle", rtt: 10 * time.Millisecond}
			sim := newSchedulerSim(900<<10, 64<<10, trickle)
			add(sim)
			start := sim.now
			for range 200 {
				trickle.total++
				if sim.run(50 * time.Millisecond); sim.s.Done() {
					break
				}
			}
			if took := sim.now.Sub(start); !sim.s.Done() || took > 4*time.Second {
				t.Errorf("had %v after %v", &sim.s.had, took)
			}
		})
	}
}

// With any rate, nothing loops, overflows or leaves the stream.
func TestPathologicalRates(t *testing.T) {
	rates := []float64{0, 5e-324, 1e-300, 1e-9, 1, 1e6, 1e12, 1e20, 1e300, math.MaxFloat64, math.Inf(1), math.NaN()}
	for _, a := range rates {
		for _, b := range rates {
			for _, rtt := range []time.Duration{0, time.Millisecond, time.Hour} {
				u, _ := NewUnits(40<<20+1, 1<<16, nil)
				s := New(u, u.total)
				now := time.Unix(1e9, 0)
				s.Start(now)
				s.AddSource(Source{ID: "a", RTT: rtt}, now)
				s.source("a").rate = a
				s.SetQueueLimit("a", MaxGrantsQueued, now)
				s.AddSource(Source{ID: "b", RTT: rtt}, now)
				s.source("b").rate = b
				s.SetQueueLimit("b", MaxGrantsQueued, now)
				for range 3 {
					now = now.Add(time.Millisecond)
					s.Tick(now)
					for _, x := range s.Actions() {
						isInside := 0 <= x.Start && x.Start < x.End && x.End <= u.total
						isWhole := u.IsBoundary(x.Start) && u.IsBoundary(x.End)
						if x.Kind == ActionGrant && !(isInside && isWhole) {
							t.Fatalf("rates %v and %v: grant [%d, %d)", a, b, x.Start, x.End)
						}
					}
				}
			}
		}
	}
}

func TestExtentSizes(t *testing.T) {
	for _, tt := range []struct {
		name  string
		rate  float64
		free  int64
		paths int
		want  int64
	}{
		{"unknown rate", 0, 1 << 30, 1, minExtent},
		{"a tenth of a second", 100e6, 1 << 30, 1, 10e6},
		{"never more than the most", 1e12, 1 << 30, 1, maxExtent},
		{"never less than a quarter of the least", 1, 1 << 30, 1, minExtent / 4},
		{"half of what is left", 100e6, 8 << 20, 1, 4 << 20},
		{"half of its part of what is left", 100e6, 8 << 20, 2, 2 << 20},
	} {
		t.Run(tt.name, func(t *testing.T) {
			u, _ := NewUnits(uint64(tt.free), 0, nil)
			s := New(u, u.total)
			now := time.Unix(1e9, 0)
			for i := range tt.paths {
				s.AddSource(Source{ID: SourceID(rune('a' + i))}, now)
				s.sources[i].rate = tt.rate
			}
			if got := s.extentSize(s.sources[0], now); got != tt.want {
				t.Errorf("extentSize %d, want %d", got, tt.want)
			}
		})
	}
}

// The rate of a source that has just begun is its last rate, because it gets faster with each
// round trip. Later its rate is an average. If the source gets slower, its rate is an average
// from the start.
func TestRateOfASourceThatBegins(t *testing.T) {
	const rtt = 50 * time.Millisecond
	now := time.Unix(1e9, 0)
	u, _ := NewUnits(1<<30, 0, nil)
	s := New(u, u.total)
	s.Start(now)
	s.AddSource(Source{ID: "a", RTT: rtt}, now)
	p, received := s.source("a"), int64(0)
	come := func(n int64) {
		received, now = received+n, now.Add(rtt)
		s.Observe("a", received, rtt, now)
	}
	for n := int64(40_000); n < 40_000<<5; n *= 2 {
		come(n)
		if want := float64(n) / rtt.Seconds(); math.Abs(p.rate-want) > 1 {
			t.Errorf("rate %.0f after %d bytes in %v, want %.0f", p.rate, n, rtt, want)
		}
	}
	high := p.rate
	come(0)
	if want := (1 - rateWeight) * high; math.Abs(p.rate-want) > 1 {
		t.Errorf("rate %.0f after a pause, want %.0f", p.rate, want)
	}
	for range slowStart {
		come(1_000_000)
	}
	steady := p.rate
	come(2_000_000)
	if want := steady + rateWeight*(2_000_000/rtt.Seconds()-steady); math.Abs(p.rate-want) > 1 {
		t.Errorf("rate %.0f, want %.0f", p.rate, want)
	}
}

// Small streams keep a share for the servers that are still connecting, while the others are busy
// with theirs.
func TestExpectedSourcesAreReservedFor(t *testing.T) {
	now := time.Unix(1e9, 0)
	u, _ := NewUnits(900<<10, 64<<10, nil)
	s := New(u, u.total)
	s.Expect(2, now.Add(200*time.Millisecond), now)
	s.AddSource(Source{ID: "a", RTT: 0}, now)
	s.SetQueueLimit("a", testQueueLimit, now)
	s.Start(now)
	if got, part := s.source("a").granted, u.total/3; got < part || got > part+minExtent {
		t.Errorf("%d bytes granted, a third is %d", got, part)
	}
	s.Tick(now.Add(200*time.Millisecond - 1))
	held := s.source("a").granted
	s.Tick(now.Add(200 * time.Millisecond))
	if got := s.source("a").granted; held == u.total || got != u.total {
		t.Errorf("%d bytes granted before, %d after the reserve ended", held, got)
	}
}

// A source that is almost done with its share is granted more at once: the expected ones may be
// out of reach.
func TestExpectedSourcesAreNotWaitedFor(t *testing.T) {
	now := time.Unix(1e9, 0)
	u, _ := NewUnits(1<<20, 64<<10, nil)
	s := New(u, u.total)
	s.Expect(3, now.Add(time.Hour), now)
	s.AddSource(Source{ID: "a", RTT: 0}, now)
	s.SetQueueLimit("a", testQueueLimit, now)
	s.Start(now)
	a := s.source("a")
	for pos := int64(0); pos < u.total; pos += 64 << 10 {
		if a.outstanding() == 0 {
			t.Fatalf("the source waits at byte %d", pos)
		}
		g := a.grants[0]
		s.Accept(g.id, g.pos+64<<10, []rangeset.Range{{Start: g.pos, End: g.pos + 64<<10}}, now)
	}
	if a.granted != u.total {
		t.Errorf("%d bytes granted", a.granted)
	}
}

// stealing sets up a source v that holds all of a stream of 4 MiB, and others that hold nothing.
func stealing(unit uint64, v *source, others ...*source) (*Scheduler, time.Time) {
	u, err := NewUnits(4<<20, unit, nil)
	if err != nil {
		panic(err)
	}
	s, now := New(u, u.total), time.Unix(1e9, 0)
	s.started = true
	s.sources = append(others, v)
	s.grant(v, 0, u.total, now)
	s.Actions()
	return s, now
}

// The part of a stolen tail that exceeds the thief's queue limit goes to another source.
func TestStolenTailThatDoesNotFit(t *testing.T) {
	idle := &source{id: "idle", queueLimit: 4}
	thief := &source{id: "thief", queueLimit: 1, rate: 10e6}
	s, now := stealing(64<<10, &source{id: "victim", queueLimit: 1, rate: 10e6}, idle, thief)
	s.Accept(99, 3<<20+64<<10, []rangeset.Range{{Start: 3 << 20, End: 3<<20 + 64<<10}}, now) // late bytes: a hole
	if len(thief.grants) != 1 || thief.grants[0].end != 3<<20 {
		t.Errorf("the thief has %+v", thief.grants)
	}
	if len(idle.grants) == 0 || idle.grants[0].start != 3<<20+64<<10 {
		t.Errorf("the idle source has %+v", idle.grants)
	}
}

func TestNotWorthStealing(t *testing.T) {
	for _, tt := range []struct {
		name      string
		v, p      source
		wantSteal bool
	}{
		{"from one as fast", source{rate: 1e6}, source{rate: 1e6}, true},
		{"by one that would be done later", source{rate: 1e6}, source{rate: 1e6, rtt: time.Minute}, false},
		{"by one too slow to matter", source{rate: 100e6}, source{rate: 1e6}, false},
		{"from one that is far away but quick", source{rate: 1e12, rtt: time.Second}, source{rate: 1e6}, false},
		{"what is under way to here", source{rate: 1e6, rtt: 10 * time.Second}, source{rate: 1e6}, false},
		{"by one that is stalled", source{rate: 1e6}, source{rate: 1e6, stalled: true}, false},
		{"from one of unknown rate", source{}, source{rate: 1e6}, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			tt.v.id, tt.v.queueLimit, tt.p.id, tt.p.queueLimit = "v", 4, "p", 4
			s, now := stealing(1, &tt.v, &tt.p)
			s.schedule(now)
			if told := s.Actions(); (len(told) > 0) != tt.wantSteal {
				t.Errorf("told %+v", told)
			}
		})
	}
}
