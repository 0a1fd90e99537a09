package kwik

import (
	"net"
	"net/netip"
)

// clientPrefix returns the addresses that count as one client's: an IPv4 address, or the /64 of an
// IPv6 address. A host can use all addresses of its /64. An IPv4-mapped address is an IPv4 address,
// and zones are ignored. An address that is no IP address has the invalid prefix.
func clientPrefix(addr net.Addr) netip.Prefix {
	ap, err := addrPort(addr)
	if err != nil {
		return netip.Prefix{}
	}
	return prefixOf(ap.Addr())
}

// prefixOf is clientPrefix of an IP address.
func prefixOf(ip netip.Addr) netip.Prefix {
	ip = ip.Unmap().WithZone("")
	bits := 64
	if ip.Is4() {
		bits = 32
	}
	prefix, err := ip.Prefix(bits)
	if err != nil {
		return netip.Prefix{} // the zero Addr
	}
	return prefix
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
