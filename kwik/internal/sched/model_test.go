package sched

import (
	"fmt"
	"slices"
	"time"

	"kwikcp/internal/rangeset"
)

// The model of this file drives a scheduler with events in any order and checks after each of
// them:
//
//   - had, free and the remainders of exclusive grants never overlap at a missing byte, so no byte
//     is granted exclusively twice;
//   - had, free and these remainders together are the whole stream, so no byte is lost;
//   - grants are whole units inside the limit, and no queue exceeds its limit;
//   - the actions, replayed on the sources' state, give the grants of the scheduler;
//   - a source that is not stalled and not held back has work while something is free (Observe
//     leaves that to Tick);
//   - the scheduler handles each event with a bounded number of actions.
//
// At the end one source is honest and the others are not, and the stream must be complete in
// bounded time.

const (
	modelHeadStart = 1 << 20 // longer head starts do not occur
	modelStrikes   = 3       // a source that gives up so many grants in a row is removed
)

// A modelGrant is a grant as its source knows it.
type modelGrant struct {
	id         uint64
	path       SourceID
	start, end int64
	granted    int64 // the end as first granted
	sent       int64 // bytes before it were written
	pos        int64 // of this, accepted, but for what is past end
	revoked    bool
	writing    bool // a delivery is between claim and accept
}

func (g *modelGrant) live() bool { return !g.revoked && g.pos < g.end }

// A modelSource is a source that is attached.
type modelSource struct {
	id         SourceID
	queueLimit int
	strikes    int
	received   int64
	rtt        time.Duration
	draining   bool
	missing    rangeset.Set
	grants     []*modelGrant // in the order of their actions, until their streams end
}

// A modelDelivery has been claimed and is not accepted yet.
type modelDelivery struct {
	g     *modelGrant
	end   int64
	fresh []rangeset.Range
}

type schedulerModel struct {
	choose   chooser
	fatal    func(format string, args ...any)
	s        *Scheduler
	u        Units
	now      time.Time
	sources  []*modelSource
	orphans  []*modelGrant // of removed sources: bytes may be in flight
	claimed  rangeset.Set
	limbo    []*modelDelivery
	event    string // the present event
	observed bool   // a source may have resumed, and no tick has passed
	history  []string
	record   bool // history is kept
}

func (m *schedulerModel) run() {
	for m.choose.more() {
		m.step()
	}
	m.finish()
}

// text formats an entry of the record.
func (m *schedulerModel) text(format string, args ...any) string {
	if !m.record {
		return ""
	}
	return fmt.Sprintf(format, args...)
}

func (m *schedulerModel) note(s string) {
	if m.record {
		m.history = append(m.history, s)
	}
}

func newSchedulerModel(choose chooser, record bool, fatal func(string, ...any)) *schedulerModel {
	m := &schedulerModel{choose: choose, now: time.Unix(1e9, 0), record: record, fatal: fatal}
	size := []uint64{0, 1000, 64 << 10, 256<<10 + 3, 1 << 20}[choose.below(5)]
	total := uint64(1 + choose.below(50000))
	if choose.below(4) > 0 {
		total *= 700
	}
	var segments []uint64
	for left := total; choose.below(3) > 0 && left > 1; {
		n := 1 + uint64(choose.below(int(min(left-1, 60000))))
		segments, left = append(segments, n), left-n
		total = max(total, 1)
	}
	if segments != nil {
		sum := uint64(0)
		for _, n := range segments {
			sum += n
		}
		if sum < total {
			segments = append(segments, total-sum)
		}
	}
	u, err := NewUnits(total, size, segments)
	if err != nil {
		m.fatal("NewUnits(%d, %d, %v): %v", total, size, segments, err)
	}
	m.u = u
	limit := u.total
	if choose.below(2) == 0 {
		limit = u.Ceil(int64(choose.below(8)) << 18)
	}
	m.s = New(u, limit)
	if end := u.Floor(int64(choose.below(modelHeadStart))); choose.below(4) == 0 && end > 0 {
		grants := []*modelGrant{{id: 1, path: "a", end: end, granted: end}}
		m.sources = append(m.sources, &modelSource{id: "a", queueLimit: DefaultQueueLimit, grants: grants})
		m.s.AddHeadStart(Source{ID: "a", RTT: 0}, end, m.now)
	}
	if start := u.Floor(int64(choose.below(int(min(u.total, 1<<30))))); choose.below(4) == 0 {
		end := u.Ceil(min(start+1+int64(choose.below(1<<20)), u.total))
		m.claimed.Add(start, end)
		m.s.MarkHad(start, end)
	}
	if total&1 == 1 { // not of choose: what its seeds found stays what it was
		m.s.SetPriority(u.Floor(u.total-1), u.total)
	}
	return m
}

// do performs one event and checks everything.
func (m *schedulerModel) do(event string, f func()) {
	m.event = event
	m.note(event)
	m.observed = false
	f()
	m.replay()
	m.check()
}

func (m *schedulerModel) source(id SourceID) *modelSource {
	for _, src := range m.sources {
		if src.id == id {
			return src
		}
	}
	return nil
}

// replay gives the scheduler's actions to the sources.
func (m *schedulerModel) replay() {
	actions := m.s.Actions()
	if most := (MaxGrantsQueued*4 + 8) * (len(m.s.sources) + 2); len(actions) > most {
		m.fatal("%d actions at once", len(actions))
	}
	for _, a := range actions {
		kind := []string{"grant", "shorten", "revoke"}[a.Kind]
		m.note(m.text("  -> %s %v grant %d [%d, %d)", a.Source, kind, a.Grant, a.Start, a.End))
		src := m.source(a.Source)
		if src == nil {
			if a.Kind == ActionGrant {
				m.fatal("grant %d to %s, which is not there", a.Grant, a.Source)
			}
			continue
		}
		if a.Kind == ActionGrant {
			live := 0
			for _, g := range src.grants {
				if g.live() {
					live++
				}
			}
			switch {
			case src.draining && m.s.isReplaceable(m.s.source(src.id)):
				m.fatal("grant %d to %s, which is to leave, though there are others", a.Grant, src.id)
			case live >= src.queueLimit:
				m.fatal("grant %d makes %d in a room of %d", a.Grant, live+1, src.queueLimit)
			case src.missing.Overlap(a.Start, a.End) > 0:
				m.fatal("grant [%d, %d) to %s, which lacks %v", a.Start, a.End, src.id, &src.missing)
			case a.Start < 0 || a.Start >= a.End || a.End > m.s.limit:
				m.fatal("grant [%d, %d) with limit %d", a.Start, a.End, m.s.limit)
			case !m.u.IsBoundary(a.Start) || !m.u.IsBoundary(a.End):
				m.fatal("grant [%d, %d) is off the unit boundaries", a.Start, a.End)
			}
			granted := &modelGrant{id: a.Grant, path: src.id, start: a.Start, end: a.End, granted: a.End}
			granted.sent, granted.pos = a.Start, a.Start
			src.grants = append(src.grants, granted)
			continue
		}
		i := slices.IndexFunc(src.grants, func(g *modelGrant) bool { return g.id == a.Grant })
		if i < 0 {
			m.fatal("action %d for grant %d, which %s does not have", a.Kind, a.Grant, a.Source)
			return
		}
		switch g := src.grants[i]; {
		case a.Kind == ActionRevoke:
			g.revoked = true
		case a.End >= g.end || a.End < g.pos || !m.u.IsBoundary(a.End):
			m.fatal("grant %d [%d, %d) shortened to %d", g.id, g.pos, g.end, a.End)
		default:
			g.end = a.End
		}
	}
}

// check compares the scheduler with the model.
func (m *schedulerModel) check() {
	s := m.s
	all := s.had.Clone() // had, then also limbo, then also free and exclusive
	for r := range s.free.All() {
		if s.had.Overlap(r.Start, r.End) > 0 {
			m.fatal("had bytes of %v are free", r)
		}
		if !m.u.IsBoundary(r.Start) || !m.u.IsBoundary(r.End) {
			m.fatal("free %v is off the unit boundaries", r)
		}
		all.Add(r.Start, r.End)
	}
	owned := s.free.Clone()
	for _, p := range s.sources {
		src := m.source(p.id)
		var live []*modelGrant
		for _, g := range src.grants {
			if g.live() {
				live = append(live, g)
			}
		}
		if len(live) != len(p.grants) {
			m.fatal("%s has %d grants, the scheduler thinks %d", p.id, len(live), len(p.grants))
			return
		}
		for i, g := range p.grants {
			if h := live[i]; g.id != h.id || g.pos != h.pos || g.end != h.end || g.start != h.start || g.granted != h.granted {
				m.fatal("%s has grant %+v, the scheduler thinks %+v", p.id, *h, *g)
			}
			if s.grants[g.id] != g {
				m.fatal("grant %d is queued but not known", g.id)
			}
			if g.shared {
				continue
			}
			if n := owned.Add(g.pos, g.end); n != g.remainder() {
				m.fatal("%d bytes of grant %d [%d, %d) are free or another's as well", g.remainder()-n, g.id, g.pos, g.end)
			}
			all.Add(g.pos, g.end)
		}
		if _, stray := s.freeIn(p, 0, s.limit); stray && s.started && !m.observed && !p.stalled && len(p.grants) == 0 && !s.hasEqualPart(p, m.now) && !s.isReplaceable(p) {
			m.fatal("%s has nothing to do while %v is free below %d", p.id, &s.free, s.limit)
		}
	}
	for _, d := range m.limbo {
		for _, r := range d.fresh {
			all.Add(r.Start, r.End)
		}
	}
	if r, lost := all.NextMissing(0, m.u.total); lost {
		m.fatal("%v is lost", r)
	}
	if s.Done() != (s.had.Total() == m.u.total) || !s.Has(0, m.u.total) == s.Done() {
		m.fatal("done %v with %v", s.Done(), &s.had)
	}
}

// deliver lets the source of g write up to end, which is at most g.granted. Unless settle is
// false, which is a slow disk, it accepts the bytes as well.
func (m *schedulerModel) deliver(g *modelGrant, end int64, settle bool) {
	d := &modelDelivery{g: g, end: end}
	for from := g.sent; from < end; {
		r, ok := m.claimed.NextMissing(from, end)
		if !ok {
			break
		}
		d.fresh = append(d.fresh, r)
		from = r.End
	}
	m.claimed.Add(g.sent, end)
	if src := m.source(g.path); src != nil {
		src.received += end - g.sent
	}
	g.sent, g.writing = end, true
	if m.limbo = append(m.limbo, d); settle {
		m.settle(len(m.limbo) - 1)
	}
}

// settle accepts a delivery.
func (m *schedulerModel) settle(i int) {
	d := m.limbo[i]
	m.limbo = slices.Delete(m.limbo, i, i+1)
	m.do(m.text("accept grant %d to %d, fresh %v", d.g.id, d.end, d.fresh), func() {
		d.g.writing = false
		d.g.pos = max(d.g.pos, min(d.end, d.g.end))
		m.s.Accept(d.g.id, d.end, d.fresh, m.now)
	})
}

// end ends the stream of a grant.
func (m *schedulerModel) end(g *modelGrant) {
	drop := func(h *modelGrant) bool { return h == g }
	m.do(m.text("grant %d [%d, %d) closed at %d", g.id, g.start, g.end, g.sent), func() {
		want := int64(0)
		if src := m.source(g.path); src != nil && slices.ContainsFunc(src.grants, drop) {
			if g.live() {
				want = g.end - g.pos
			}
			src.grants = slices.DeleteFunc(src.grants, drop)
		}
		m.orphans = slices.DeleteFunc(m.orphans, drop)
		if n := m.s.CloseGrant(g.id, m.now); n != want {
			m.fatal("closed says that %d are undelivered, want %d", n, want)
		}
	})
}

func (m *schedulerModel) add(id SourceID, rtt time.Duration) {
	if m.source(id) != nil {
		return
	}
	m.do(m.text("add %s, rtt %v", id, rtt), func() {
		m.sources = append(m.sources, &modelSource{id: id, queueLimit: DefaultQueueLimit, rtt: rtt})
		m.s.AddSource(Source{ID: id, RTT: rtt}, m.now)
	})
}

func (m *schedulerModel) remove(src *modelSource) {
	m.do(m.text("remove %s", src.id), func() {
		m.sources = slices.DeleteFunc(m.sources, func(o *modelSource) bool { return o == src })
		m.orphans = append(m.orphans, src.grants...)
		m.s.RemoveSource(src.id, m.now)
	})
}

func (m *schedulerModel) observe(src *modelSource) {
	m.do(m.text("observe %s: %d", src.id, src.received), func() {
		m.s.Observe(src.id, src.received, src.rtt, m.now)
		m.observed = true
	})
}

func (m *schedulerModel) tick(step time.Duration) {
	m.now = m.now.Add(step)
	m.do(m.text("tick %v", step), func() { m.s.Tick(m.now) })
}

var modelRTTs = []time.Duration{0, time.Millisecond, 20 * time.Millisecond, 100 * time.Millisecond, 700 * time.Millisecond}

// step performs one event of the first part, in which anything may happen.
func (m *schedulerModel) step() {
	choose := m.choose
	var src *modelSource
	if len(m.sources) > 0 {
		src = m.sources[choose.below(len(m.sources))]
	}
	switch what := choose.below(26); {
	case what == 0 || src == nil:
		m.add(SourceID("abcdef"[choose.below(6):][:1]), modelRTTs[choose.below(len(modelRTTs))])
	case what == 1:
		m.do("start", func() { m.s.Start(m.now) })
	case what == 2:
		m.remove(src)
	case what == 24:
		m.do(m.text("%s leaves", src.id), func() {
			src.draining = true
			m.s.Drain(src.id, m.now)
		})
	case what == 25:
		start := m.u.Floor(int64(choose.below(int(min(m.u.total, 1<<30)))))
		end := m.u.Ceil(min(start+1+int64(choose.below(1<<20)), m.u.total))
		m.do(m.text("%s lacks [%d, %d)", src.id, start, end), func() {
			src.missing.Add(start, end)
			m.s.MarkMissing(src.id, start, end, m.now)
		})
	case what == 3:
		src.queueLimit = 1 + choose.below(MaxGrantsQueued)
		m.do(m.text("queue limit of %s is %d", src.id, src.queueLimit), func() { m.s.SetQueueLimit(src.id, src.queueLimit, m.now) })
	case what == 4:
		limit := m.s.limit + int64(choose.below(1<<16))*50
		m.do(m.text("limit %d", limit), func() {
			m.observed = m.u.Floor(limit) <= m.s.limit // a limit that does not move does nothing
			m.s.SetLimit(limit, m.now)
		})
	case what == 5:
		n, wait := choose.below(3), time.Duration(choose.below(300))*time.Millisecond
		m.do(m.text("expect %d for %v", n, wait), func() { m.s.Expect(n, m.now.Add(wait), m.now) })
	case what < 9:
		src.received += []int64{0, 1, 1 << 16, 1 << 24, 1 << 50}[choose.below(5)]
		m.observe(src)
	case what < 13:
		for _, o := range m.sources {
			switch choose.below(8) {
			case 0, 1: // silent
			case 2:
				m.do(m.text("excuse %s", o.id), func() {
					m.s.ResetStallTimer(o.id, m.now)
					m.observed = true
				})
			default:
				m.observe(o)
			}
		}
		m.tick([]time.Duration{0, time.Millisecond, 50 * time.Millisecond, 400 * time.Millisecond, time.Second, 3 * time.Second}[choose.below(6)])
	case what == 13:
		if len(m.limbo) > 0 {
			m.settle(choose.below(len(m.limbo)))
		}
	case what == 14:
		if len(m.orphans) > 0 {
			m.late(m.orphans[choose.below(len(m.orphans))])
		}
	case what == 15:
		if len(src.grants) > 0 {
			m.late(src.grants[choose.below(len(src.grants))])
		}
	case what == 16:
		if len(src.grants) > 0 && !src.grants[0].writing {
			m.end(src.grants[0]) // whether it was written or not
		}
	default:
		m.write(src, 1+int64(choose.below(1<<10))<<10, choose.below(4) > 0)
	}
}

// write continues a source. It ends grants that are complete or revoked, and writes at most about
// most bytes of the next grant.
func (m *schedulerModel) write(src *modelSource, most int64, settle bool) (n int64) {
	for len(src.grants) > 0 {
		g := src.grants[0]
		if g.writing {
			return 0
		}
		if !g.revoked && g.sent < g.end {
			from := g.sent
			m.deliver(g, m.u.Cut(from, most, g.end), settle)
			return g.sent - from
		}
		m.end(g)
	}
	return 0
}

// late delivers bytes that were in flight when their grant was shortened or revoked.
func (m *schedulerModel) late(g *modelGrant) {
	if !g.writing && g.sent < g.granted && (g.revoked || g.sent >= g.end || m.source(g.path) == nil) {
		m.deliver(g, m.u.Cut(g.sent, 1<<18, g.granted), m.choose.below(2) == 0)
	}
}

// finish makes one source honest and fast enough, while the others act freely. It expects a
// complete stream.
func (m *schedulerModel) finish() {
	for len(m.limbo) > 0 {
		m.settle(0)
	}
	m.add("honest", 10*time.Millisecond)
	m.do("start", func() { m.s.Start(m.now) })
	m.do("no limit", func() { m.s.SetLimit(m.u.total, m.now) })
	const perTick = 1 << 20
	habits := make(map[SourceID]int)
	steps := int(m.u.total/perTick) + 1
	for range 3*steps + 400 {
		if m.s.Done() {
			return
		}
		for _, src := range slices.Clone(m.sources) {
			if src.id == "honest" {
				for sent := int64(0); sent < perTick; {
					n := m.write(src, 64<<10, true)
					if n == 0 {
						break
					}
					sent += n
				}
				continue
			}
			habit, known := habits[src.id]
			if !known {
				habit = m.choose.below(5)
				habits[src.id] = habit
			}
			switch habit {
			case 0: // silent
			case 1: // a trickle that never fills a unit
				src.received++
			case 2: // resumes now and then
				if m.choose.below(20) == 0 {
					m.remove(src)
					m.add(src.id, src.rtt)
				}
			case 3: // opens streams and gives them up, until the aggregator has enough of it
				if len(src.grants) > 0 && m.choose.below(4) == 0 {
					m.end(src.grants[0])
					if src.strikes++; src.strikes == modelStrikes {
						m.remove(src)
					}
				}
			case 4: // a unit now and then
				if m.choose.below(10) == 0 {
					m.write(src, 1, true)
				}
			}
		}
		for _, src := range m.sources {
			m.observe(src)
		}
		m.tick(TickInterval)
	}
	m.fatal("the stream did not come to its end: had %v of %d", &m.s.had, m.u.total)
}
