package kwik

import (
	"time"

	kwikpb "kwikcp/kwik/proto"
)

// This file decides how many paths a client opens to each server. One path is the rule. QUIC's
// congestion control treats every lost packet as a sign of a full link. On a long path that
// loses packets for other reasons, one connection therefore leaves most of the link unused, and
// several connections use it.

const (
	// autoConnections bounds the paths to a server whose number is chosen automatically.
	autoConnections = 4
	// minLongRTT is the shortest round trip for which more connections are tried. On shorter
	// ones the congestion window recovers at once.
	minLongRTT = 2 * time.Millisecond
	// lossMemory is how long a loss counts as recent.
	lossMemory = 2 * time.Second
	// minGain is the factor by which twice the paths must raise the rate.
	minGain = 1.25
	// A trial lasts trialTime and ten round trips. Its result is the rate of its last rateWindow.
	trialTime  = 1250 * time.Millisecond
	rateWindow = time.Second
	// minPause is the pause after a trial that failed. The pause doubles with each failure in a
	// row, up to maxPause.
	minPause = 5 * time.Second
	maxPause = 80 * time.Second
)

// A pathReport is the state of a path as the sender of the payload reports it.
type pathReport struct {
	at          time.Time // arrival
	sent, lost  uint64    // packets since the path began
	rtt, minRTT time.Duration
	window      int64 // congestion window, bytes
}

// reportFromWire decodes a report and clamps its numbers: a hostile server may send any.
func reportFromWire(r *kwikpb.PathReport) pathReport {
	micros := func(n uint64) time.Duration {
		return time.Duration(min(n, uint64(time.Hour/time.Microsecond))) * time.Microsecond
	}
	return pathReport{
		sent: r.GetPacketsSent(), lost: r.GetPacketsLost(),
		rtt: micros(r.GetSmoothedRttUs()), minRTT: micros(r.GetMinRttUs()),
		window: int64(min(r.GetCongestionWindow(), 1<<40)),
	}
}

// lostWithoutQueue reports whether packets were lost since the report before while the path had
// no queue. Where the link itself is the limit, its queue grows long before packets are lost.
func (r pathReport) lostWithoutQueue(before pathReport) bool {
	lostMore := r.lost > before.lost
	isLong := r.minRTT >= minLongRTT
	queueIsShort := r.rtt-r.minRTT <= max(r.minRTT/4, minLongRTT)
	return lostMore && isLong && queueIsShort
}

// A widthPolicy decides how many paths a server should have. It is a pure state machine that
// has no clock: its input is reports and the time of each, its output is width.
//
// A fixed number of paths stays. Otherwise the policy starts with one path and is in one of
// three states:
//
//	steady (trial is nil) --limited by loss--> trial: twice the paths
//	trial --rate grew by minGain--> steady with twice the paths
//	trial --rate did not grow-----> steady with the old number; no trial before resumeAt
type widthPolicy struct {
	fixed bool
	width int // number of paths that the server should have

	last    map[PathID]pathReport
	lostAt  map[PathID]time.Time // time of the last loss without a queue
	samples []rateSample         // those of the last rateWindow, oldest first

	trial    *widthTrial   // nil while no trial is under way
	resumeAt time.Time     // earliest start of the next trial
	pause    time.Duration // pause after the last trial; 0 if it succeeded
}

// A widthTrial is the state before a trial, and the trial's end.
type widthTrial struct {
	oldWidth int
	oldRate  float64 // bytes a second
	ends     time.Time
}

// A rateSample is the payload that a server has delivered up to a time, in bytes.
type rateSample struct {
	at       time.Time
	received int64
}

// newWidthPolicy returns the policy for exactly n paths. With n = 0 the policy chooses the number.
func newWidthPolicy(n int) widthPolicy {
	return widthPolicy{
		fixed: n > 0, width: max(n, 1),
		last: make(map[PathID]pathReport), lostAt: make(map[PathID]time.Time),
	}
}

// report adds a report on one path. received is the payload that the server has delivered over
// all its paths, in bytes.
func (w *widthPolicy) report(id PathID, r pathReport, received int64, now time.Time) {
	if w.isTooEarly(id, now) {
		return
	}
	before := w.last[id]
	r.at = now
	w.last[id] = r
	if w.fixed {
		return
	}
	if r.lostWithoutQueue(before) {
		if isFirstLoss := w.trial == nil && !w.limitedByLoss(now); isFirstLoss {
			w.samples = nil // the rate before the first loss is that of the slow start, not that of the path
		}
		w.lostAt[id] = now
	}
	w.addSample(rateSample{now, received})
	rate, isKnown := w.rate()
	switch {
	case w.trial != nil:
		if !now.Before(w.trial.ends) {
			w.endTrial(rate, now)
		}
	case isKnown && w.mayTry(now):
		w.startTrial(rate, now.Add(trialTime+10*r.rtt))
	}
}

// mayTry reports whether more paths may help and the pause after the last failure is over.
func (w *widthPolicy) mayTry(now time.Time) bool {
	return w.width < autoConnections && !now.Before(w.resumeAt) && w.limitedByLoss(now)
}

func (w *widthPolicy) startTrial(rate float64, ends time.Time) {
	w.trial = &widthTrial{oldWidth: w.width, oldRate: rate, ends: ends}
	w.width = min(2*w.width, autoConnections)
}

// endTrial keeps the trial's width if the rate has grown enough. Otherwise it goes back to the
// old width.
func (w *widthPolicy) endTrial(rate float64, now time.Time) {
	ended := w.trial
	w.trial = nil
	if rate >= minGain*ended.oldRate {
		w.pause = 0
		return
	}
	w.width = ended.oldWidth
	w.pause = min(max(minPause, 2*w.pause), maxPause)
	w.resumeAt = now.Add(w.pause)
}

// isTooEarly reports whether a report arrives sooner after the one before than a server should
// send it. Such a report is ignored: the next one repeats its counts.
func (w *widthPolicy) isTooEarly(id PathID, now time.Time) bool {
	return now.Sub(w.last[id].at) < reportInterval/2
}

// addSample adds a sample and removes those that are older than rateWindow.
func (w *widthPolicy) addSample(s rateSample) {
	w.samples = append(w.samples, s)
	for len(w.samples) > 2 && s.at.Sub(w.samples[1].at) >= rateWindow {
		w.samples = w.samples[1:]
	}
}

// rate returns the payload rate of the last rateWindow, in bytes a second. It is not known
// while the samples cover less time, or if no payload arrived.
func (w *widthPolicy) rate() (bytesPerSecond float64, isKnown bool) {
	first, last := w.samples[0], w.samples[len(w.samples)-1]
	elapsed := last.at.Sub(first.at)
	if elapsed < rateWindow || last.received == first.received {
		return 0, false
	}
	return float64(last.received-first.received) / elapsed.Seconds(), true
}

// limitedByLoss reports whether every path with a report has recently lost packets without
// having a queue.
func (w *widthPolicy) limitedByLoss(now time.Time) bool {
	for id := range w.last {
		if at, ok := w.lostAt[id]; !ok || now.Sub(at) > lossMemory {
			return false
		}
	}
	return len(w.last) > 0
}

// removePath removes the reports on a path that ended.
func (w *widthPolicy) removePath(id PathID) {
	delete(w.last, id)
	delete(w.lostAt, id)
}
