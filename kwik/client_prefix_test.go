package kwik

import (
	"net"
	"net/netip"
	"testing"

	"kwikcp/internal/netprefix"
)

func TestClientPrefix(t *testing.T) {
	for addr, want := range map[string]string{
		"192.0.2.7:1":              "192.0.2.7/32",
		"192.0.2.7:65535":          "192.0.2.7/32",
		"[::ffff:192.0.2.7]:1":     "192.0.2.7/32",
		"127.0.0.1:1":              "127.0.0.1/32",
		"[2001:db8:1:2:3:4:5:6]:1": "2001:db8:1:2::/64",
		"[2001:db8:1:2::]:1":       "2001:db8:1:2::/64",
		"[2001:db8:1:3::]:1":       "2001:db8:1:3::/64",
		"[fe80::1%eth0]:1":         "fe80::/64",
		"[::1]:1":                  "::/64",
		"[::]:1":                   "::/64",
	} {
		udp := net.UDPAddrFromAddrPort(netip.MustParseAddrPort(addr))
		if got := clientPrefix(udp); got.String() != want {
			t.Errorf("%s: %v, want %s", addr, got, want)
		}
	}
	for addr, want := range map[string]string{
		"192.0.2.7": "192.0.2.7/32", "2001:db8:1:2::7": "2001:db8:1::/48", "::ffff:192.0.2.7": "192.0.2.7/32",
	} {
		if got := networkOf(netprefix.Of(netip.MustParseAddr(addr))); got.String() != want {
			t.Errorf("network of %s: %v, want %s", addr, got, want)
		}
	}
	if got := networkOf(netip.Prefix{}); got.IsValid() {
		t.Errorf("network of no prefix: %v", got)
	}
	for _, addr := range []net.Addr{&net.UnixAddr{Name: "x", Net: "unix"}, &net.UDPAddr{}} {
		if got := clientPrefix(addr); got.IsValid() {
			t.Errorf("%v: %v", addr, got)
		}
	}
}
