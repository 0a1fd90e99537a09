package simnet

import (
	"net"
	"syscall"
)

// Discover lets QUIC discover the MTU over the sockets that are opened from now on. Its packets
// grow from quic.Config.InitialPacketSize to 1,452 bytes, or to what the links of both hosts
// let pass.
func (n *Network) Discover() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.discover = true
}

// A discoveringConn is a Conn of a network with Discover. QUIC discovers the MTU only over sockets
// that have the DF bit of IP. It sets the bit of a socket of the system, which nothing else uses.
type discoveringConn struct {
	*Conn
	system *net.UDPConn
}

// newDiscoveringConn returns c with a socket of the system. The network's lock is held.
func newDiscoveringConn(c *Conn) (net.PacketConn, error) {
	system, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		c.close()
		return nil, err
	}
	return &discoveringConn{c, system}, nil
}

// SyscallConn returns the socket of the system.
func (c *discoveringConn) SyscallConn() (syscall.RawConn, error) { return c.system.SyscallConn() }

// Close closes both sockets.
func (c *discoveringConn) Close() error {
	c.system.Close()
	return c.Conn.Close()
}
