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
// has no clock: its input is reports and the time of each, its output is width. A fixed number of
// paths stays. Otherwise the policy tries more paths while loss limits those that there are.
type widthPolicy struct {
	widthTrials
	fixed  bool
	last   map[PathID]pathReport
	lostAt map[PathID]time.Time // time of the last loss without a queue
}

// newWidthPolicy returns the policy for exactly n paths. With n = 0 the policy chooses the number.
func newWidthPolicy(n int) widthPolicy {
	return widthPolicy{
		widthTrials: widthTrials{width: max(n, 1), limit: autoConnections}, fixed: n > 0,
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
	w.observe(received, r.rtt, func() bool { return w.limitedByLoss(now) }, now)
}

// isTooEarly reports whether a report arrives sooner after the one before than a server should
// send it. Such a report is ignored: the next one repeats its counts.
func (w *widthPolicy) isTooEarly(id PathID, now time.Time) bool {
	return now.Sub(w.last[id].at) < reportInterval/2
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
