package cmd

import (
	"net"
	"net/netip"
	"strconv"
)

// reachableAddress returns the host:port to print for a listener: the advertised address, or the
// one it listens at. If it listens at all addresses, that is the first one that other machines
// can reach.
func reachableAddress(listening net.Addr, advertised netip.AddrPort) string {
	if advertised.IsValid() {
		return advertised.String()
	}
	addr, err := netip.ParseAddrPort(listening.String())
	if err != nil {
		return listening.String()
	}
	ip := addr.Addr().Unmap()
	if ip.IsUnspecified() {
		ip = outwardAddress()
	}
	return net.JoinHostPort(ip.String(), strconv.Itoa(int(addr.Port())))
}

// outwardAddress returns an address of this machine that other machines can reach, preferably IPv4;
// loopback if there is none.
func outwardAddress() netip.Addr {
	best := netip.AddrFrom4([4]byte{127, 0, 0, 1})
	nets, err := net.InterfaceAddrs()
	if err != nil {
		return best
	}
	for _, n := range nets {
		prefix, err := netip.ParsePrefix(n.String())
		if err != nil {
			continue
		}
		ip := prefix.Addr().Unmap()
		if !ip.IsGlobalUnicast() {
			continue
		}
		if ip.Is4() {
			return ip
		}
		if best.IsLoopback() {
			best = ip
		}
	}
	return best
}
