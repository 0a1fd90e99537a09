// Package addrclass decides to which addresses one side may send another one (docs/PROTOCOL.md
// section 2). A primary sends its clients elsewhere, and so does a web server that redirects. It is
// pure: the caller supplies the addresses.
package addrclass

import "net/netip"

// A Class says from where an address can be reached.
type Class int

const (
	Never     Class = iota // names no single host, or hides an address inside another
	Loopback               // this machine
	LinkLocal              // the machines on one link
	Private                // the machines of one site: RFC 1918, RFC 4193
	Carrier                // those behind one carrier's NAT, or of one overlay: RFC 6598
	Test                   // documentation and benchmarks: RFC 5737, RFC 2544, RFC 3849
	Public                 // every machine
)

// specialPrefixes are the prefixes that are not public, the longer ones first where two overlap.
// An IPv6 address outside 2000::/3 and this list is Never.
var specialPrefixes = []struct {
	prefix netip.Prefix
	class  Class
}{
	{netip.MustParsePrefix("0.0.0.0/8"), Never},
	{netip.MustParsePrefix("10.0.0.0/8"), Private},
	{netip.MustParsePrefix("100.64.0.0/10"), Carrier},
	{netip.MustParsePrefix("127.0.0.0/8"), Loopback},
	{netip.MustParsePrefix("169.254.0.0/16"), LinkLocal},
	{netip.MustParsePrefix("172.16.0.0/12"), Private},
	{netip.MustParsePrefix("192.0.0.0/24"), Never}, // protocol assignments
	{netip.MustParsePrefix("192.0.2.0/24"), Test},
	{netip.MustParsePrefix("192.88.99.0/24"), Never}, // 6to4 relays
	{netip.MustParsePrefix("192.168.0.0/16"), Private},
	{netip.MustParsePrefix("198.18.0.0/15"), Test},
	{netip.MustParsePrefix("198.51.100.0/24"), Test},
	{netip.MustParsePrefix("203.0.113.0/24"), Test},
	{netip.MustParsePrefix("224.0.0.0/3"), Never}, // multicast, reserved, broadcast

	{netip.MustParsePrefix("::1/128"), Loopback},
	{netip.MustParsePrefix("2001:2::/48"), Test},
	{netip.MustParsePrefix("2001:db8::/32"), Test},
	{netip.MustParsePrefix("2001::/23"), Never}, // protocol assignments, Teredo among them
	{netip.MustParsePrefix("2002::/16"), Never}, // 6to4: an IPv4 address inside
	{netip.MustParsePrefix("3fff::/20"), Test},
	{netip.MustParsePrefix("2000::/3"), Public},
	{netip.MustParsePrefix("fc00::/7"), Private},
	{netip.MustParsePrefix("fe80::/10"), LinkLocal},
	{netip.MustParsePrefix("::/0"), Never}, // NAT64, IPv4-compatible, site-local, multicast, unassigned
}

// Of returns the class of an address.
func Of(ip netip.Addr) Class {
	ip = ip.Unmap()
	if !ip.IsValid() || ip.Zone() != "" {
		return Never
	}
	for _, special := range specialPrefixes {
		if special.prefix.Contains(ip) {
			return special.class
		}
	}
	return Public
}

// MayName reports whether a primary of one class may send its clients to an address of another.
// isHere means that the primary is on the client's machine: it reaches what the client reaches.
func MayName(primary, named Class, isHere bool) bool {
	switch named {
	case Never:
		return false
	case Public:
		return true
	}
	return isHere || primary == named
}
