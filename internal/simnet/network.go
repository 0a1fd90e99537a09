// Package simnet simulates a UDP network in memory: hosts behind links with latency, a rate, a
// queue and faults. Its connections are net.PacketConns, so real QUIC endpoints run over it.
// It keeps time with package time, so in a testing/synctest bubble seconds of network time
// pass in milliseconds.
//
//	synctest.Test(t, func(t *testing.T) {
//		n := simnet.New(seed)
//		defer n.Close()
//		server, err := n.Listen(netip.MustParseAddrPort("10.0.0.1:4433"), simnet.Link{Latency: 10 * time.Millisecond})
//		client, err := n.Listen(netip.MustParseAddrPort("10.0.0.2:0"), simnet.Link{Rate: 100e6, Loss: 0.01})
//		...
//	})
//
// A host is killed by closing its connection (nothing tells the peers: packets
// to it vanish) and restarted by listening at its address again. It is
// unplugged by Silence.
//
// The seed alone decides which packets suffer which fault. How the endpoints react also
// depends on Go's scheduler and on their randomness, so a whole run is reproducible only
// nearly.
//
// Set quic.Config.InitialPacketSize to no more than its default in a bubble. quic-go v0.65.0 tells
// its congestion controller of a larger size but not its pacer (congestion.newPacer). So it spins
// while it waits for the pacer's budget to grow with time. In a bubble time does not pass while
// anything spins. Path MTU discovery sets both, and is off unless Discover is called; so packets
// of QUIC over simnet have their initial size.
//
// The package exists because quic-go's testutils/simnet has no rate, no queue and no host
// added after the start. It also has two goroutines and a blocking queue of 32 packets per
// connection. Here there is no goroutine at all: one timer, one heap of events and one lock.
package simnet

import (
	"container/heap"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"syscall"
	"time"
)

// A Network is a set of hosts that can reach each other. Its methods may be
// called at any time, from any goroutine, but in one synctest bubble (or all
// outside of any).
type Network struct {
	seed  uint64
	start time.Time

	// mu guards all that follows, and the state of every Conn. No goroutine waits for anything
	// else while it holds the lock. So a goroutine blocked on it does not keep a synctest
	// bubble from advancing its clock.
	mu       sync.Mutex
	closed   bool
	discover bool // new sockets are discoveringConns
	hosts    map[netip.Addr]*host
	conns    map[netip.AddrPort]*Conn // open ones
	flows    map[[2]netip.AddrPort]*flow
	silent   map[netip.Addr]bool
	cut      map[[2]netip.Addr]bool   // both orders of each pair
	paused   map[netip.Addr][]*packet // packets that paused hosts have not received or sent yet
	stats    Stats

	events events
	seq    uint64      // of the next packet to enter events
	timer  *time.Timer // runs deliver when the first event is due; nil before the first
	free   *packet     // packets to use again
}

// A host is an IP address with its link. It outlives its connections.
type host struct {
	link     Link
	up, down lane
	nextPort uint16 // where to look for a free port
}

// Stats counts packets since the start of the network. Every packet sent or
// duplicated ends as delivered, lost, overflowed or unreachable, or is on its
// way.
type Stats struct {
	Packets     int // sent by hosts
	Delivered   int // put into the receive buffer of a host
	Lost        int // by Link.Loss
	Overflowed  int // found a queue or buffer full, or exceeded the MTU
	Unreachable int // silenced, partitioned, or to an address without a listener
	Flipped     int
	Duplicated  int
	Reordered   int
}

// Dropped returns how many packets did not arrive, whatever the cause.
func (s Stats) Dropped() int { return s.Lost + s.Overflowed + s.Unreachable }

// New returns a network without hosts, whose faults follow from seed.
func New(seed uint64) *Network {
	return &Network{
		seed:   seed,
		start:  time.Now(),
		hosts:  make(map[netip.Addr]*host),
		conns:  make(map[netip.AddrPort]*Conn),
		flows:  make(map[[2]netip.AddrPort]*flow),
		silent: make(map[netip.Addr]bool),
		cut:    make(map[[2]netip.Addr]bool),
		paused: make(map[netip.Addr][]*packet),
	}
}

// Listen opens a socket at addr; port 0 picks a free one. The first on an IP
// address makes the host with its link. Later ones share that link, with its latency,
// rate and faults. If they give a link other than the zero Link, it replaces the host's.
func (n *Network) Listen(addr netip.AddrPort, link Link) (net.PacketConn, error) {
	if err := link.validate(); err != nil {
		return nil, err
	}
	ip := addr.Addr().Unmap()
	fail := func(err error) (net.PacketConn, error) {
		return nil, &net.OpError{Op: "listen", Net: "udp", Addr: net.UDPAddrFromAddrPort(addr), Err: err}
	}
	if !ip.IsValid() || ip.IsUnspecified() {
		return fail(errors.New("simnet: a host needs a specified address"))
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.closed {
		return fail(net.ErrClosed)
	}
	h := n.hosts[ip]
	if h == nil {
		h = &host{link: link, nextPort: 49152} // first ephemeral port of RFC 6335
		self := netip.AddrPortFrom(ip, 0)
		h.up.key, h.down.key = key(n.seed, "up", self), key(n.seed, "down", self)
		n.hosts[ip] = h
	} else if link != (Link{}) {
		h.link = link
	}
	at := netip.AddrPortFrom(ip, addr.Port())
	for at.Port() == 0 || addr.Port() == 0 && n.conns[at] != nil {
		at = netip.AddrPortFrom(ip, h.nextPort)
		h.nextPort++
	}
	if n.conns[at] != nil {
		return fail(syscall.EADDRINUSE)
	}
	c := newConn(n, h, at)
	n.conns[at] = c
	if n.discover {
		return newDiscoveringConn(c)
	}
	return c, nil
}

// SetLink gives a host another link from now on; packets on their way keep
// their time of arrival.
func (n *Network) SetLink(ip netip.Addr, link Link) error {
	if err := link.validate(); err != nil {
		return err
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	h := n.hosts[ip.Unmap()]
	if h == nil {
		return fmt.Errorf("simnet: no host %v", ip)
	}
	h.link = link
	return nil
}

// Silence makes a host a black hole: all packets from it and to it are dropped silently,
// including those in flight.
func (n *Network) Silence(ip netip.Addr) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.silent[ip.Unmap()] = true
}

// Heal undoes Silence.
func (n *Network) Heal(ip netip.Addr) {
	n.mu.Lock()
	defer n.mu.Unlock()
	delete(n.silent, ip.Unmap())
}

// Partition cuts two hosts off from each other, in both directions, while
// both still reach everyone else.
func (n *Network) Partition(a, b netip.Addr) {
	a, b = a.Unmap(), b.Unmap()
	n.mu.Lock()
	defer n.mu.Unlock()
	n.cut[[2]netip.Addr{a, b}] = true
	n.cut[[2]netip.Addr{b, a}] = true
}

// HealPartition undoes Partition.
func (n *Network) HealPartition(a, b netip.Addr) {
	a, b = a.Unmap(), b.Unmap()
	n.mu.Lock()
	defer n.mu.Unlock()
	delete(n.cut, [2]netip.Addr{a, b})
	delete(n.cut, [2]netip.Addr{b, a})
}

// maxHeldBack is how many packets are kept for a paused host: about what a
// socket's receive buffer holds.
const maxHeldBack = 256

// Pause stops a host, as SIGSTOP stops a process. Packets that it sends and receives are
// kept, up to maxHeldBack, and are delivered at once when the host resumes.
func (n *Network) Pause(ip netip.Addr) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if ip = ip.Unmap(); n.paused[ip] == nil {
		n.paused[ip] = make([]*packet, 0, maxHeldBack)
	}
}

// Resume undoes Pause.
func (n *Network) Resume(ip netip.Addr) {
	n.mu.Lock()
	defer n.mu.Unlock()
	held := n.paused[ip.Unmap()]
	delete(n.paused, ip.Unmap())
	if n.closed {
		return
	}
	for _, p := range held {
		n.schedule(p, n.now())
	}
	n.arm()
}

// hold keeps a packet that a paused host sends or receives, and reports
// whether there is such a host. n.mu is held.
func (n *Network) hold(p *packet) bool {
	for _, ip := range []netip.Addr{p.from.at.Addr(), p.to.Addr()} {
		held, ok := n.paused[ip]
		switch {
		case !ok:
			continue
		case len(held) < maxHeldBack:
			n.paused[ip] = append(held, p)
		default:
			n.stats.Overflowed++
			n.release(p)
		}
		return true
	}
	return false
}

// Stats returns the counts so far.
func (n *Network) Stats() Stats {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.stats
}

// Close closes every connection, which ends the calls that wait on one, and
// forgets the packets on their way. It always returns nil.
func (n *Network) Close() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.closed = true
	for _, c := range n.conns {
		c.close()
	}
	if n.timer != nil {
		n.timer.Stop()
	}
	n.events, n.free = nil, nil
	clear(n.paused)
	return nil
}

// blocked reports whether Silence or Partition forbid a packet.
func (n *Network) blocked(from, to netip.Addr) bool {
	return n.silent[from] || n.silent[to] || n.cut[[2]netip.Addr{from, to}]
}

// send takes a packet from c up its host's link. n.mu is held.
func (n *Network) send(c *Conn, data []byte, to netip.AddrPort) {
	n.stats.Packets++
	pair := [2]netip.AddrPort{c.at, to}
	f := n.flows[pair]
	if f == nil {
		f = &flow{key: key(n.seed, "flow", pair[:]...)}
		n.flows[pair] = f
	}
	var down Link
	if h := n.hosts[to.Addr()]; h != nil {
		down = h.link
	}
	fate := f.next(c.host.link, down, len(data))
	if n.blocked(c.at.Addr(), to.Addr()) {
		n.stats.Unreachable++
		return
	}
	if most := lowerMTU(c.host.link, down); len(data) > maxPayload(to.Addr()) || (most > 0 && len(data) > most) {
		n.stats.Overflowed++
		return
	}
	due, ok := c.host.up.cross(c.host.link, len(data), n.now())
	if !ok {
		n.stats.Overflowed++
		return
	}
	if fate.lost { // on the wire, so it has taken its share of the rate
		n.stats.Lost++
		return
	}
	copies := 1
	if fate.duplicate {
		n.stats.Duplicated++
		copies++
	}
	if fate.flip >= 0 {
		n.stats.Flipped++
	}
	if fate.held > 0 {
		n.stats.Reordered++
	}
	for range copies {
		p := n.newPacket()
		p.from, p.to, p.atHub = c, to, true
		p.size = copy(p.data[:], data)
		if fate.flip >= 0 {
			p.data[fate.flip/8] ^= 1 << (fate.flip % 8)
		}
		n.schedule(p, due+fate.held)
	}
	n.arm()
}

// deliver moves on every packet that is due: from the hub down the receiver's
// link, or into the receiver's inbox. The timer calls it.
func (n *Network) deliver() {
	n.mu.Lock()
	defer n.mu.Unlock()
	for now := n.now(); len(n.events) > 0 && n.events[0].due <= now; {
		p := heap.Pop(&n.events).(*packet)
		if n.blocked(p.from.at.Addr(), p.to.Addr()) {
			n.stats.Unreachable++
			n.release(p)
			continue
		}
		if n.hold(p) {
			continue
		}
		if p.atHub {
			n.forward(p)
			continue
		}
		c := n.conns[p.to]
		switch {
		case c == nil:
			n.stats.Unreachable++
			n.release(p)
		case !c.receive(p):
			n.stats.Overflowed++
			n.release(p)
		default:
			n.stats.Delivered++
		}
	}
	n.arm()
}

// lowerMTU returns the lower of two links' MTU, 0 if neither has one.
func lowerMTU(up, down Link) int {
	if up.MTU == 0 || (down.MTU != 0 && down.MTU < up.MTU) {
		return down.MTU
	}
	return up.MTU
}

// forward takes a packet from the hub down its receiver's link.
func (n *Network) forward(p *packet) {
	h := n.hosts[p.to.Addr()]
	if h == nil {
		n.stats.Unreachable++
		n.release(p)
		return
	}
	due, ok := h.down.cross(h.link, p.size, p.due)
	if !ok {
		n.stats.Overflowed++
		n.release(p)
		return
	}
	p.atHub = false
	n.schedule(p, due)
}

func (n *Network) now() time.Duration { return time.Since(n.start) }

// schedule makes p an event; arm must follow before n.mu is released.
func (n *Network) schedule(p *packet, due time.Duration) {
	p.due, p.seq = due, n.seq
	n.seq++
	heap.Push(&n.events, p)
}

// arm sets the timer to the first event. That a call of deliver may already be
// waiting for n.mu does no harm: it finds nothing due.
func (n *Network) arm() {
	if len(n.events) == 0 || n.closed {
		return
	}
	wait := n.events[0].due - n.now()
	if n.timer == nil {
		n.timer = time.AfterFunc(wait, n.deliver)
	} else {
		n.timer.Reset(wait)
	}
}

// newPacket returns a packet whose fields the caller sets.
func (n *Network) newPacket() *packet {
	p := n.free
	if p == nil {
		return new(packet)
	}
	n.free, p.next = p.next, nil
	return p
}

// release takes back a packet without references.
func (n *Network) release(p *packet) {
	p.from = nil
	p.next, n.free = n.free, p
}
