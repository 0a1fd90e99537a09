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
