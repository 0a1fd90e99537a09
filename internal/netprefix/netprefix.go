// Package netprefix defines which addresses count as one client's.
package netprefix

import "net/netip"

// Of returns the addresses that count as one client's: an IPv4 address, or the /64 of an IPv6
// address. A host can use all addresses of its /64. An IPv4-mapped address is an IPv4 address, and
// zones are ignored. The zero Addr has the invalid prefix.
func Of(ip netip.Addr) netip.Prefix {
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
