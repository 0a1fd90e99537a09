package kwik

import (
	"net/netip"
	"slices"
)

// A joiningPeer is what a primary knows about a secondary when it checks its address.
type joiningPeer struct {
	seen     netip.AddrPort // as the primary sees it
	isLocal  bool           // it is on the primary's machine
	hasToken bool           // it has proved that it knows the join token
}

// reflectionPorts are ports of services that answer any datagram (RFC 9308 section 8.1).
var reflectionPorts = []uint16{17, 19, 53, 111, 123, 137, 161, 389, 500, 1900, 3702, 5353, 11211}

// metadataServices are the addresses at which clouds give machines their credentials, besides
// those that are link-local.
var metadataServices = []netip.Addr{
	netip.MustParseAddr("fd00:ec2::254"), netip.MustParseAddr("100.100.100.200"), netip.MustParseAddr("192.0.0.192"),
}

// Blocks that no server can have, and blocks that embed an IPv4 address from the given byte on.
var (
	reservedBlocks = []netip.Prefix{
		netip.MustParsePrefix("0.0.0.0/8"), netip.MustParsePrefix("240.0.0.0/4"), netip.MustParsePrefix("::/96"),
	}
	nat64     = netip.MustParsePrefix("64:ff9b::/96")
	sixToFour = netip.MustParsePrefix("2002::/16")
)

// advertised returns the address that a secondary advertises, if the primary may dial it and send
// clients there. isLocal reports whether an address is one of the primary's machine.
func (p joiningPeer) advertised(text string, isLocal func(netip.Addr) bool) (netip.AddrPort, error) {
	addr, err := netip.ParseAddrPort(text)
	ip := addr.Addr().Unmap()
	addr = netip.AddrPortFrom(ip, addr.Port())
	isSeen := addr == p.seen
	switch {
	case err != nil || addr.Port() == 0 || !mayBeServer(ip),
		!isSeen && slices.Contains(reflectionPorts, addr.Port()):
		return netip.AddrPort{}, errorf(ErrAccessRefused, "%q is no address to advertise", printable(text))
	case isHostOnly(ip) && !p.isLocal:
		return netip.AddrPort{}, errorf(ErrAccessRefused, "%v cannot be reached from elsewhere", addr)
	case !p.hasToken && !isSeen && !(isLocal(ip) && addr.Port() == p.seen.Port()):
		return netip.AddrPort{}, errorf(ErrAccessRefused,
			"without a join token a secondary may advertise only port %d of this machine", p.seen.Port())
	}
	return addr, nil
}

// mayBeServer reports whether an address may be that of a server.
func mayBeServer(ip netip.Addr) bool {
	if inner, ok := embeddedIPv4(ip); ok {
		return mayBeServer(inner) && !isHostOnly(inner)
	}
	isIn := func(b netip.Prefix) bool { return b.Contains(ip) }
	isReserved := slices.ContainsFunc(reservedBlocks, isIn) && !ip.IsLoopback()
	return isUnicast(ip) && !isReserved && !slices.Contains(metadataServices, ip)
}

// isHostOnly reports whether an address means another host on each host or link.
func isHostOnly(ip netip.Addr) bool { return ip.IsLoopback() || ip.IsLinkLocalUnicast() }

// embeddedIPv4 returns the IPv4 address that a translator reaches at an IPv6 address.
func embeddedIPv4(ip netip.Addr) (inner netip.Addr, ok bool) {
	b := ip.As16()
	switch {
	case ip.Is4():
		return inner, false
	case nat64.Contains(ip):
		return netip.AddrFrom4([4]byte(b[12:16])), true
	case sixToFour.Contains(ip):
		return netip.AddrFrom4([4]byte(b[2:6])), true
	}
	return inner, false
}
