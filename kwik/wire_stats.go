package kwik

import "github.com/quic-go/quic-go"

// WireStats counts network traffic as QUIC does: without UDP and IP headers, with retransmissions.
// Losses are those of this side's packets; ServerStats.serverLost has those of a server's.
type WireStats struct {
	BytesSent, BytesReceived, BytesLost       uint64
	PacketsSent, PacketsReceived, PacketsLost uint64
}

func (w *WireStats) add(x WireStats) {
	w.BytesSent += x.BytesSent
	w.BytesReceived += x.BytesReceived
	w.BytesLost += x.BytesLost
	w.PacketsSent += x.PacketsSent
	w.PacketsReceived += x.PacketsReceived
	w.PacketsLost += x.PacketsLost
}

// wireOf extracts the counts from the statistics of a QUIC connection.
func wireOf(c quic.ConnectionStats) WireStats {
	return WireStats{
		BytesSent: c.BytesSent, BytesReceived: c.BytesReceived, BytesLost: c.BytesLost,
		PacketsSent: c.PacketsSent, PacketsReceived: c.PacketsReceived, PacketsLost: c.PacketsLost,
	}
}
