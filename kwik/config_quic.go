package kwik

import (
	"context"
	"kwikcp/internal/udp"
	"net"
	"net/netip"

	"github.com/quic-go/quic-go"
)

// This file makes the QUIC configurations of clients and servers. It has the defaults that use the
// system.

// clientQUIC returns the QUIC configuration of a path to a server of the given role. It sets the
// stream limits of the isolation rule: every server may open unidirectional streams, the primary
// bidirectional ones. A secondary may open a few bidirectional streams, only to see them reset.
func (c *ClientConfig) clientQUIC(role ServerRole) *quic.Config {
	q := c.QUIC.Clone()
	if c.RateLimit != nil {
		// The connection's window bounds the bytes that have arrived and are unread. It grows by
		// itself with the round-trip time. A stream's window must not grow, for it would make the
		// connection's grow as well.
		setDefault(&q.InitialConnectionReceiveWindow, c.RateLimit.window())
		setDefault(&q.MaxStreamReceiveWindow, 4<<20)
	}
	setDefault(&q.InitialStreamReceiveWindow, 4<<20)
	setDefault(&q.MaxStreamReceiveWindow, 8<<20)
	setDefault(&q.InitialConnectionReceiveWindow, 8<<20)
	setDefault(&q.MaxConnectionReceiveWindow, 12<<20)
	q.DisablePathMTUDiscovery = true // see path_mtu.go
	q.MaxIncomingUniStreams = int64(c.SecondaryStreams.MaxStreamsPerPath)
	q.MaxIncomingStreams = maxPlainStreams
	if role == ServerRoleSecondary {
		q.MaxIncomingStreams = maxStraySecondaryStream
	}
	if c.Inspect {
		watchECN(q)
	}
	return q
}

// serverQUIC returns the QUIC configuration of a listener: clients open no unidirectional streams.
func (c *ServerConfig) serverQUIC() *quic.Config {
	q := c.QUIC.Clone()
	setServerWindows(q)
	q.MaxIncomingStreams = maxPlainStreams
	q.MaxIncomingUniStreams = -1
	return q
}

// setServerWindows sets the receive windows of a server's connections. They bound the bytes that
// have arrived and are unread. A window grows only while they are read, so a peer whose bytes are
// not read occupies what a window has at first. A frame may be longer than the window of its
// stream: the window moves as the frame is read.
func setServerWindows(q *quic.Config) {
	setDefault(&q.InitialStreamReceiveWindow, 32<<10)
	setDefault(&q.MaxStreamReceiveWindow, 128<<10)
	setDefault(&q.InitialConnectionReceiveWindow, 64<<10)
	setDefault(&q.MaxConnectionReceiveWindow, 256<<10)
}

func listenUDP(_ context.Context, remote netip.AddrPort) (net.PacketConn, error) {
	network := "udp4"
	if remote.Addr().Is6() {
		network = "udp6"
	}
	return udp.Listen(network, nil)
}

// systemAddresses returns the addresses of the machine's interfaces.
func systemAddresses() []netip.Addr {
	nets, err := net.InterfaceAddrs()
	if err != nil {
		return nil
	}
	var addrs []netip.Addr
	for _, n := range nets {
		if p, err := netip.ParsePrefix(n.String()); err == nil {
			addrs = append(addrs, p.Addr().Unmap())
		}
	}
	return addrs
}
