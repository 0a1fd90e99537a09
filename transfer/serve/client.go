package serve

import (
	"kwikcp/kwik"
	"net"
	"net/netip"
)

// A client is one for whom a server works. Sessions of one prefix share what the prefix gets. The
// zero client is the server itself.
type client struct {
	prefix  netip.Prefix
	session *kwik.ServerSession
}

// clientOf returns the client of a session; nil is the server itself.
func clientOf(session *kwik.ServerSession) client {
	if session == nil {
		return client{}
	}
	return client{prefixOf(session.RemoteAddr()), session}
}

// prefixOf returns the addresses that count as one client's: an IPv4 address, or the /64 of an IPv6
// address. It is the zero Prefix if addr is not that of a UDP socket.
func prefixOf(addr net.Addr) netip.Prefix {
	udp, ok := addr.(*net.UDPAddr)
	if !ok {
		return netip.Prefix{}
	}
	ip, bits := udp.AddrPort().Addr().Unmap().WithZone(""), 64
	if ip.Is4() {
		bits = 32
	}
	prefix, _ := ip.Prefix(bits) // the zero Prefix for the zero Addr
	return prefix
}
