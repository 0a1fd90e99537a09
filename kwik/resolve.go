package kwik

import (
	"context"
	"fmt"
	"net"
	"net/netip"
)

// An AddressFamily restricts the addresses that a client uses.
type AddressFamily int

const (
	AnyFamily AddressFamily = iota
	IPv4
	IPv6
)

func (f AddressFamily) String() string {
	switch f {
	case AnyFamily:
		return "IP"
	case IPv4:
		return "IPv4"
	case IPv6:
		return "IPv6"
	}
	return "unknown"
}

// network returns the family's name in package net.
func (f AddressFamily) network() string {
	switch f {
	case IPv4:
		return "ip4"
	case IPv6:
		return "ip6"
	}
	return "ip"
}

// has reports whether an address is of the family. It must not be an IPv4-mapped one.
func (f AddressFamily) has(ip netip.Addr) bool {
	return f == AnyFamily || ip.Is4() == (f == IPv4)
}

// A lookupFunc returns the addresses of a host in the order in which to try them (RFC 6724), as
// net.Resolver.LookupNetIP does. network is ip, ip4 or ip6.
type lookupFunc func(ctx context.Context, network, host string) ([]netip.Addr, error)

// resolve returns the addresses of host:port, in the order in which to try them.
func (c *Config) resolve(ctx context.Context, addr string) ([]netip.AddrPort, error) {
	host, service, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, err
	}
	port, err := net.DefaultResolver.LookupPort(ctx, "udp", service)
	if err != nil {
		return nil, err
	}
	var ips []netip.Addr
	if ip, err := netip.ParseAddr(host); err == nil {
		ips = []netip.Addr{ip}
	} else if ips, err = c.lookupIP(ctx, c.Family.network(), host); err != nil {
		return nil, err
	}
	var addrs []netip.AddrPort
	for _, ip := range interleave(ips) {
		if c.Family.has(ip) {
			addrs = append(addrs, netip.AddrPortFrom(ip, uint16(port)))
		}
	}
	if len(addrs) == 0 {
		return nil, &net.AddrError{Err: fmt.Sprintf("no %v address", c.Family), Addr: host}
	}
	return addrs, nil
}

// interleave alternates between the two families, starting with that of the first address, and
// keeps the order within each. So a family that does not work costs one attempt (RFC 8305 section
// 4).
func interleave(ips []netip.Addr) []netip.Addr {
	var first, other []netip.Addr
	for _, ip := range ips {
		ip = ip.Unmap()
		if len(first) == 0 || ip.Is4() == first[0].Is4() {
			first = append(first, ip)
		} else {
			other = append(other, ip)
		}
	}
	sorted := make([]netip.Addr, 0, len(ips))
	for i := range max(len(first), len(other)) {
		if i < len(first) {
			sorted = append(sorted, first[i])
		}
		if i < len(other) {
			sorted = append(sorted, other[i])
		}
	}
	return sorted
}
