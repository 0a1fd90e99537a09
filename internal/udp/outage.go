package udp

import (
	"errors"
	"net"
	"slices"
	"sync/atomic"
	"syscall"
)

// A steadyConn is a UDP socket on which an outage of the network looks like lost packets. QUIC
// would end its connections at the first error of a write. Such errors occur when a link goes
// down, a firewall is loaded or an address is replaced. The error of a first write is reported,
// because then nothing can be lost.
type steadyConn struct {
	*net.UDPConn
	written atomic.Bool // a write has succeeded
}

// WriteMsgUDP implements quic-go's OOBCapablePacketConn.
func (c *steadyConn) WriteMsgUDP(b, oob []byte, addr *net.UDPAddr) (n, oobn int, err error) {
	n, oobn, err = c.UDPConn.WriteMsgUDP(b, oob, addr)
	if c.isLost(err) {
		return len(b), len(oob), nil
	}
	return n, oobn, err
}

// WriteTo implements net.PacketConn.
func (c *steadyConn) WriteTo(b []byte, addr net.Addr) (n int, err error) {
	n, err = c.UDPConn.WriteTo(b, addr)
	if c.isLost(err) {
		return len(b), nil
	}
	return n, err
}

// isLost reports whether the packet of a write counts as lost.
func (c *steadyConn) isLost(err error) bool {
	if err == nil {
		c.written.Store(true)
		return false
	}
	return c.written.Load() && isOutage(err)
}

// outages are the errors of a write that may pass.
var outages = []syscall.Errno{
	syscall.ENETDOWN, syscall.ENETUNREACH, syscall.EHOSTDOWN, syscall.EHOSTUNREACH, syscall.EADDRNOTAVAIL,
	syscall.ENOBUFS, syscall.ECONNREFUSED,
	syscall.EPERM, syscall.EACCES, // of a firewall
}

func isOutage(err error) bool {
	return slices.ContainsFunc(outages, func(e syscall.Errno) bool { return errors.Is(err, e) }) ||
		slices.ContainsFunc([]syscall.Errno{wsaNetDown, wsaNetUnreach, wsaHostUnreach, wsaAddrNotAvail, wsaConnReset},
			func(e syscall.Errno) bool { return isWindows(err, e) })
}
