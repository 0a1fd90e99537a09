package kwik

import (
	"context"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/qlog"
	"github.com/quic-go/quic-go/qlogwriter"

	"kwikcp/internal/udp"
	kwikpb "kwikcp/kwik/proto"
)

// This file is about what somebody wants to know who looks for what is wrong: about servers, what they say of themselves, and about the
// connections to them. Nothing else depends on it.

// A Connection is what can be found out about the connection to a server.
type Connection struct {
	quic.ConnectionState
	Local net.Addr // this side
	// ECN is what QUIC found out about the network: whether marks of congestion that this side sends arrive (RFC 9000 section 13.4.2).
	// Empty without ClientConfig.Inspect.
	ECN ECNState
	// Host is what the server says of itself; nil without ClientConfig.Inspect, before Welcome, or if it says nothing.
	Host *Host
}

// An ECNState is the outcome of ECN validation.
type ECNState string

const (
	ECNCapable ECNState = "capable"
	ECNFailed  ECNState = "failed"
	ECNTesting ECNState = "testing" // or not known, because too little was sent
)

// A Host is what a server says of itself. It may lie.
type Host struct {
	// Software is its ServerConfig.Software, at most 64 bytes of whatever.
	Software string
	// Clock is how far its clock is ahead of this side's; it may be wrong by ClockError. A negative one is behind.
	Clock, ClockError time.Duration
	// UDP buffers as the system counts them, in bytes; 0 if unknown.
	ReceiveBuffer, SendBuffer int
	// OffloadsKnown says that the offloads and ECN below are.
	OffloadsKnown, GRO, GSO, ECN bool
}

// maxSoftware bounds what is believed of a server's name for its software, in bytes.
const maxSoftware = 64

// inspectMachine finds out once what the sockets of this machine can do. It opens one, which a client must not be able to cause again and again.
var inspectMachine = sync.OnceValues(udp.Inspect)

// host says what a server says of itself.
func (c *ServerConfig) host() *kwikpb.Host {
	h := &kwikpb.Host{Software: strings.ToValidUTF8(c.Software[:min(len(c.Software), maxSoftware)], ""), TimeMs: c.Now().UnixMilli()}
	if m, err := inspectMachine(); err == nil {
		h.ReceiveBuffer, h.SendBuffer = uint32(m.ReceiveBuffer), uint32(m.SendBuffer)
		h.OffloadsKnown, h.Gro, h.Gso, h.Ecn = m.Known, m.GRO, m.GSO, m.ECN
	}
	return h
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

// An ecnWatch is a trace of a connection that remembers what quic-go finds out about ECN, which it tells nowhere else.
type ecnWatch struct {
	next  qlogwriter.Trace // may be nil
	state atomic.Value     // qlog.ECNState
}

// watchECN makes q watch the connections that it is used for.
func watchECN(q *quic.Config) {
	next := q.Tracer
	q.Tracer = func(ctx context.Context, isClient bool, id quic.ConnectionID) qlogwriter.Trace {
		w := &ecnWatch{}
		if next != nil {
			w.next = next(ctx, isClient, id)
		}
		return w
	}
}

func (w *ecnWatch) result() ECNState {
	switch w.state.Load() {
	case qlog.ECNStateCapable:
		return ECNCapable
	case qlog.ECNStateFailed:
		return ECNFailed
	}
	return ECNTesting
}

func (w *ecnWatch) AddProducer() qlogwriter.Recorder {
	r := &ecnRecorder{watch: w}
	if w.next != nil {
		r.next = w.next.AddProducer()
	}
	return r
}

type ecnRecorder struct {
	watch *ecnWatch
	next  qlogwriter.Recorder // may be nil
}

func (r *ecnRecorder) RecordEvent(e qlogwriter.Event) {
	if u, ok := e.(qlog.ECNStateUpdated); ok {
		r.watch.state.Store(u.State)
	}
	if r.next != nil {
		r.next.RecordEvent(e)
	}
}

func (r *ecnRecorder) Close() error {
	if r.next == nil {
		return nil
	}
	return r.next.Close()
}
