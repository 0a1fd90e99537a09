package main

import (
	"math/rand/v2"
	"time"
)

// A linkConfig describes one direction of a link. The zero value is a perfect link.
type linkConfig struct {
	rate     float64       // bits a second, with overhead; 0 is unlimited
	overhead int           // bytes of headers that each datagram takes besides its payload
	queue    time.Duration // the longest that a datagram waits for its turn when the rate is exceeded
	delay    time.Duration // one way
	jitter   time.Duration // the most that is added to delay
	loss     float64       // the probability that a datagram is lost, 0 to 1
}

// A fate is what a link does to a datagram.
type fate int

const (
	passed     fate = iota
	lost            // by dice
	overflowed      // the queue was full
)

// A link decides when a datagram leaves at the far end, or drops it. It knows no clock and no
// socket; times are since any fixed moment. The order is that of a real path: a tail-drop
// queue, the rate, then the long way with its loss. So lost datagrams have used their share of
// the rate.
//
// internal/simnet's links are alike, but roll for many other faults and count payload alone.
type link struct {
	linkConfig
	free time.Duration // when the last datagram that was accepted has left the queue
	dice *rand.Rand
	key  uint64 // makes the jitter of this link differ from others'

	knot   int64      // the knots last computed are those at knot and knot+1
	height [2]float64 // 0 to 1
}

// newLink returns a link whose losses and jitter follow from seed and stream alone; links of
// one seed have different streams.
func newLink(c linkConfig, seed, stream uint64) *link {
	l := &link{linkConfig: c, dice: rand.New(rand.NewPCG(seed, stream)), knot: -1}
	l.key = l.dice.Uint64()
	return l
}

// cross takes a datagram of size bytes of payload that arrives at now. It returns the
// time at which the datagram leaves, which is never before that of an earlier one.
func (l *link) cross(now time.Duration, size int) (time.Duration, fate) {
	// Rolled for every datagram, so that which ones are lost does not depend on the queue.
	isLost := l.dice.Float64() < l.loss
	// Two sockets may feed one direction, and each reads the clock separately. max keeps the
	// order even then.
	out := max(now, l.free)
	if l.rate > 0 {
		if out-now > l.queue {
			return 0, overflowed
		}
		out += time.Duration(float64(size+l.overhead) * 8 / l.rate * float64(time.Second))
	}
	l.free = out
	if isLost {
		return 0, lost
	}
	return out + l.delay + l.jitterAt(out), passed
}

// jitterAt returns the delay added to a datagram that leaves the queue at t. It is linear
// between knots that are 2*jitter apart. So it never falls faster than time passes, and no
// datagram overtakes another, which QUIC would take for loss.
func (l *link) jitterAt(t time.Duration) time.Duration {
	if l.jitter == 0 {
		return 0
	}
	step := 2 * l.jitter
	if k := int64(t / step); k != l.knot {
		l.knot = k
		for i := range l.height {
			l.height[i] = rand.New(rand.NewPCG(l.key, uint64(k)+uint64(i))).Float64()
		}
	}
	between := float64(t%step) / float64(step)
	return time.Duration((l.height[0] + (l.height[1]-l.height[0])*between) * float64(l.jitter))
}
