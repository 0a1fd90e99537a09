package serve_test

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"log/slog"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"time"

	"kwikcp/kwik"
	"kwikcp/transfer"
	"kwikcp/transfer/disk"
	"kwikcp/transfer/serve"
	"kwikcp/transfer/source"
)

func check(err error) {
	if err != nil {
		panic(err)
	}
}

// exampleTLS makes a self-signed certificate for a server, and the configuration of a client that
// trusts no other.
func exampleTLS() (server, client *tls.Config) {
	public, private, err := ed25519.GenerateKey(rand.Reader)
	check(err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1),
		IPAddresses:  []net.IP{net.IPv4(127, 0, 0, 1)},
		NotAfter:     time.Now().Add(time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, public, private)
	check(err)
	certificate, err := x509.ParseCertificate(der)
	check(err)
	roots := x509.NewCertPool()
	roots.AddCert(certificate)
	key := tls.Certificate{Certificate: [][]byte{der}, PrivateKey: private}
	return &tls.Config{Certificates: []tls.Certificate{key}}, &tls.Config{RootCAs: roots}
}

// A primary serves a directory and keeps the trees of its files across restarts. A client fetches
// a file from it.
func ExampleServer() {
	top, err := os.MkdirTemp("", "example")
	check(err)
	defer os.RemoveAll(top)
	served, target := filepath.Join(top, "served"), filepath.Join(top, "copy")
	check(os.Mkdir(served, 0o755))
	check(os.WriteFile(filepath.Join(served, "hello.txt"), []byte("hello, world\n"), 0o644))

	dir, err := disk.OpenTree(served, false)
	check(err)
	defer dir.Close()
	store, err := serve.OpenTreeStore(filepath.Join(top, "trees.db"))
	check(err)
	defer store.Close()
	server := serve.NewServer(source.Local(dir), slog.New(slog.DiscardHandler))
	defer server.Close()
	server.KeepTrees(store)

	serverTLS, clientTLS := exampleTLS()
	listener, err := kwik.ListenAddr("127.0.0.1:0", serverTLS, &kwik.ServerConfig{
		OpenContent:         server.OpenContent,
		Verify:              server.Verify,
		Recheck:             server.Recheck,
		ChallengeDescriptor: server.ChallengeDescriptor,
	})
	check(err)
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error)
	go func() { ended <- server.Serve(ctx, listener) }()

	_, err = transfer.Get(context.Background(), transfer.GetOptions{
		URL:    transfer.URL{Host: listener.Addr().String(), Path: "hello.txt"},
		TLS:    clientTLS,
		Target: target,
	}, transfer.NoReport{})
	check(err)
	content, err := os.ReadFile(target)
	check(err)
	fmt.Printf("%s", content)

	stop()
	check(<-ended)
	// Output: hello, world
}
