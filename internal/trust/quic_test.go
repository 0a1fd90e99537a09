package trust_test

import (
	"crypto/tls"
	"errors"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"github.com/quic-go/quic-go"

	"kwikcp/internal/simnet"
	"kwikcp/internal/trust"
)

// Over QUIC, a wrong key is still a *PinError to the one who dials.
func TestPinErrorThroughQUIC(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cert, err := trust.NewIdentity(time.Now())
		if err != nil {
			t.Fatal(err)
		}
		pin := trust.PinOf(cert.Leaf)
		n := simnet.New(1)
		defer n.Close()
		transport := func(at string) *quic.Transport {
			conn, err := n.Listen(netip.MustParseAddrPort(at), simnet.Link{Latency: time.Millisecond})
			if err != nil {
				t.Fatal(err)
			}
			return &quic.Transport{Conn: conn}
		}
		server, client := transport("10.0.0.1:4433"), transport("10.0.0.2:0")
		defer server.Close()
		defer client.Close()
		ln, err := server.Listen(&tls.Config{Certificates: []tls.Certificate{cert}, NextProtos: []string{"test"}}, nil)
		if err != nil {
			t.Fatal(err)
		}
		defer ln.Close()
		base := &tls.Config{NextProtos: []string{"test"}}

		conn, err := client.Dial(t.Context(), server.Conn.LocalAddr(), trust.PinnedClientConfig(base, pin), nil)
		if err != nil {
			t.Fatalf("the right key: %v", err)
		}
		conn.CloseWithError(0, "")

		_, err = client.Dial(t.Context(), server.Conn.LocalAddr(), trust.PinnedClientConfig(base, trust.Pin{1}), nil)
		var perr *trust.PinError
		if !errors.As(err, &perr) || perr.Got != pin {
			t.Errorf("another key: %v", err)
		}
	})
}
