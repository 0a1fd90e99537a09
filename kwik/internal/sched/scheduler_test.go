package sched

import (
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"kwikcp/internal/rangeset"
)

// A schedTest talks to a scheduler of 64-byte units.
type schedTest struct {
	*testing.T
	s   *Scheduler
	now time.Time
}

func newSchedTest(t *testing.T, total, limit int64, ids ...SourceID) *schedTest {
	u, err := NewUnits(uint64(total), 64, nil)
	if err != nil {
		t.Fatal(err)
	}
	st := &schedTest{T: t, s: New(u, limit), now: time.Unix(1e9, 0)}
	for _, id := range ids {
		st.s.AddSource(Source{ID: id, RTT: 10 * time.Millisecond}, st.now)
	}
	return st
}

// want checks the scheduler's actions and their order.
func (t *schedTest) want(reason string, want ...Action) {
	t.Helper()
	got := t.s.Actions()
	if len(got) != len(want) {
		t.Fatalf("%s: told %+v, want %+v", reason, got, want)
	}
	for i := range got {
		if want[i].Grant == 0 {
			want[i].Grant = got[i].Grant
		}
		if got[i] != want[i] {
			t.Fatalf("%s: told %+v, want %+v", reason, got, want)
		}
	}
}

func granted(id SourceID, start, end int64) Action {
	return Action{Kind: ActionGrant, Source: id, Start: start, End: end}
}

func revoked(id SourceID, grant uint64) Action {
	return Action{Kind: ActionRevoke, Source: id, Grant: grant}
}

func (t *schedTest) pass(d time.Duration) {
	t.now = t.now.Add(d)
	t.s.Tick(t.now)
}

func (t *schedTest) accept(grant uint64, start, end int64) {
	t.s.Accept(grant, end, []rangeset.Range{{Start: start, End: end}}, t.now)
}

func TestNothingIsGrantedBeforeTheStart(t *testing.T) {
	st := newSchedTest(t, 1000, 1000, "a")
	st.s.SetQueueLimit("a", 9, st.now)
	st.pass(time.Second)
	st.want("without a consumer")
	st.s.Start(st.now)
	st.want("with a consumer", granted("a", 0, 1000))
}

// The priority extent is granted first, and the bytes before it are granted, too.
func TestPriorityOrdersGrants(t *testing.T) {
	st := newSchedTest(t, 1000, 1000, "a", "b")
	st.s.SetPriority(960, 1000)
	st.s.Start(st.now)
	st.want("the last unit, then the rest", granted("a", 960, 1000), granted("b", 0, 960))
	st.s.RemoveSource("a", st.now)
	st.want("it is still to come first", revoked("a", 1), granted("b", 960, 1000))

	st = newSchedTest(t, 1000, 256, "a")
	st.s.SetPriority(960, 1000)
	st.s.Start(st.now)
	st.want("a limit is a limit", granted("a", 0, 256))
}

func TestLimitOrdersGrants(t *testing.T) {
	st := newSchedTest(t, 1000, 256, "a", "b")
	st.s.Start(st.now)
	st.want("all inside the limit", granted("a", 0, 256))
	for _, limit := range []int64{-1, 0, 255, 256, 319} {
		st.s.SetLimit(limit, st.now)
		st.want("a limit that is no further unit boundary")
	}
	st.s.SetLimit(320, st.now)
	st.want("one unit more", granted("b", 256, 320))
	st.s.SetLimit(128, st.now)
	st.s.SetLimit(1<<40, st.now)
	st.want("everything", granted("b", 320, 1000))
	if st.s.limit != 1000 {
		t.Errorf("limit %d", st.s.limit)
	}
}

// A stall shares the grant that the source is writing and revokes those behind it.
func TestStall(t *testing.T) {
	for _, tt := range []struct {
		rtt, after time.Duration
	}{{0, time.Second}, {250 * time.Millisecond, time.Second}, {251 * time.Millisecond, 1004 * time.Millisecond}} {
		t.Run(tt.rtt.String(), func(t *testing.T) {
			u, _ := NewUnits(10<<20, 64<<10, nil)
			st := &schedTest{T: t, s: New(u, u.total), now: time.Unix(1e9, 0)}
			s := st.s
			s.AddSource(Source{ID: "a", RTT: tt.rtt}, st.now)
			s.Start(st.now)
			grants := s.Actions()
			if len(grants) != 4 {
				t.Fatalf("grants %+v, want 4", grants)
			}
			if n := len(s.source("a").grants); n != 4 {
				t.Fatalf("%d grants are queued, want 4", n)
			}

			st.pass(tt.after - 1)
			st.want("too early for a stall")
			st.pass(1)
			if !s.Stalled("a") {
				t.Fatal("the source is not stalled")
			}
			st.want("all but the first, newest first",
				revoked("a", grants[3].Grant), revoked("a", grants[2].Grant), revoked("a", grants[1].Grant))
			if s.free.Total() != u.total {
				t.Errorf("free %v, want all", &s.free)
			}
			if !s.source("a").grants[0].shared {
				t.Error("the first grant is not shared")
			}

			// Another source gets the head at once. Once it has delivered it, the stalled one is
			// told.
			s.AddSource(Source{ID: "b", RTT: tt.rtt}, st.now)
			actions := s.Actions()
			if len(actions) == 0 {
				t.Fatal("the second source got no work")
			}
			head := actions[0]
			if head.Source != "b" || head.Start != 0 {
				t.Fatalf("first action %+v, want the head of the stream for b", head)
			}
			st.accept(head.Grant, 0, head.End)
			if after := s.Actions(); len(after) == 0 || after[0] != revoked("a", grants[0].Grant) {
				t.Errorf("actions %+v, want the first grant revoked", after)
			}
		})
	}
}

// A stalled source without work is tried again, at most once in a stall's time.
func TestProbes(t *testing.T) {
	st := newSchedTest(t, 1<<20, 1<<20, "a")
	st.s.Start(st.now)
	st.s.Actions()
	st.pass(time.Second)
	st.s.Actions()
	var probes []time.Time
	for range 100 {
		if p := st.s.source("a"); len(p.grants) > 0 {
			st.s.CloseGrant(p.grants[0].id, st.now) // it gives up at once
		}
		for _, a := range st.s.Actions() {
			if a.Kind == ActionGrant {
				probes = append(probes, st.now)
			}
		}
		if st.s.free.Total() != st.s.units.total {
			t.Fatalf("a probe took bytes from others: free %v", &st.s.free)
		}
		st.pass(100 * time.Millisecond)
	}
	for i := 1; i < len(probes); i++ {
		if d := probes[i].Sub(probes[i-1]); d < MinStall {
			t.Errorf("probed again after %v", d)
		}
	}
	if len(probes) < 9 || len(probes) > 11 {
		t.Errorf("%d probes in 10 s", len(probes))
	}
}

// A sole source that resumes continues its grant, and is granted none of it again.
func TestReturnIsNotGrantedTwice(t *testing.T) {
	st := newSchedTest(t, 1<<20, 1<<20, "a")
	st.s.Start(st.now)
	st.s.Actions()
	st.pass(time.Second)
	st.s.Actions()
	head := st.s.source("a").grants[0]
	st.s.Observe("a", 100, 0, st.now)
	st.pass(TickInterval)
	for _, a := range st.s.Actions() {
		if a.Kind == ActionGrant && a.Start < head.end {
			t.Errorf("granted [%d, %d), it holds [%d, %d) already", a.Start, a.End, head.pos, head.end)
		}
	}
	if head.shared {
		t.Error("a grant of which no other source took a part is still shared")
	}
}

// Bytes under way when a grant was shortened or taken back count, once.
func TestLateBytesCount(t *testing.T) {
	st := newSchedTest(t, 1024, 1024, "a")
	st.s.Start(st.now)
	st.want("all to the only source", granted("a", 0, 1024))
	g := st.s.source("a").grants[0]
	st.s.shorten(g, 512)
	st.s.Actions()
	st.s.source("a").queueLimit = 1 // so that it gets no new grant
	st.accept(g.id, 0, 640)
	if got := st.s.had.String(); got != "{[0,640)}" {
		t.Errorf("had %s", got)
	}
	if st.s.had.Overlap(0, 1024)+st.s.free.Total() > 1024 {
		t.Errorf("had %v, free %v", &st.s.had, &st.s.free)
	}
	start, end, granted, ok := st.s.Extent("a", g.id)
	if !ok || start != 0 || granted != 1024 {
		t.Errorf("known %v: granted [%d, %d), want [0, 1024)", ok, start, granted)
	}
	if end > 640 {
		t.Errorf("the grant ends at %d after 640 bytes", end)
	}
	if n := st.s.CloseGrant(g.id, st.now); n != 0 {
		t.Errorf("%d bytes undelivered of a grant that was shortened", n)
	}
	if _, _, _, ok := st.s.Extent("a", g.id); ok {
		t.Error("a grant whose stream has ended is still known")
	}
}

// The grants of a removed source are revoked and remain known, until it is added again. Those of
// another source are unknown to it.
func TestGrantsOfARemovedSource(t *testing.T) {
	st := newSchedTest(t, 1024, 1024, "a")
	st.s.Start(st.now)
	st.s.Actions()
	st.s.RemoveSource("a", st.now)
	st.want("the source may still write, and must stop", revoked("a", 1))
	if _, _, _, ok := st.s.Extent("a", 1); !ok {
		t.Error("its grant is foreign")
	}
	if _, _, _, ok := st.s.Extent("b", 1); ok {
		t.Error("its grant is another's")
	}
	st.accept(1, 0, 64)
	st.s.AddSource(Source{ID: "a", RTT: 0}, st.now)
	st.want("the rest", granted("a", 64, 1024))
	if _, _, _, ok := st.s.Extent("a", 1); ok {
		t.Error("a new connection answers a grant of the old one")
	}
	if _, _, _, ok := st.s.Extent("a", 2); !ok {
		t.Error("a new grant is foreign")
	}
}

// Grants that are taken back and never answered do not pile up.
func TestTakenBackGrantsAreForgotten(t *testing.T) {
	st := newSchedTest(t, 1<<20, 1<<20, "a")
	st.s.Start(st.now)
	p := st.s.source("a")
	for range 3 * MaxRevoked {
		if len(p.grants) == 0 {
			st.s.schedule(st.now)
		}
		st.s.revoke(p.grants[0])
	}
	if n := len(st.s.grants); n > MaxRevoked+len(p.grants) {
		t.Errorf("%d grants are known", n)
	}
	if _, _, _, ok := st.s.Extent("a", st.s.last); !ok {
		t.Error("the newest is forgotten")
	}
}

// A chooser makes the decisions of a run: a random generator, or the bytes of a fuzzer.
type chooser interface {
	below(n int) int // a number in [0, n), n >= 1
	more() bool      // whether there are decisions left
}

type randomChooser struct {
	*rand.Rand
	left int
}

func (c *randomChooser) below(n int) int { return c.IntN(n) }
func (c *randomChooser) more() bool      { c.left--; return c.left >= 0 }

type byteChooser struct{ data []byte }

func (c *byteChooser) more() bool { return len(c.data) > 0 }
func (c *byteChooser) below(n int) int {
	if len(c.data) == 0 {
		return 0
	}
	v := int(c.data[0])
	c.data = c.data[1:]
	if n > 256 && len(c.data) > 0 {
		v = v<<8 | int(c.data[0])
		c.data = c.data[1:]
	}
	return v % n
}

// runSchedulerModel runs the model to its end with the decisions of choose, which makes the same
// ones each time. Only a run that fails is written down, in a second run.
func runSchedulerModel(choose func() chooser, verbose bool, fatal func(format string, args ...any)) {
	failed := false
	func() {
		defer func() {
			if r := recover(); r == errModelFailed {
				failed = true
			} else if r != nil {
				panic(r)
			}
		}()
		newSchedulerModel(choose(), false, func(string, ...any) { panic(errModelFailed) }).run()
	}()
	if !failed {
		return
	}
	var m *schedulerModel
	m = newSchedulerModel(choose(), true, func(format string, args ...any) {
		history := m.history
		if !verbose {
			history = history[max(0, len(history)-25):]
		}
		fatal("%s: %s\n\t%s", m.event, fmt.Sprintf(format, args...), strings.Join(history, "\n\t"))
	})
	m.run()
}

var errModelFailed = errors.New("the model's first run failed")

var (
	modelSeed  = flag.Int64("model.seed", -1, "run TestSchedulerModel with this seed only and print its whole history on failure")
	modelSeeds = flag.Int64("model.seeds", 1500, "run TestSchedulerModel with so many seeds")
)

func TestSchedulerModel(t *testing.T) {
	first, seeds := int64(0), *modelSeeds
	if *modelSeed >= 0 {
		first, seeds = *modelSeed, 1
	}
	for seed := first; seed < first+seeds; seed++ {
		watch := time.AfterFunc(20*time.Second, func() { panic(fmt.Sprintf("scheduler does not terminate: -model.seed=%d", seed)) })
		choose := func() chooser {
			return &randomChooser{Rand: rand.New(rand.NewPCG(uint64(seed), 1)), left: 80}
		}
		runSchedulerModel(choose, *modelSeed >= 0, func(format string, args ...any) {
			t.Fatalf("-model.seed=%d: %s", seed, fmt.Sprintf(format, args...))
		})
		watch.Stop()
	}
}

func FuzzScheduler(f *testing.F) {
	for seed := range byte(8) {
		b := make([]byte, 200)
		rand.NewChaCha8([32]byte{seed}).Read(b)
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		watch := time.AfterFunc(10*time.Second, func() { panic("scheduler does not terminate") })
		defer watch.Stop()
		data = data[:min(len(data), 4096)]
		runSchedulerModel(func() chooser { return &byteChooser{data: data} }, false, t.Fatalf)
	})
}
