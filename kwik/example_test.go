package kwik_test

import (
	"context"
	"crypto/ed25519"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"math/big"
	"net"
	"strings"
	"time"

	"kwikcp/kwik"
)

// exampleTLS makes a key for a server and the configuration of a client that trusts it.
func exampleTLS() (server, client *tls.Config) {
	public, private, err := ed25519.GenerateKey(nil)
	check(err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour),
		DNSNames: []string{"localhost"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		IsCA: true, BasicConstraintsValid: true, // signs itself
	}
	der, err := x509.CreateCertificate(nil, template, template, public, private)
	check(err)
	cert, err := x509.ParseCertificate(der)
	check(err)
	roots := x509.NewCertPool()
	roots.AddCert(cert)
	server = &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: private}}}
	return server, &tls.Config{RootCAs: roots, ServerName: "localhost"}
}

func check(err error) {
	if err != nil {
		panic(err)
	}
}

// A program for quic-go becomes one for KWIK by changing the package at ListenAddr and DialAddr.
func ExampleDialAddr() {
	ctx := context.Background()
	serverTLS, clientTLS := exampleTLS()

	listener, err := kwik.ListenAddr("localhost:0", serverTLS, nil)
	check(err)
	defer listener.Close()
	go func() {
		session, err := listener.Accept(ctx)
		check(err)
		stream, err := session.AcceptStream(ctx)
		check(err)
		io.Copy(stream, stream)
		stream.Close()
	}()

	session, err := kwik.DialAddr(ctx, listener.Addr().String(), clientTLS, nil)
	check(err)
	defer session.CloseWithError(0, "")
	stream, err := session.OpenStreamSync(ctx)
	check(err)
	io.WriteString(stream, "hello")
	stream.Close()
	answer, err := io.ReadAll(stream)
	check(err)
	fmt.Printf("%s\n", answer)
	// Output: hello
}

// A text is a Content that every server holds.
type text struct{ *strings.Reader }

func (text) Close() error { return nil }

func openText(_ context.Context, r kwik.ContentRequest) (kwik.Content, error) {
	return text{strings.NewReader(strings.Repeat(string(r.Descriptor), 5))}, nil
}

// A primary and a secondary that joined it serve one stream together; the client only reads it.
func ExampleServerSession_OpenAggregateStream() {
	ctx := context.Background()
	primaryTLS, clientTLS := exampleTLS()
	secondaryTLS, _ := exampleTLS()

	primary, err := kwik.ListenAddr("127.0.0.1:0", primaryTLS, &kwik.ServerConfig{OpenContent: openText})
	check(err)
	defer primary.Close()
	secondary, err := kwik.ListenAddr("127.0.0.1:0", secondaryTLS, &kwik.ServerConfig{Role: kwik.ServerRoleSecondary, OpenContent: openText})
	check(err)
	defer secondary.Close()
	membership, err := secondary.Join(ctx, primary.Addr().String(), kwik.JoinConfig{TLS: clientTLS})
	check(err)
	fmt.Println("joined as", membership.ID())

	go func() {
		session, err := primary.Accept(ctx)
		check(err)
		_, err = session.OpenAggregateStream(kwik.AggregateStreamSpec{Size: 15, Descriptor: []byte("abc")})
		check(err)
	}()

	session, err := kwik.DialAddr(ctx, primary.Addr().String(), clientTLS, nil)
	check(err)
	defer session.CloseWithError(0, "")
	offer, err := session.AcceptNextAggregate(ctx)
	check(err)
	reader, err := offer.Open(func(server kwik.ServerID, off int64, p []byte) error {
		for i, b := range p {
			if b != "abc"[(off+int64(i))%3] {
				return fmt.Errorf("%s sent %q at %d", server, b, off+int64(i))
			}
		}
		return nil
	})
	check(err)
	defer reader.Close()
	content, err := io.ReadAll(reader)
	check(err)
	fmt.Printf("%d bytes: %s\n", reader.Size(), content)
	// Output:
	// joined as s1
	// 15 bytes: abcabcabcabcabc
}
