package simnet_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"io"
	"math/big"
	mrand "math/rand/v2"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"github.com/quic-go/quic-go"

	"kwikcp/internal/simnet"
)

func tlsConfigs(t *testing.T) (server, client *tls.Config) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	// Dates around that of the bubble's clock, which starts in 2000.
	template := &x509.Certificate{SerialNumber: big.NewInt(1), DNSNames: []string{"sim"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().AddDate(1, 0, 0)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(cert)
	protos := []string{"test"}
	return &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}, NextProtos: protos},
		&tls.Config{RootCAs: pool, ServerName: "sim", NextProtos: protos}
}

// copyOverQUIC sends size bytes from one real QUIC endpoint to another and
// returns how long that took in the bubble's time.
func copyOverQUIC(t *testing.T, n *simnet.Network, size int, server, client simnet.Link) time.Duration {
	ctx := t.Context()
	at := netip.MustParseAddrPort("10.0.0.1:4433")
	sc, err := n.Listen(at, server)
	if err != nil {
		t.Fatal(err)
	}
	cc, err := n.Listen(netip.MustParseAddrPort("10.0.0.2:0"), client)
	if err != nil {
		t.Fatal(err)
	}
	str, ctr := &quic.Transport{Conn: sc}, &quic.Transport{Conn: cc}
	defer cc.Close()
	defer sc.Close()
	defer ctr.Close()
	defer str.Close()
	serverTLS, clientTLS := tlsConfigs(t)
	// No InitialPacketSize: see the package comment.
	config := &quic.Config{MaxStreamReceiveWindow: 16 << 20, MaxConnectionReceiveWindow: 16 << 20}
	ln, err := str.Listen(serverTLS, config)
	if err != nil {
		t.Fatal(err)
	}
	data := make([]byte, size)
	mrand.NewChaCha8([32]byte{}).Read(data)
	served := make(chan error, 1)
	go func() { served <- serveOnce(ctx, ln, data) }()

	start := time.Now()
	conn, err := ctr.Dial(ctx, sc.LocalAddr(), clientTLS, config)
	if err != nil {
		t.Fatal(err)
	}
	s, err := conn.AcceptUniStream(ctx)
	if err != nil {
		t.Fatal(err)
	}
	got := make([]byte, size)
	if k, err := io.ReadFull(s, got); err != nil || !bytes.Equal(got, data) {
		t.Fatalf("%d of %d bytes arrived, equal: %v, error: %v", k, size, bytes.Equal(got, data), err)
	}
	took := time.Since(start)
	conn.CloseWithError(0, "")
	if err := <-served; err != nil {
		t.Error(err)
	}
	return took
}

func serveOnce(ctx context.Context, ln *quic.Listener, data []byte) error {
	conn, err := ln.Accept(ctx)
	if err != nil {
		return err
	}
	s, err := conn.OpenUniStream()
	if err != nil {
		return err
	}
	if _, err := s.Write(data); err != nil {
		return err
	}
	s.Close()
	<-conn.Context().Done() // until the client has it all
	return nil
}

func TestQUIC(t *testing.T) {
	for _, tt := range []struct {
		name string
		link simnet.Link
	}{
		{"1% loss", simnet.Link{Latency: 5 * time.Millisecond, Rate: 50e6, Loss: 0.01}},
		{"every fault", simnet.Link{Latency: 5 * time.Millisecond, Rate: 50e6, Jitter: 3 * time.Millisecond, Loss: 0.01, Flip: 0.005, Duplicate: 0.01, Reorder: 0.01}},
		{"short queue", simnet.Link{Latency: 20 * time.Millisecond, Rate: 20e6, Queue: 2 * time.Millisecond}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := simnet.New(1)
				defer n.Close()
				took := copyOverQUIC(t, n, 1<<20, tt.link, simnet.Link{Latency: 5 * time.Millisecond})
				t.Logf("1 MiB in %v: %+v", took, n.Stats())
				if tt.link.Loss > 0 && n.Stats().Lost == 0 {
					t.Error("no packet was lost")
				}
			})
		})
	}
}

// A transfer without loss is as fast as its link, and (with -v) prints how
// much faster than life the simulation is.
func TestQUICSpeed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const size, rate = 8 << 20, 100e6
		n := simnet.New(1)
		defer n.Close()
		took := copyOverQUIC(t, n, size, simnet.Link{Latency: 5 * time.Millisecond, Rate: rate}, simnet.Link{Latency: 5 * time.Millisecond})
		if got := size * 8 / took.Seconds(); got < 0.85*rate || got > rate {
			t.Errorf("%.1f Mbit/s of %.1f", got/1e6, rate/1e6)
		}
		t.Logf("%v of the bubble's time, %+v", took, n.Stats())
	})
}
