package kwik

import (
	"time"

	kwikpb "kwikcp/kwik/proto"
)

// This file decides how many paths a client has to each server. One is the rule. QUIC's congestion control takes each lost packet
// for a full link, so on a long path that loses packets for other reasons one connection leaves most of the link empty; several do not.

const (
	// MaxConnectionsPerServer bounds ClientConfig.ConnectionsPerServer.
	MaxConnectionsPerServer = 16
	// autoConnections is up to how many paths a server gets by itself.
	autoConnections = 4
	// reportInterval is how often at most a server reports on a path.
	reportInterval = 250 * time.Millisecond
	// maxFurtherPaths bounds the further paths of all servers together.
	maxFurtherPaths = 128
)

// A pathReport is what the sender of bytes says about a path.
type pathReport struct {
	at          time.Time // when it came
	sent, lost  uint64    // packets since the path began
	rtt, minRTT time.Duration
	window      int64 // of congestion, bytes
}

func reportFromWire(r *kwikpb.PathReport) pathReport {
	micros := func(n uint64) time.Duration {
		return time.Duration(min(n, uint64(time.Hour/time.Microsecond))) * time.Microsecond
	}
	return pathReport{
		sent: r.GetPacketsSent(), lost: r.GetPacketsLost(),
		rtt: micros(r.GetSmoothedRttUs()), minRTT: micros(r.GetMinRttUs()), window: int64(min(r.GetCongestionWindow(), 1<<40)),
	}
}

const (
	// minLongRTT is the shortest round trip on which further connections are worth trying: on shorter ones the window grows
	// back at once.
	minLongRTT = 2 * time.Millisecond
	// lossMemory is how long a loss counts as one of now.
	lossMemory = 2 * time.Second
	// minGain is how many times as fast a server has to become for twice its paths.
	minGain = 1.25
	// trialTime and ten round trips is how long twice the paths are given to show that gain. What counts is the rate of the last
	// rateWindow.
	trialTime  = 1250 * time.Millisecond
	rateWindow = time.Second
	// minPause is how long the next trial waits after one that gained nothing; after each further one twice as long, up to
	// maxPause.
	minPause = 5 * time.Second
	maxPause = 80 * time.Second
)

// A widthPolicy decides how many paths a server should have. It is a pure state machine: reports and the time come in, a number
// comes out. A fixed number stays. Otherwise it starts with one, and doubles while the path is limited by loss, which is loss without
// a queue: where the link itself is the limit, its queue is long before packets are lost. Each doubling is a trial; one
// that does not pay is taken back.
type widthPolicy struct {
	fixed bool
	width int // how many paths there should be

	last    map[PathID]pathReport
	lostAt  map[PathID]time.Time // when a path last lost a packet without a queue
	samples []rateSample         // of the last rateWindow, the oldest first

	from   int           // during a trial: the width before it,
	before float64       // the rate before it, bytes a second,
	trial  time.Time     // and its end
	resume time.Time     // no trial before this
	pause  time.Duration // how long the last one that failed was paused for
}

type rateSample struct {
	at       time.Time
	received int64
}

// newWidthPolicy returns the policy for n paths, 0 for as many as are worth it.
func newWidthPolicy(n int) widthPolicy {
	return widthPolicy{
		fixed: n > 0, width: max(n, 1),
		last: make(map[PathID]pathReport), lostAt: make(map[PathID]time.Time),
	}
}

// report takes a report on one path, and the payload that came from the server over all its paths.
func (w *widthPolicy) report(id PathID, r pathReport, received int64, now time.Time) {
	if w.early(id, now) {
		return
	}
	before := w.last[id]
	r.at = now
	w.last[id] = r
	if w.fixed {
		return
	}
	if queue := r.rtt - r.minRTT; r.lost > before.lost && r.minRTT >= minLongRTT && queue <= max(r.minRTT/4, minLongRTT) {
		if w.trial.IsZero() && !w.limitedByLoss(now) {
			w.samples = nil // the rate before the first loss is the start's, not the path's
		}
		w.lostAt[id] = now
	}
	w.samples = append(w.samples, rateSample{now, received})
	for len(w.samples) > 2 && now.Sub(w.samples[1].at) >= rateWindow {
		w.samples = w.samples[1:]
	}
	rate, ok := w.rate()
	switch {
	case !w.trial.IsZero() && now.Before(w.trial):
	case !w.trial.IsZero():
		w.trial = time.Time{}
		if w.pause = min(max(minPause, 2*w.pause), maxPause); rate >= minGain*w.before {
			w.pause = 0
			break
		}
		w.width, w.resume = w.from, now.Add(w.pause)
	case ok && w.width < autoConnections && !now.Before(w.resume) && w.limitedByLoss(now):
		w.from, w.before, w.trial = w.width, rate, now.Add(trialTime+10*r.rtt)
		w.width = min(2*w.width, autoConnections)
	}
}

// early reports whether a report on a path comes sooner after the last one than it should. What it says is in the next one as well.
func (w *widthPolicy) early(id PathID, now time.Time) bool {
	return now.Sub(w.last[id].at) < reportInterval/2
}

// rate returns the payload rate of the last rateWindow, in bytes a second, if anything came and that much time is known.
func (w *widthPolicy) rate() (float64, bool) {
	first, last := w.samples[0], w.samples[len(w.samples)-1]
	elapsed := last.at.Sub(first.at)
	if elapsed < rateWindow || last.received == first.received {
		return 0, false
	}
	return float64(last.received-first.received) / elapsed.Seconds(), true
}

// limitedByLoss reports whether every path on which something is known lost packets lately without having a queue.
func (w *widthPolicy) limitedByLoss(now time.Time) bool {
	for id := range w.last {
		if at, ok := w.lostAt[id]; !ok || now.Sub(at) > lossMemory {
			return false
		}
	}
	return len(w.last) > 0
}

// forget drops what is known about a path that ended.
func (w *widthPolicy) forget(id PathID) {
	delete(w.last, id)
	delete(w.lostAt, id)
}

// report tells the client how its path is, now and then: what was lost is known to the sender alone.
func (s *ServerSession) report(now time.Time) {
	s.mu.Lock()
	due := !now.Before(s.reportAt)
	if due {
		s.reportAt = now.Add(reportInterval)
	}
	s.mu.Unlock()
	if !due {
		return
	}
	c := s.conn.ConnectionStats()
	s.control.send(&kwikpb.ControlFrame{Frame: &kwikpb.ControlFrame_PathReport{PathReport: &kwikpb.PathReport{
		PacketsSent: c.PacketsSent, PacketsLost: c.PacketsLost, CongestionWindow: c.CongestionWindow,
		SmoothedRttUs: uint64(c.SmoothedRTT.Microseconds()), MinRttUs: uint64(c.MinRTT.Microseconds()),
	}}})
}

// reported acts on a server's report on a path.
func (s *ClientSession) reported(p *path, r *kwikpb.PathReport) {
	s.mu.Lock()
	defer s.mu.Unlock()
	sv := s.paths[p.id].server
	if sv.widths.early(p.id, time.Now()) {
		return // before anything is summed for it
	}
	var received int64
	for _, r := range sv.paths {
		received += s.handler.stats(r.id).TotalBytes
	}
	sv.widths.report(p.id, reportFromWire(r), received, time.Now())
	s.widen(sv)
}

// widen opens the further paths to a server that there should be while streams are open, and gives up those that there should not.
// Called with the lock held.
func (s *ClientSession) widen(sv *serverRecord) {
	if sv.info == nil || sv.paths[0].path == nil || s.unreleased() == 0 {
		return
	}
	for n := 2; n <= sv.widths.width; n++ {
		if len(sv.paths) < n {
			if len(s.paths)-len(s.servers) >= maxFurtherPaths {
				break
			}
			s.newPath(sv, sv.id.path(n), sv.addrs[0])
		}
		r := sv.paths[n-1]
		r.dropped = false
		s.keep(r, 0)
	}
	for _, r := range sv.paths[min(sv.widths.width, len(sv.paths)):] {
		if !r.dropped {
			r.dropped = true
			sv.widths.forget(r.id)
			s.leave(r)
		}
	}
}
