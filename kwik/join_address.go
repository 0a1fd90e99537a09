package kwik

import (
	"net/netip"
	"slices"

	"kwikcp/internal/addrclass"
)

// A joiningPeer is what a primary knows about a secondary when it checks its address.
type joiningPeer struct {
	seen     netip.AddrPort // as the primary sees it
	port     uint16         // the primary's own
	isLocal  bool           // it is on the primary's machine
	hasToken bool           // it has proved that it knows the join token
}

// metadataServices are the addresses at which clouds give machines their credentials, besides
// those that are link-local.
var metadataServices = []netip.Addr{
	netip.MustParseAddr("fd00:ec2::254"), netip.MustParseAddr("100.100.100.200"), netip.MustParseAddr("192.0.0.192"),
}

// advertised returns the address that a secondary advertises, if the primary may dial it and send
// clients there. isLocal reports whether an address is one of the primary's machine.
func (p joiningPeer) advertised(text string, isLocal func(netip.Addr) bool) (netip.AddrPort, error) {
	addr, err := netip.ParseAddrPort(text)
	ip := addr.Addr().Unmap()
	addr = netip.AddrPortFrom(ip, addr.Port())
	isSeen := addr == p.seen
	switch {
	case err != nil, addrclass.Of(ip) == addrclass.Never, slices.Contains(metadataServices, ip), !mayNamePort(p.port, addr.Port()):
		return netip.AddrPort{}, errorf(ErrAccessRefused, "%q is no address to advertise", printable(text))
	case isHostOnly(ip) && !p.isLocal:
		return netip.AddrPort{}, errorf(ErrAccessRefused, "%v cannot be reached from elsewhere", addr)
	case !p.hasToken && !isSeen && !isLocal(ip): // a local process can reach this machine itself
		return netip.AddrPort{}, errorf(ErrAccessRefused,
			"without a join token a secondary may advertise only addresses of this machine")
	}
	return addr, nil
}

// isHostOnly reports whether an address means another host on each host or link.
func isHostOnly(ip netip.Addr) bool { return ip.IsLoopback() || ip.IsLinkLocalUnicast() }
