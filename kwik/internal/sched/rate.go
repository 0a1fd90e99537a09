package sched

import "time"

const (
	// TickInterval is how often the owner calls [Scheduler.Observe] and [Scheduler.Tick].
	TickInterval = 50 * time.Millisecond
	// MinStall is the shortest silence that is a stall. It is longer on a path with a long
	// round-trip time.
	MinStall = time.Second
	// rateWeight is the weight of the newest sample in the smoothed rate.
	rateWeight = 0.3
	// slowStart is a number of round trips after the first bytes of a source. During them its
	// congestion window may still double, so an average of its rate would lag. From 40 KiB to 25
	// MB/s over 200 ms are seven doublings.
	slowStart = 10
)

// sample updates the rate of a source from the number of payload bytes delivered so far.
func (src *source) sample(received int64, now time.Time) {
	delta := received - src.received
	elapsed := now.Sub(src.sampled)
	if delta > 0 {
		src.lastProgress = now
		src.stalled = false
	}
	if elapsed < TickInterval/2 {
		return // too short for a rate; the bytes count in the next sample
	}
	src.received, src.sampled = received, now
	owesNothing := len(src.grants) == 0
	if delta == 0 && (src.rate == 0 || owesNothing) {
		return
	}
	rate := float64(delta) / elapsed.Seconds()
	accelerating := rate > src.rate && now.Sub(src.ratedAt) < slowStart*src.rtt
	switch {
	case src.rate == 0:
		src.rate, src.ratedAt = rate, now
	case accelerating:
		src.rate = rate
	default:
		src.rate += rateWeight * (rate - src.rate)
	}
}

// stallTime is the silence after which a source that owes bytes is stalled: max(1 s, 4 RTT).
func (src *source) stallTime() time.Duration { return max(MinStall, 4*src.rtt) }

// isSilent reports whether a source owes bytes and none arrived for its stall time.
func (src *source) isSilent(now time.Time) bool {
	return len(src.grants) > 0 && now.Sub(src.lastProgress) >= src.stallTime()
}

// stall makes a source stalled. It keeps the grant that it is writing, in case it resumes, but
// shares it with the other sources. The grants behind that one are revoked.
func (s *Scheduler) stall(src *source) {
	src.stalled = true
	src.rate = 0
	s.revokeQueued(src)
	s.share(src.grants[0])
}

// totalRate returns the sum of the known rates. The rate of a stalled source is 0.
func (s *Scheduler) totalRate() (sum float64) {
	for _, src := range s.sources {
		sum += src.rate
	}
	return sum
}
