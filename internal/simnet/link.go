package simnet

import (
	"encoding/binary"
	"fmt"
	"hash/fnv"
	"math/rand/v2"
	"net/netip"
	"time"
)

// DefaultQueue is the queueing delay at which a rate-limited link begins to
// drop, if Link.Queue does not say.
const DefaultQueue = 100 * time.Millisecond

// A Link is the access line of a host. A packet crosses the sender's link up to an
// infinitely fast hub, and the receiver's link down from there.
// Both directions are alike and independent. The zero Link is perfect.
type Link struct {
	// Latency is the one-way delay between host and hub, so the round trip of
	// two hosts is 2*(a.Latency+b.Latency).
	Latency time.Duration

	// Jitter is the most that is added to Latency. The addition varies between 0 and
	// Jitter over time and never makes one packet overtake another. On real paths delay
	// varies because queues fill and drain. (An independent
	// delay for each packet would reorder them, which QUIC takes for loss; see Reorder.)
	Jitter time.Duration

	// Rate is the speed of each direction in bits of UDP payload per second;
	// 0 means unlimited.
	Rate float64

	// Queue is the longest time that a packet waits when Rate is exceeded. A packet that
	// would wait longer is dropped. 0 means
	// DefaultQueue.
	Queue time.Duration

	// MTU is the largest UDP payload, in bytes, that passes; larger packets
	// vanish. 0 means that the family's own limit is the only one. Below 1280
	// QUIC's small packets pass and its full ones do not.
	MTU int

	// Loss, Flip, Duplicate and Reorder are probabilities per packet, in either direction. A
	// packet vanishes, has one bit inverted, arrives twice, or is held back by up to 5 ms
	// while later packets pass.
	Loss, Flip, Duplicate, Reorder float64
}

// maxHeld is the longest that a reordered packet is held back.
const maxHeld = 5 * time.Millisecond

func (l Link) validate() error {
	if l.Latency < 0 || l.Jitter < 0 || l.Queue < 0 || l.MTU < 0 || !(l.Rate >= 0) {
		return fmt.Errorf("simnet: negative value in %+v", l)
	}
	for _, p := range []float64{l.Loss, l.Flip, l.Duplicate, l.Reorder} {
		if !(p >= 0 && p <= 1) { // written so as to refuse NaN too
			return fmt.Errorf("simnet: %v is no probability, in %+v", p, l)
		}
	}
	return nil
}

// A lane is one direction of a host's link. All times are since the start of
// the network.
type lane struct {
	free time.Duration // when the last packet accepted has left the queue
	key  uint64        // makes the jitter of this lane differ from others'
}

// cross returns when a packet of size bytes that enters the lane at now leaves it at the
// far end. It returns false if the queue is full.
func (ln *lane) cross(l Link, size int, now time.Duration) (time.Duration, bool) {
	out := now
	if l.Rate > 0 {
		queue := l.Queue
		if queue == 0 {
			queue = DefaultQueue
		}
		start := max(now, ln.free)
		if start-now > queue {
			return 0, false
		}
		out = start + time.Duration(float64(size)*8/l.Rate*float64(time.Second))
		ln.free = out
	}
	return out + l.Latency + l.jitter(ln.key, out), true
}

// jitter returns the delay added to a packet at time t. It is linear between knots 2*Jitter
// apart. So it never falls faster than time passes, which keeps packets in order.
func (l Link) jitter(key uint64, t time.Duration) time.Duration {
	if l.Jitter == 0 {
		return 0
	}
	step := 2 * l.Jitter
	k := uint64(t / step)
	at := func(k uint64) float64 { return rand.New(rand.NewPCG(key, k)).Float64() }
	a, b := at(k), at(k+1)
	return time.Duration((a + (b-a)*float64(t%step)/float64(step)) * float64(l.Jitter))
}

// A flow is all packets from one address to another.
type flow struct {
	key  uint64
	sent uint64 // packets so far
}

// A fate is what the network will do to one packet.
type fate struct {
	lost, duplicate bool
	flip            int           // the bit to invert, -1 for none
	held            time.Duration // how long to hold it back, usually 0
}

// next decides the fate of the next packet of f, which has size bytes, on its way over both
// links. It depends on the seed, the two addresses and the packet's number alone. So one
// packet more or less elsewhere changes nothing here. Every number is drawn whether it is
// needed or not, so another Loss does not change which packets are duplicated.
func (f *flow) next(up, down Link, size int) fate {
	f.sent++
	r := rand.New(rand.NewPCG(f.key, f.sent))
	hit := func(a, b float64) bool { return r.Float64() < 1-(1-a)*(1-b) }
	x := fate{
		lost:      hit(up.Loss, down.Loss),
		duplicate: hit(up.Duplicate, down.Duplicate),
		flip:      -1,
	}
	flip, bit := hit(up.Flip, down.Flip), r.Float64()
	if flip && size > 0 {
		x.flip = int(bit * float64(8*size))
	}
	if held := r.Float64(); hit(up.Reorder, down.Reorder) {
		x.held = time.Duration(held * float64(maxHeld))
	}
	return x
}

// key mixes the seed with names into the seed of a separate generator.
func key(seed uint64, what string, addrs ...netip.AddrPort) uint64 {
	h := fnv.New64a()
	b := binary.LittleEndian.AppendUint64(nil, seed)
	b = append(b, what...)
	for _, a := range addrs {
		b = append(b, '|')
		b = a.AppendTo(b)
	}
	h.Write(b) // never fails
	return h.Sum64()
}
