package kwik

import (
	"net"
	"time"

	"github.com/quic-go/quic-go"

	kwikpb "kwikcp/kwik/proto"
)

// This file is for diagnosis: what a client can find out about a server and the connection to it.
// Nothing else depends on it.

// Connection describes the connection to a server.
type Connection struct {
	quic.ConnectionState
	Local net.Addr // address of this side
	// ECN is the outcome of ECN validation: whether this side's congestion marks arrive (RFC
	// 9000, section 13.4.2). Empty without ClientConfig.Inspect.
	ECN string
	// Host is the server's description of itself. It is nil without ClientConfig.Inspect, before
	// Welcome, or if the server sends none.
	Host *Host
}

// Host is a server's description of itself. The server may lie.
type Host struct {
	// Software is the server's ServerConfig.Software, at most 64 bytes of any content.
	Software string
	// Clock is the offset of the server's clock to this side's, negative if it is behind. The
	// error of Clock is at most ClockError.
	Clock, ClockError time.Duration
	// ReceiveBuffer and SendBuffer are the sizes of the UDP buffers as the system counts them,
	// in bytes; 0 if unknown.
	ReceiveBuffer, SendBuffer int
	// OffloadsKnown reports whether GRO, GSO and ECN are known.
	OffloadsKnown, GRO, GSO, ECN bool
	// Access is the server's ServerConfig.Access, at most 64 bytes of any content; empty if the
	// server sends none.
	Access string
}

// readHost decodes a server's description of itself. The client sent the request at the time asked
// and received the answer at now.
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
		Access: h.GetAccess()[:min(len(h.GetAccess()), maxSoftware)],
	}
}

// Connection returns the first connection to a server, or false if there is none.
func (s *ClientSession) Connection(server ServerID) (Connection, bool) {
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
