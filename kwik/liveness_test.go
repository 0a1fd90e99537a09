package kwik

import (
	"testing"
	"testing/synctest"
	"time"

	"kwikcp/kwik/internal/sched"
)

func TestLivenessIdleTime(t *testing.T) {
	var l liveness
	start := time.Unix(1e9, 0)
	for _, step := range []struct {
		at    time.Duration
		alive bool
		want  time.Duration
	}{
		{0, true, 0},
		{time.Second, false, 0}, // idle from now on
		{3 * time.Second, false, 2 * time.Second},
		{4 * time.Second, true, 0},
		{5 * time.Second, false, 0},
		{6 * time.Second, false, time.Second},
	} {
		if got := l.idleTime(step.alive, start.Add(step.at)); got != step.want {
			t.Errorf("at %v, alive %v: idle for %v, want %v", step.at, step.alive, got, step.want)
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
