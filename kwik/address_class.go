package kwik

import "net/netip"

// This file decides which addresses a primary may name to a client (docs/PROTOCOL.md section 2).
// It is pure: a client, and a primary that checks what a secondary advertises, supply the
// addresses.

// An addressClass says from where an address can be reached.
type addressClass int

const (
	classNever     addressClass = iota // names no single host, or hides an address inside another
	classLoopback                      // this machine
	classLinkLocal                     // the machines on one link
	classPrivate                       // the machines of one site: RFC 1918, RFC 4193
	classCarrier                       // those behind one carrier's NAT, or of one overlay: RFC 6598
	classTest                          // documentation and benchmarks: RFC 5737, RFC 2544, RFC 3849
	classPublic                        // every machine
)

// specialPrefixes are the prefixes that are not public, the longer ones first where two overlap.
// An IPv6 address outside 2000::/3 and this list is classNever.
var specialPrefixes = []struct {
	prefix netip.Prefix
	class  addressClass
}{
	{netip.MustParsePrefix("0.0.0.0/8"), classNever},
	{netip.MustParsePrefix("10.0.0.0/8"), classPrivate},
	{netip.MustParsePrefix("100.64.0.0/10"), classCarrier},
	{netip.MustParsePrefix("127.0.0.0/8"), classLoopback},
	{netip.MustParsePrefix("169.254.0.0/16"), classLinkLocal},
	{netip.MustParsePrefix("172.16.0.0/12"), classPrivate},
	{netip.MustParsePrefix("192.0.0.0/24"), classNever}, // protocol assignments
	{netip.MustParsePrefix("192.0.2.0/24"), classTest},
	{netip.MustParsePrefix("192.88.99.0/24"), classNever}, // 6to4 relays
	{netip.MustParsePrefix("192.168.0.0/16"), classPrivate},
	{netip.MustParsePrefix("198.18.0.0/15"), classTest},
	{netip.MustParsePrefix("198.51.100.0/24"), classTest},
	{netip.MustParsePrefix("203.0.113.0/24"), classTest},
	{netip.MustParsePrefix("224.0.0.0/3"), classNever}, // multicast, reserved, broadcast

	{netip.MustParsePrefix("::1/128"), classLoopback},
	{netip.MustParsePrefix("2001:2::/48"), classTest},
	{netip.MustParsePrefix("2001:db8::/32"), classTest},
	{netip.MustParsePrefix("2001::/23"), classNever}, // protocol assignments, Teredo among them
	{netip.MustParsePrefix("2002::/16"), classNever}, // 6to4: an IPv4 address inside
	{netip.MustParsePrefix("3fff::/20"), classTest},
	{netip.MustParsePrefix("2000::/3"), classPublic},
	{netip.MustParsePrefix("fc00::/7"), classPrivate},
	{netip.MustParsePrefix("fe80::/10"), classLinkLocal},
	{netip.MustParsePrefix("::/0"), classNever}, // NAT64, IPv4-compatible, site-local, multicast, unassigned
}

// classOf returns the class of an address.
func classOf(ip netip.Addr) addressClass {
	ip = ip.Unmap()
	if !ip.IsValid() || ip.Zone() != "" {
		return classNever
	}
	for _, special := range specialPrefixes {
		if special.prefix.Contains(ip) {
			return special.class
		}
	}
	return classPublic
}

// mayName reports whether a primary of one class may send its clients to an address of another.
// isHere means that the primary is on the client's machine: it reaches what the client reaches.
func mayName(primary, named addressClass, isHere bool) bool {
	switch named {
	case classNever:
		return false
	case classPublic:
		return true
	}
	return isHere || primary == named
}

// mayNamePort reports whether a primary at one port may send its clients to another. Ports below
// 1,024 belong to services of other protocols, except HTTP/3's.
func mayNamePort(primary, named uint16) bool {
	switch named {
	case 0:
		return false
	case 443, primary:
		return true
	case 1900, 3702, 5353, 5355, 11211: // answer strangers: SSDP, WS-Discovery, mDNS, LLMNR, memcached
		return false
	}
	return named >= 1024
}
