package kwik

import (
	"net"
	"time"

	"github.com/quic-go/quic-go"

	kwikpb "kwikcp/kwik/proto"
)

// This file is about what somebody wants to know who looks for what is wrong: about servers, what they say of themselves, and about the
// connections to them. Nothing else depends on it.

// A Connection is what can be found out about the connection to a server.
type Connection struct {
	quic.ConnectionState
	Local net.Addr // this side
	// ECN is what QUIC found out about the network: whether marks of congestion that this side sends arrive (RFC 9000 section 13.4.2).
	// Empty without Config.Inspect.
	ECN ECNState
	// Host is what the server says of itself; nil without Config.Inspect, before Welcome, or if it says nothing.
	Host *Host
}

// A Host is what a server says of itself. It may lie.
type Host struct {
	// Software is its Config.Software, at most 64 bytes of whatever.
	Software string
	// Clock is how far its clock is ahead of this side's; it may be wrong by ClockError. A negative one is behind.
	Clock, ClockError time.Duration
	// UDP buffers as the system counts them, in bytes; 0 if unknown.
	ReceiveBuffer, SendBuffer int
	// OffloadsKnown says that the offloads and ECN below are.
	OffloadsKnown, GRO, GSO, ECN bool
}

// readHost takes what a server says of itself in an answer that came after a time that is here asked.
func readHost(h *kwikpb.Host, asked, now time.Time) *Host {
	if h == nil {
		return nil
	}
	half := now.Sub(asked) / 2
	return &Host{
		Software: h.GetSoftware()[:min(len(h.GetSoftware()), maxSoftware)],
		Clock:    time.UnixMilli(h.GetTimeMs()).Sub(asked.Add(half)), ClockError: half + time.Millisecond,
		ReceiveBuffer: int(h.GetReceiveBuffer()), SendBuffer: int(h.GetSendBuffer()),
		OffloadsKnown: h.GetOffloadsKnown(), GRO: h.GetGro(), GSO: h.GetGso(), ECN: h.GetEcn(),
	}
}

// Connection returns what is known about the first connection to a server; false while there is none.
func (s *ClientSession) Connection(server PathID) (Connection, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	sv := s.servers[server]
	if sv == nil {
		return Connection{}, false
	}
	for _, r := range sv.paths {
		if p := r.path; p != nil {
			c := Connection{ConnectionState: p.conn.ConnectionState(), Local: p.conn.LocalAddr(), Host: p.host}
			if w, ok := p.conn.QlogTrace().(*ecnWatch); ok {
				c.ECN = w.result()
			}
			return c, true
		}
	}
	return Connection{}, false
}
