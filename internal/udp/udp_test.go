package udp

import (
	"bytes"
	"crypto/tls"
	"io"
	"math/rand/v2"
	"net"
	"testing"
	"time"

	"github.com/quic-go/quic-go"

	"kwikcp/internal/trust"
)

// QUIC over the sockets, both ends, whatever the system can.
func TestQUIC(t *testing.T) {
	cert, err := trust.NewIdentity(time.Now())
	if err != nil {
		t.Fatal(err)
	}
	listen := func() net.PacketConn {
		conn, err := Listen("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
		return conn
	}
	serverConn, clientConn := listen(), listen()
	l, err := quic.Listen(serverConn, &tls.Config{Certificates: []tls.Certificate{cert}, NextProtos: []string{"x"}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	sent := make([]byte, 8<<20)
	rand.NewChaCha8([32]byte{1}).Read(sent)
	served := make(chan error, 1)
	go func() {
		served <- func() error {
			conn, err := l.Accept(t.Context())
			if err != nil {
				return err
			}
			s, err := conn.OpenUniStreamSync(t.Context())
			if err != nil {
				return err
			}
			if _, err := s.Write(sent); err != nil {
				return err
			}
			return s.Close()
		}()
	}()
	conf := trust.PinnedClientConfig(&tls.Config{NextProtos: []string{"x"}}, trust.PinOf(cert.Leaf))
	conn, err := quic.Dial(t.Context(), clientConn, serverConn.LocalAddr(), conf, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.CloseWithError(0, "")
	s, err := conn.AcceptUniStream(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	got, err := io.ReadAll(s)
	if err != nil || !bytes.Equal(got, sent) {
		t.Fatalf("got %d bytes, %v", len(got), err)
	}
	if err := <-served; err != nil {
		t.Fatal(err)
	}
}
