package simnet

import (
	"container/heap"
	"net/netip"
	"time"
)

const (
	mtu       = 1500 // bytes of an IP packet
	headersV4 = 28   // of IPv4 and UDP
	headersV6 = 48   // of IPv6 and UDP
)

// maxPayload returns how many bytes of UDP payload fit the MTU towards a.
func maxPayload(a netip.Addr) int {
	if a.Is4() {
		return mtu - headersV4
	}
	return mtu - headersV6
}

// A packet is under way. First it is in Network.events, as an event that is due at a certain
// time, then in the inbox of the receiving Conn.
type packet struct {
	from *Conn
	to   netip.AddrPort

	due   time.Duration // since the start of the network
	seq   uint64        // orders packets due at the same time
	atHub bool          // next it reaches the hub; else its receiver

	next *packet // in an inbox, or in Network.free
	size int
	data [mtu]byte
}

// events is a heap of packets, the one due first on top.
type events []*packet

var _ heap.Interface = (*events)(nil)

func (e events) Len() int      { return len(e) }
func (e events) Swap(i, j int) { e[i], e[j] = e[j], e[i] }
func (e *events) Push(x any)   { *e = append(*e, x.(*packet)) }

func (e events) Less(i, j int) bool {
	if e[i].due != e[j].due {
		return e[i].due < e[j].due
	}
	return e[i].seq < e[j].seq
}

func (e *events) Pop() any {
	last := len(*e) - 1
	p := (*e)[last]
	(*e)[last] = nil
	*e = (*e)[:last]
	return p
}
