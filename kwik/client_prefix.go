package kwik

import (
	"net"
	"net/netip"

	"kwikcp/internal/netprefix"
)

// clientPrefix returns the addresses that count as one client's; see netprefix.Of. An address that
// is no IP address has the invalid prefix.
func clientPrefix(addr net.Addr) netip.Prefix {
	ap, err := addrPort(addr)
	if err != nil {
		return netip.Prefix{}
	}
	return netprefix.Of(ap.Addr())
}

// networkOf returns the network of a client's prefix: an IPv4 address itself, or the /48 of an IPv6
// prefix. It is what one site, and one attacker, can have: 65,536 prefixes of IPv6.
func networkOf(prefix netip.Prefix) netip.Prefix {
	const siteBits = 48
	if prefix.Bits() <= siteBits || prefix.Addr().Is4() { // the invalid prefix has -1
		return prefix
	}
	return netip.PrefixFrom(prefix.Addr(), siteBits).Masked()
}
