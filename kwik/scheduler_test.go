package kwik

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
	s   *scheduler
	now time.Time
}

func newSchedTest(t *testing.T, total, limit int64, ids ...PathID) *schedTest {
	u, err := newUnits(uint64(total), 64, nil)
	if err != nil {
		t.Fatal(err)
	}
	st := &schedTest{T: t, s: newScheduler(u, limit), now: time.Unix(1e9, 0)}
	for _, id := range ids {
		st.s.addPath(id, 10*time.Millisecond, st.now)
	}
	return st
}

// want checks what the scheduler tells, and in which order.
func (t *schedTest) want(reason string, want ...schedAction) {
	t.Helper()
	got := t.s.take()
	if len(got) != len(want) {
		t.Fatalf("%s: told %+v, want %+v", reason, got, want)
	}
	for i := range got {
		if want[i].grant == 0 {
			want[i].grant = got[i].grant
		}
		if got[i] != want[i] {
			t.Fatalf("%s: told %+v, want %+v", reason, got, want)
		}
	}
}

func granted(path PathID, start, end int64) schedAction {
	return schedAction{kind: schedGrantExtent, path: path, start: start, end: end}
}

func revoked(path PathID, grant uint64) schedAction {
	return schedAction{kind: schedRevoke, path: path, grant: grant}
}

func (t *schedTest) pass(d time.Duration) {
	t.now = t.now.Add(d)
	t.s.tick(t.now)
}

func (t *schedTest) accept(grant uint64, start, end int64) {
	t.s.accept(grant, end, []rangeset.Range{{Start: start, End: end}}, t.now)
}

func TestNothingIsGrantedBeforeTheStart(t *testing.T) {
	st := newSchedTest(t, 1000, 1000, "a")
	st.s.setRoom("a", 9, st.now)
	st.pass(time.Second)
	st.want("nobody wants the bytes")
	st.s.start(st.now)
	st.want("now somebody does", granted("a", 0, 1000))
}

// What is to come first is granted first, and does not hide what comes before it.
func TestFirstOrdersGrants(t *testing.T) {
	st := newSchedTest(t, 1000, 1000, "a", "b")
	st.s.first = rangeset.Range{Start: 960, End: 1000}
	st.s.start(st.now)
	st.want("the last unit, then the rest", granted("a", 960, 1000), granted("b", 0, 960))
	st.s.removePath("a", st.now)
	st.want("it is still to come first", revoked("a", 1), granted("b", 960, 1000))

	st = newSchedTest(t, 1000, 256, "a")
	st.s.first = rangeset.Range{Start: 960, End: 1000}
	st.s.start(st.now)
	st.want("a limit is a limit", granted("a", 0, 256))
}

func TestLimitOrdersGrants(t *testing.T) {
	st := newSchedTest(t, 1000, 256, "a", "b")
	st.s.start(st.now)
	st.want("all inside the limit", granted("a", 0, 256))
	for _, limit := range []int64{-1, 0, 255, 256, 319} {
		st.s.setLimit(limit, st.now)
		st.want("a limit that is no further unit boundary")
	}
	st.s.setLimit(320, st.now)
	st.want("one unit more", granted("b", 256, 320))
	st.s.setLimit(128, st.now)
	st.s.setLimit(1<<40, st.now)
	st.want("everything", granted("b", 320, 1000))
	if st.s.limit != 1000 {
		t.Errorf("limit %d", st.s.limit)
	}
}

// A stall shares what the source is writing and takes back what waits behind it.
func TestStall(t *testing.T) {
	for _, tt := range []struct {
		rtt, after time.Duration
	}{{0, time.Second}, {250 * time.Millisecond, time.Second}, {251 * time.Millisecond, 1004 * time.Millisecond}} {
		u, _ := newUnits(10<<20, 64<<10, nil)
		s := newScheduler(u, u.total)
		now := time.Unix(1e9, 0)
		s.addPath("a", tt.rtt, now)
		s.start(now)
		grants := s.take()
		if len(grants) != 4 || len(s.path("a").grants) != 4 {
			t.Fatalf("grants %+v", grants)
		}
		if changed := s.tick(now.Add(tt.after - 1)); changed != nil || len(s.take()) > 0 {
			t.Fatalf("rtt %v: stalled too early", tt.rtt)
		}
		now = now.Add(tt.after)
		if changed := s.tick(now); len(changed) != 1 || changed[0] != "a" {
			t.Fatalf("rtt %v: changed %v", tt.rtt, changed)
		}
		told := s.take()
		for i, a := range told {
			if want := revoked("a", grants[len(grants)-1-i].grant); a != want || len(told) != 3 {
				t.Fatalf("rtt %v: told %+v", tt.rtt, told)
			}
		}
		if s.free.Total() != u.total || !s.path("a").grants[0].shared {
			t.Errorf("rtt %v: free %v", tt.rtt, &s.free)
		}
		// Another source gets the head at once; when it has delivered it, the stalled one is told.
		s.addPath("b", tt.rtt, now)
		told = s.take()
		if len(told) == 0 || told[0].path != "b" || told[0].start != 0 {
			t.Fatalf("told %+v", told)
		}
		s.accept(told[0].grant, told[0].end, []rangeset.Range{{Start: 0, End: told[0].end}}, now)
		if after := s.take(); len(after) < 1 || after[0] != revoked("a", grants[0].grant) {
			t.Errorf("told %+v", after)
		}
	}
}

// A stalled source without work is tried again, at most once in a stall's time.
func TestProbes(t *testing.T) {
	st := newSchedTest(t, 1<<20, 1<<20, "a")
	st.s.start(st.now)
	st.s.take()
	st.pass(time.Second)
	st.s.take()
	var probes []time.Time
	for range 100 {
		if p := st.s.path("a"); len(p.grants) > 0 {
			st.s.closed(p.grants[0].id, st.now) // it gives up at once
		}
		for _, a := range st.s.take() {
			if a.kind == schedGrantExtent {
				probes = append(probes, st.now)
			}
		}
		if st.s.free.Total() != st.s.units.total {
			t.Fatalf("a probe took bytes from others: free %v", &st.s.free)
		}
		st.pass(100 * time.Millisecond)
	}
	for i := 1; i < len(probes); i++ {
		if d := probes[i].Sub(probes[i-1]); d < minStall {
			t.Errorf("probed again after %v", d)
		}
	}
	if len(probes) < 9 || len(probes) > 11 {
		t.Errorf("%d probes in 10 s", len(probes))
	}
}

// A sole source that comes back goes on with what it has, and is granted none of it again.
func TestReturnIsNotGrantedTwice(t *testing.T) {
	st := newSchedTest(t, 1<<20, 1<<20, "a")
	st.s.start(st.now)
	st.s.take()
	st.pass(time.Second)
	st.s.take()
	head := st.s.path("a").grants[0]
	st.s.observe("a", 100, 0, st.now)
	st.pass(tickInterval)
	for _, a := range st.s.take() {
		if a.kind == schedGrantExtent && a.start < head.end {
			t.Errorf("granted [%d, %d), it holds [%d, %d) already", a.start, a.end, head.pos, head.end)
		}
	}
	if head.shared {
		t.Error("what nobody else took is still shared")
	}
}

// Bytes under way when a grant was shortened or taken back count, once.
func TestLateBytesCount(t *testing.T) {
	st := newSchedTest(t, 1024, 1024, "a")
	st.s.start(st.now)
	st.want("all to the only source", granted("a", 0, 1024))
	g := st.s.path("a").grants[0]
	st.s.shorten(g, 512)
	st.s.take()
	st.s.path("a").room = 1 // so that no new grant comes in the way
	st.accept(g.id, 0, 640)
	if got := st.s.had.String(); got != "{[0,640)}" {
		t.Errorf("had %s", got)
	}
	if st.s.had.Overlap(0, 1024)+st.s.free.Total() > 1024 {
		t.Errorf("had %v, free %v", &st.s.had, &st.s.free)
	}
	if start, end, granted, ok := st.s.extent("a", g.id); !ok || start != 0 || end > 640 || granted != 1024 {
		t.Errorf("extent [%d, %d), first to %d, %v", start, end, granted, ok)
	}
	if n := st.s.closed(g.id, st.now); n != 0 {
		t.Errorf("%d bytes undelivered of a grant that was shortened", n)
	}
	if _, _, _, ok := st.s.extent("a", g.id); ok {
		t.Error("a grant whose stream has ended is still known")
	}
}

// The grants of a source that was taken out are taken back, not foreign, until it comes again or names another's.
func TestGrantsOfARemovedSource(t *testing.T) {
	st := newSchedTest(t, 1024, 1024, "a")
	st.s.start(st.now)
	st.s.take()
	st.s.removePath("a", st.now)
	st.want("it may be there still, and shall stop", revoked("a", 1))
	if _, _, _, ok := st.s.extent("a", 1); !ok {
		t.Error("its grant is foreign")
	}
	if _, _, _, ok := st.s.extent("b", 1); ok {
		t.Error("its grant is another's")
	}
	st.accept(1, 0, 64)
	st.s.addPath("a", 0, st.now)
	st.want("the rest", granted("a", 64, 1024))
	if _, _, _, ok := st.s.extent("a", 1); ok {
		t.Error("a new connection answers a grant of the old one")
	}
	if _, _, _, ok := st.s.extent("a", 2); !ok {
		t.Error("a new grant is foreign")
	}
}

// Grants that are taken back and never answered do not pile up.
func TestTakenBackGrantsAreForgotten(t *testing.T) {
	st := newSchedTest(t, 1<<20, 1<<20, "a")
	st.s.start(st.now)
	p := st.s.path("a")
	for range 3 * maxTakenBack {
		if len(p.grants) == 0 {
			st.s.fill(st.now)
		}
		st.s.revoke(p.grants[0])
	}
	if n := len(st.s.grants); n > maxTakenBack+len(p.grants) {
		t.Errorf("%d grants are known", n)
	}
	if _, _, _, ok := st.s.extent("a", st.s.last); !ok {
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

// runSchedulerModel runs the model to its end with the decisions of choose, which makes the same ones each time. Only
// a run that fails is written down, in a second run.
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
		f.Add(randomBytes(seed, 200))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		watch := time.AfterFunc(10*time.Second, func() { panic("scheduler does not terminate") })
		defer watch.Stop()
		data = data[:min(len(data), 4096)]
		runSchedulerModel(func() chooser { return &byteChooser{data: data} }, false, t.Fatalf)
	})
}
