package kwik

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/quic-go/quic-go"
)

// TestDialTakesTheTimeOfItsContext checks that a dial without an answer ends when its context
// does. The defaults of the time-outs neither shorten nor lengthen it.
func TestDialTakesTheTimeOfItsContext(t *testing.T) {
	dead := netip.MustParseAddr("10.9.9.9")
	for name, addrs := range map[string][]netip.Addr{
		"one dead address":             {dead},
		"three dead ones":              {dead, dead.Next(), dead.Next().Next()},
		"a server without its Welcome": nil,
	} {
		for _, seconds := range []int{1, 3, 4, 5, 6, 7, 9, 10, 11, 30, 100} {
			t.Run(fmt.Sprintf("%s, %d s", name, seconds), func(t *testing.T) {
				inWorldOf(t, unit, 0, lan, func(w *world) {
					server := w.fakeServer()
					if addrs == nil {
						addrs = []netip.Addr{server.addr.Addr()}
					}
					lookup := func(context.Context, string, string) ([]netip.Addr, error) { return addrs, nil }
					conf := &ClientConfig{
						Config: Config{
							LocalAddresses: func() []netip.Addr { return nil },
							lookupIP:       lookup,
						},
						ListenPacket: func(context.Context, netip.AddrPort) (net.PacketConn, error) {
							conn, _ := w.listen()
							return conn, nil
						},
					}
					want := time.Duration(seconds) * time.Second
					ctx, cancel := context.WithTimeout(w.t.Context(), want)
					defer cancel()
					start := time.Now()
					if _, err := DialAddr(ctx, "name:4433", pinned(server.pin), conf); err == nil {
						t.Fatal("connected")
					}
					if took := time.Since(start); took < want*9/10 || took > want*11/10 {
						t.Errorf("it took %v, want %v", took, want)
					}
				})
			})
		}
	}
}

// TestDialKeepsTheCallersTimeouts checks that time-outs that the caller set hold, whatever the
// deadline of the context is.
func TestDialKeepsTheCallersTimeouts(t *testing.T) {
	inWorldOf(t, unit, 0, lan, func(w *world) {
		server := w.fakeServer()
		for name, x := range map[string]struct {
			addr netip.AddrPort
			conf ClientConfig
		}{
			"handshake": {netip.MustParseAddrPort("10.9.9.9:1"), ClientConfig{
				Config: Config{QUIC: &quic.Config{HandshakeIdleTimeout: 2 * time.Second}},
			}},
			"Welcome": {server.addr, ClientConfig{Config: Config{HelloTimeout: 2 * time.Second}}},
		} {
			socket, _ := w.listen()
			defer socket.Close()
			ctx, cancel := context.WithTimeout(w.t.Context(), time.Minute)
			defer cancel()
			start := time.Now()
			_, err := Dial(ctx, socket, net.UDPAddrFromAddrPort(x.addr), pinned(server.pin), &x.conf)
			if took := time.Since(start); err == nil || took < 1900*time.Millisecond || took > 2200*time.Millisecond {
				t.Errorf("%s: %v after %v", name, err, took)
			}
		}
	})
}
