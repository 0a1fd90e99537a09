package kwik

import (
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
