package kwik

import (
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"kwikcp/kwik/internal/sched"
)

// TestLiveness checks the two times of a liveness. A pause of the process counts as a second.
func TestLiveness(t *testing.T) {
	const alive, answering, verified, excused = true, true, true, true
	var l liveness
	start := time.Unix(1e9, 0)
	for _, step := range []struct {
		at                       time.Duration
		alive, verified, excused bool
		idle, unverified         time.Duration
	}{
		{0, alive, verified, false, 0, 0},
		{time.Second, false, false, false, time.Second, time.Second},
		{1500 * time.Millisecond, false, false, false, 1500 * time.Millisecond, 1500 * time.Millisecond},
		{24 * time.Hour, false, false, false, 2500 * time.Millisecond, 2500 * time.Millisecond}, // suspended
		{24*time.Hour + time.Second, alive, false, false, 0, 3500 * time.Millisecond},
		{24*time.Hour + 2*time.Second, alive, false, excused, 0, 0},
		{24*time.Hour + 3*time.Second, false, false, false, time.Second, time.Second},
		{24*time.Hour + 4*time.Second, alive, verified, false, 0, 0},
	} {
		l.verified = step.verified
		l.observe(step.alive, answering, step.excused, start.Add(step.at))
		if l.idle != step.idle || l.unverified != step.unverified {
			t.Errorf("at %v: idle for %v and unverified for %v, want %v and %v",
				step.at, l.idle, l.unverified, step.idle, step.unverified)
		}
	}
	for range 3 { // silence
		start = start.Add(48 * time.Hour)
		l.observe(false, false, false, start)
	}
	if l.idle != 3*time.Second || l.unserved != 0 {
		t.Errorf("in an outage: idle for %v, unserved for %v", l.idle, l.unserved)
	}
}

// TestLackOfVerifiedUnits checks which outages of the servers are allowed while units are due.
func TestLackOfVerifiedUnits(t *testing.T) {
	const timeout = 10 * time.Second
	type part struct {
		seconds         int
		alive, answers  bool
		verifiesAtStart bool
	}
	unit := func(seconds int) part { return part{seconds: seconds, alive: true, verifiesAtStart: true} }
	silence := func(seconds int) part { return part{seconds: seconds} }
	trickle := func(seconds int) part { return part{seconds: seconds, alive: true} }
	for name, tt := range map[string]struct {
		parts []part
		want  int // the second in which it has lasted too long; -1 for never
	}{
		"silence":                       {[]part{silence(3000)}, -1},
		"bytes without a unit":          {[]part{trickle(3000)}, 250},
		"answers without bytes":         {[]part{{seconds: 3000, answers: true}}, 250},
		"silence, then bytes":           {[]part{silence(300), trickle(3000)}, 550},
		"a longer silence later":        {[]part{silence(100), trickle(50), silence(200), trickle(3000)}, 450},
		"silence again and again":       {slices.Repeat([]part{silence(59), trickle(1)}, 50), 309},
		"a unit after the silence":      {[]part{silence(300), unit(200)}, -1},
		"and no more after it":          {[]part{silence(300), unit(600)}, 551},
		"silence forgotten with a unit": {[]part{silence(300), unit(1), trickle(600)}, 551},
	} {
		var l liveness
		now := time.Unix(1e9, 0)
		l.observe(false, false, false, now)
		second, got := 0, -1
		for _, p := range tt.parts {
			for i := range p.seconds {
				second++
				now = now.Add(time.Second)
				l.verified = p.verifiesAtStart && i == 0
				l.observe(p.alive, p.answers, false, now)
				if got < 0 && l.lacksVerified(timeout) {
					got = second
				}
			}
		}
		if got != tt.want {
			t.Errorf("%s: too long in second %d, want %d", name, got, tt.want)
		}
	}
}

// TestProgress checks one tick after each event that may be progress of a stream.
func TestProgress(t *testing.T) {
	pathLoad := func(accepted int64, streamsWait bool) func(PathID) (int64, bool) {
		return func(PathID) (int64, bool) { return accepted, streamsWait }
	}
	makeUseless := func(s *source) { s.noProgress = maxStrikes }
	for _, tt := range []struct {
		name  string
		event func(a *aggregation, s *source)
		want  bool
	}{
		{"nothing", func(*aggregation, *source) {}, false},
		{"payload", func(_ *aggregation, s *source) { s.received.Add(1) }, true},
		{"a delivery being placed", func(_ *aggregation, s *source) { s.placing.Add(1) }, true},
		{"payload of a removed source", func(a *aggregation, s *source) {
			s.received.Add(1)
			a.detach(s.id, nil)
		}, true},
		{"payload of a useless source", func(_ *aggregation, s *source) { makeUseless(s); s.received.Add(1) }, false},
		{"a delivery of a useless source", func(_ *aggregation, s *source) { makeUseless(s); s.placing.Add(1) }, false},
		{"an accepted unit of a useless source", func(a *aggregation, s *source) {
			makeUseless(s)
			a.send(s.id, 1, 0, aggUnit, nil)
		}, true},
		{"a path that is busy with other streams", func(a *aggregation, _ *source) {
			a.pathLoad = pathLoad(1, true)
		}, true},
		{"a path with free streams", func(a *aggregation, _ *source) { a.pathLoad = pathLoad(1, false) }, false},
		{"a source that is attached again", func(a *aggregation, s *source) {
			a.pathLoad = pathLoad(1, true)
			a.detach(s.id, nil)
			a.attach(s.id, s.rtt)
		}, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				a := newAggregation(t, 4*aggUnit, aggUnit, "a")
				a.read(nil)
				synctest.Wait()
				observe := func() bool {
					a.streamAggregator.mu.Lock()
					defer a.streamAggregator.mu.Unlock()
					return a.observeSources(time.Now())
				}
				observe()
				tt.event(a, a.source("a"))
				if got := observe(); got != tt.want {
					t.Errorf("progress %v, want %v", got, tt.want)
				}
				time.Sleep(sched.TickInterval / 2)
				a.source("a").placing.Store(0)
				if observe() {
					t.Error("the same event is progress a second time")
				}
			})
		})
	}
}
