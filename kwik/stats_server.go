package kwik

import (
	"time"

	"github.com/quic-go/quic-go"

	kwikpb "kwikcp/kwik/proto"
)

// reportInterval is how often at most a server reports on a path.
const reportInterval = 250 * time.Millisecond

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

// ConnectionStats returns QUIC's statistics of the client's connection, as a quic-go connection does.
func (s *ServerSession) ConnectionStats() quic.ConnectionStats { return s.conn.ConnectionStats() }
