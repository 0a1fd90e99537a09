package cmd

import (
	"crypto/tls"
	"errors"
	"net"
	"net/netip"
	"strconv"

	"github.com/urfave/cli/v2"

	"kwikcp/kwik"
)

func ipv4Flag() cli.Flag {
	return &cli.BoolFlag{Name: "ipv4", Aliases: []string{"4"}, EnvVars: []string{"KWIKCP_IPV4"}, Usage: "use IPv4 addresses only"}
}

func ipv6Flag() cli.Flag {
	return &cli.BoolFlag{Name: "ipv6", Aliases: []string{"6"}, EnvVars: []string{"KWIKCP_IPV6"}, Usage: "use IPv6 addresses only"}
}

// family returns which addresses -4 and -6 leave.
func family(c *cli.Context) (kwik.AddressFamily, error) {
	four, six := c.Bool("ipv4"), c.Bool("ipv6")
	switch {
	case four && six:
		return kwik.AnyFamily, usageError{errors.New("-4 and -6 exclude each other"), "without either both are tried"}
	case four:
		return kwik.IPv4, nil
	case six:
		return kwik.IPv6, nil
	}
	return kwik.AnyFamily, nil
}

func serverTLS(cert tls.Certificate) *tls.Config {
	return &tls.Config{Certificates: []tls.Certificate{cert}, KeyLogWriter: keyLog(), SessionTicketsDisabled: true}
}

// reachable returns the host:port to print for a listener: the advertised address, the one it listens at, or, if it
// listens at all of them, the first that others can reach.
func reachable(listening net.Addr, advertised netip.AddrPort) string {
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

// outwardAddress returns an address of this machine that others can reach: IPv4 before IPv6, loopback if there is no
// other.
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
