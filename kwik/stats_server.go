package kwik

import (
	"time"

	"github.com/quic-go/quic-go"

	kwikpb "kwikcp/kwik/proto"
)

// reportInterval is the shortest interval between two reports of a server on one path.
const reportInterval = 250 * time.Millisecond

// report sends the client the state of its path, at most once in reportInterval. Only the
// sender of packets knows which were lost.
func (s *ServerSession) report(now time.Time) {
	s.mu.Lock()
	isDue := !now.Before(s.reportAt)
	if isDue {
		s.reportAt = now.Add(reportInterval)
	}
	s.mu.Unlock()
	if !isDue {
		return
	}
	c := s.conn.ConnectionStats()
	s.control.send(&kwikpb.ControlFrame{Frame: &kwikpb.ControlFrame_PathReport{PathReport: &kwikpb.PathReport{
		PacketsSent: c.PacketsSent, PacketsLost: c.PacketsLost, CongestionWindow: c.CongestionWindow,
		SmoothedRttUs: uint64(c.SmoothedRTT.Microseconds()), MinRttUs: uint64(c.MinRTT.Microseconds()),
	}}})
}

// ConnectionStats returns QUIC's statistics of the client's connection, like the method of a
// quic-go connection.
func (s *ServerSession) ConnectionStats() quic.ConnectionStats { return s.conn.ConnectionStats() }
