package kwik

import (
	"context"
	"errors"
	"time"

	"kwikcp/kwik/internal/sched"
)

// This file decides whether an aggregate stream still makes progress, and ends one that does not.
//
// A stream that was requested ends with ErrAggregationTimeout in four cases:
//
//   - no source can deliver the missing bytes, and no further source is expected;
//   - it was idle for SourceTimeout while a server answered, or for OutageTimeout in total;
//   - it is pulled, and for verifiedTime longer than SourceTimeout no unit of it was verified;
//   - a hole of a pushed stream was not filled within ReorderTimeout (push_client.go).
//
// A pulled stream is idle while its consumer waits and no tick sees progress. Progress is payload
// that arrives, is being placed, or is accepted. While the sources of a stream wait for their turn
// on a busy path, bytes that the path delivers to other streams are progress, too. That sources
// are attached is no progress: a source can reconnect again and again and deliver nothing.
//
// Payload that arrives is enough for a while only: a source could deliver a byte now and then. So
// whole units must be accepted, too, as fast as a slow link allows. A tick counts a second at most,
// for both times. So a process that was stopped, on a machine that may have slept, gives its
// sources their whole time again.
//
// A pushed stream is idle while none of its sources is live. Its sources owe nothing, so the
// silence of a live one is not a fault.

// A liveness measures how long a stream has been idle. The zero value is a stream that is not
// idle.
type liveness struct {
	had  int64         // bytes that were had at the last tick
	idle time.Duration // the time without progress
	// unserved is the time at the end of idle in which a server answered. A link that
	// fails again and again is an outage.
	unserved time.Duration

	verified   bool          // units were verified since the tick before, or bytes are being verified
	unverified time.Duration // the time without a verified unit, while the consumer waits
	silent     time.Duration // the time at the end of idle in which no server answered
	// longest is the longest silent since then. It does not count as unverified: an outage may last
	// as long as OutageTimeout. Only one does not, because a hostile server can make more of them.
	longest  time.Duration
	lastTick time.Time // zero before the first
}

// verifiedTime is how much longer than SourceTimeout a stream may wait for a verified unit. A unit
// of 1 MiB then arrives at 4 KiB/s. It does not grow with SourceTimeout: a hostile server could
// hold a patient client for hours.
const verifiedTime = 4 * time.Minute

// maxTick bounds the time that counts between two ticks.
const maxTick = time.Second

// observe records a tick: whether the stream is alive, whether a server answers, and whether no
// verified units are due.
func (l *liveness) observe(isAlive, isAnswering, isExcused bool, now time.Time) {
	elapsed := time.Duration(0)
	if !l.lastTick.IsZero() {
		elapsed = min(now.Sub(l.lastTick), maxTick)
	}
	l.lastTick = now
	l.idle += elapsed
	l.unserved += elapsed
	if !isAnswering {
		l.unserved = 0
	}
	if isAlive {
		l.idle, l.unserved = 0, 0
	}
	if l.silent += elapsed; isAlive || isAnswering {
		l.silent = 0
	}
	l.longest = max(l.longest, l.silent)
	l.unverified += elapsed
	if l.verified || isExcused {
		l.unverified, l.longest = 0, 0
	}
}

// lacksVerified reports whether no unit was verified for too long.
func (l *liveness) lacksVerified(timeout time.Duration) bool {
	return l.unverified-l.longest >= timeout+verifiedTime
}

// run lets time pass for the scheduler until the stream ends.
func (a *streamAggregator) run() {
	ticker := time.NewTicker(sched.TickInterval)
	defer ticker.Stop()
	for {
		select {
		case <-a.ctx.Done():
			a.fail(context.Cause(a.ctx))
			return
		case now := <-ticker.C:
			if a.tick(now) {
				return
			}
		}
	}
}

// tick passes observations and the time to the scheduler and reports whether the stream has ended.
func (a *streamAggregator) tick(now time.Time) (ended bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.err != nil || a.released {
		return true
	}
	progress := a.observeSources(now)
	a.sched.Tick(now)
	a.recordStalls()
	a.removeDrained(now)
	a.observeExternals(now)
	a.dispatch()
	if err := a.checkLiveness(progress, now); err != nil {
		a.failLocked(err)
		return true
	}
	return false
}

// observeSources passes the sources' figures to the scheduler and reports whether the stream made
// progress since the last tick. It records in the liveness whether that is more than bytes that
// arrived. Called with the lock held.
func (a *streamAggregator) observeSources(now time.Time) (progress bool) {
	verified := false
	for id, s := range a.sources {
		received := s.received.Load()
		isPlacing := s.placing.Load() > 0
		if (isPlacing || received > s.observed) && !s.isUseless() {
			progress = true
			verified = verified || isPlacing
		}
		s.observed = received
		if s.gone {
			continue
		}
		a.sched.Observe(sched.SourceID(id), received, s.rtt(), now)
		if isPlacing {
			a.sched.ResetStallTimer(sched.SourceID(id), now)
		}
		counted, streamsWait := a.pathLoad(id)
		if counted > s.pathCounted {
			progress = progress || streamsWait
			verified = true // by other streams: the path is slow, or shared by many
		}
		s.pathCounted = counted
	}
	had := a.sched.Had()
	if had != a.liveness.had {
		progress, verified = true, true
	}
	a.liveness.had, a.liveness.verified = had, verified
	return progress
}

// recordStalls copies the scheduler's verdict on each source for the statistics. Called with the
// lock held.
func (a *streamAggregator) recordStalls() {
	for id, s := range a.sources {
		s.stalled = a.sched.Stalled(sched.SourceID(id))
	}
}

// removeDrained removes the draining sources that have finished. Called with the lock held.
func (a *streamAggregator) removeDrained(now time.Time) {
	for _, drained := range a.sched.Drained() {
		id := PathID(drained)
		s := a.sources[id]
		a.remove(s, errSourceDrained, now)
		if s.external == nil {
			a.sourceDrained(id)
		}
	}
}

// checkLiveness returns the error with which the stream must end now, nil if it continues. Called
// with the lock held.
func (a *streamAggregator) checkLiveness(progress bool, now time.Time) error {
	if a.overdue(now) {
		return errorf(ErrAggregationTimeout, "no server filled the hole in time").onStream(a.id, a.offsets.next)
	}
	sources, live := a.sched.Sources()
	isAlive := progress || !a.sched.Wanting()
	canDeliver := a.sched.Deliverable()
	if a.pushed {
		isAlive = live > 0
		canDeliver = sources > 0
	}
	a.liveness.observe(isAlive, !isAlive && a.isAnswering(), a.pushed || !a.sched.Wanting(), now)
	if a.liveness.lacksVerified(a.timeout) {
		return a.noSource()
	}
	if isAlive {
		return nil
	}
	isHopeless := !canDeliver && !a.awaitsExternal() && !a.expectsSource()
	if isHopeless || a.liveness.unserved >= a.timeout || a.liveness.idle >= a.outage {
		return a.noSource()
	}
	return nil
}

// noSource returns the error of a stream without a source that delivers. It wraps the reason of
// each source. Called with the lock held.
func (a *streamAggregator) noSource() error {
	var causes []error
	for _, s := range a.sources {
		switch {
		case s.gone && s.reason != nil:
			causes = append(causes, s.reason)
		case s.missing != nil:
			causes = append(causes, s.missing)
		}
	}
	err := errorf(ErrAggregationTimeout, "no server delivers any more").onStream(a.id, a.offsets.next)
	err.Err = errors.Join(causes...)
	return err
}
