package kwik

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"slices"
	"testing"
	"time"

	"kwikcp/internal/simnet"
)

func ips(texts ...string) (ips []netip.Addr) {
	for _, text := range texts {
		ips = append(ips, netip.MustParseAddr(text))
	}
	return ips
}

func TestInterleave(t *testing.T) {
	for _, test := range [][2][]netip.Addr{
		{nil, {}},
		{ips("192.0.2.1"), ips("192.0.2.1")},
		{ips("2001:db8::1", "2001:db8::2", "192.0.2.1", "192.0.2.2"), ips("2001:db8::1", "192.0.2.1", "2001:db8::2", "192.0.2.2")},
		{ips("192.0.2.1", "2001:db8::1", "2001:db8::2", "2001:db8::3"), ips("192.0.2.1", "2001:db8::1", "2001:db8::2", "2001:db8::3")},
		{ips("::ffff:192.0.2.1", "2001:db8::1"), ips("192.0.2.1", "2001:db8::1")},
	} {
		if got := interleave(test[0]); !slices.Equal(got, test[1]) {
			t.Errorf("%v: %v, want %v", test[0], got, test[1])
		}
	}
}

func TestResolve(t *testing.T) {
	var asked []string
	lookup := func(_ context.Context, network, host string) ([]netip.Addr, error) {
		asked = append(asked, network+" "+host)
		switch network {
		case "ip4":
			return ips("192.0.2.1"), nil
		case "ip6":
			return nil, &net.DNSError{Err: "no such host", IsNotFound: true}
		}
		return ips("2001:db8::1", "2001:db8::2", "192.0.2.1"), nil
	}
	for _, test := range []struct {
		addr   string
		family AddressFamily
		want   string // the addresses; empty for an error
	}{
		{"name:4433", AnyFamily, "[[2001:db8::1]:4433 192.0.2.1:4433 [2001:db8::2]:4433]"},
		{"name:4433", IPv4, "[192.0.2.1:4433]"},
		{"name:4433", IPv6, ""},
		{"192.0.2.7:1", AnyFamily, "[192.0.2.7:1]"},
		{"192.0.2.7:1", IPv4, "[192.0.2.7:1]"},
		{"192.0.2.7:1", IPv6, ""},
		{"[2001:db8::7]:1", IPv6, "[[2001:db8::7]:1]"},
		{"[2001:db8::7]:1", IPv4, ""},
		{"[::ffff:192.0.2.7]:1", IPv4, "[192.0.2.7:1]"},
		{"name", AnyFamily, ""},
	} {
		c := (&ClientConfig{Config: Config{Family: test.family, lookupIP: lookup}}).populate()
		addrs, err := c.resolve(t.Context(), test.addr)
		got := ""
		if err == nil {
			got = "["
			for i, a := range addrs {
				if i > 0 {
					got += " "
				}
				got += a.String()
			}
			got += "]"
		}
		if got != test.want {
			t.Errorf("%s, %v: %s, %v, want %s", test.addr, test.family, got, err, test.want)
		}
	}
	if want := []string{"ip name", "ip4 name", "ip6 name"}; !slices.Equal(asked, want) {
		t.Errorf("asked %q, want %q", asked, want)
	}
}

// If a name has addresses of both families, a first family that fails delays the client by a
// quarter of a second. A first family that works causes no delay. The secondaries have the family
// that the client requested.
func TestHappyEyeballs(t *testing.T) {
	inWorldOf(t, unit, 1, lan, func(w *world) {
		six := netip.MustParseAddrPort("[2001:db8::1]:4433")
		dead := netip.MustParseAddr("2001:db8::dead")
		w6 := w.serve(ServerRolePrimary, restarted(&testServer{addr: six, cert: w.primary.cert}))
		defer w6.stop()
		four := w.primary.addr.Addr()
		for _, test := range []struct {
			name   string
			addrs  []netip.Addr
			family AddressFamily
			want   netip.Addr // the zero Addr: it fails
			most   time.Duration
		}{
			{"the first works", []netip.Addr{six.Addr(), four}, AnyFamily, six.Addr(), 50 * time.Millisecond},
			{"the first is dead", []netip.Addr{dead, four}, AnyFamily, four, attemptDelay + 50*time.Millisecond},
			{"all of one family are dead", []netip.Addr{dead, dead.Next(), dead.Next().Next(), four}, AnyFamily, four, attemptDelay + 50*time.Millisecond},
			{"only one is wanted", []netip.Addr{dead, four}, IPv4, four, 50 * time.Millisecond},
			{"the other is wanted", []netip.Addr{six.Addr(), four}, IPv6, six.Addr(), 50 * time.Millisecond},
			{"nothing is left", []netip.Addr{four}, IPv6, netip.Addr{}, time.Second},
		} {
			conf := &ClientConfig{
				Config: Config{
					Family: test.family, LocalAddresses: func() []netip.Addr { return nil },
					lookupIP: func(context.Context, string, string) ([]netip.Addr, error) { return test.addrs, nil },
				},
				ListenPacket: func(context.Context, netip.AddrPort) (net.PacketConn, error) {
					conn, _ := w.listen()
					return conn, nil
				},
			}
			start := time.Now()
			client, err := DialAddr(w.t.Context(), "name:4433", pinned(w.primary.pin()), conf)
			took := time.Since(start)
			if !test.want.IsValid() {
				if _, ok := errors.AsType[*net.AddrError](err); !ok {
					w.t.Errorf("%s: %v", test.name, err)
				}
				continue
			}
			if err != nil {
				w.t.Errorf("%s: %v", test.name, err)
				continue
			}
			w.clients = append(w.clients, client)
			if got := client.primary.addr.Addr(); got != test.want || took > test.most {
				w.t.Errorf("%s: %v after %v, want %v within %v", test.name, got, took, test.want, test.most)
			}
			if test.family != AnyFamily {
				time.Sleep(time.Second)
				for _, p := range client.Servers() {
					if !test.family.has(p.Addr.Addr()) {
						w.t.Errorf("%s: a path to %v", test.name, p.Addr)
					}
				}
			}
			client.CloseWithError(0, "")
		}
	})
}

// A secondary that joins by a name with a dead address is delayed as little as a client.
func TestJoinWithADeadAddress(t *testing.T) {
	inWorld(t, 0, lan, func(w *world) {
		dead := netip.MustParseAddr("2001:db8::dead")
		primary := w.primary.addr.Addr()
		for name, tt := range map[string]struct {
			addrs []netip.Addr
			most  time.Duration // 0: it fails
		}{
			"dead first":  {[]netip.Addr{dead, primary}, 300 * time.Millisecond},
			"alive first": {[]netip.Addr{primary, dead}, 50 * time.Millisecond},
			"all dead":    {[]netip.Addr{dead, dead.Next()}, 0},
		} {
			s := w.serve(ServerRoleSecondary, configured(func(c *ServerConfig) {
				c.lookupIP = func(context.Context, string, string) ([]netip.Addr, error) { return tt.addrs, nil }
			}))
			start := time.Now()
			m, err := s.Join(w.t.Context(), "name:4433", JoinConfig{Token: w.token})
			took := time.Since(start)
			switch {
			case tt.most == 0 && (err == nil || took > joinTimeout):
				w.t.Errorf("%s: %v after %v", name, err, took)
			case tt.most > 0 && (err != nil || took > tt.most):
				w.t.Errorf("%s: %v after %v, want within %v", name, err, took, tt.most)
			case err == nil:
				m.Close()
			}
			s.stop()
		}
	})
}

// A client that is restricted to the other family does not dial the secondary, and transfers
// without it.
func TestFamilyOfSecondaries(t *testing.T) {
	inWorldOf(t, unit, 1, simnet.Link{Latency: time.Millisecond}, func(w *world) {
		for family, want := range map[AddressFamily]int{AnyFamily: 2, IPv4: 2, IPv6: 1} {
			client, _ := w.dial(&ClientConfig{Config: Config{Family: family}}) // Dial's address is the caller's choice
			time.Sleep(time.Second)
			if got := len(client.Servers()); got != want {
				w.t.Errorf("%v: %d paths, want %d", family, got, want)
			}
		}
	})
}
