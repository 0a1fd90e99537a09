package transfer_test

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
)

func check(err error) {
	if err != nil {
		panic(err)
	}
}

// exampleTLS makes a self-signed certificate for a server, and the configuration of a client that accepts no other.
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

// A server offers a directory, and a client lists it with the hash of each file.
func ExampleList() {
	root, err := os.MkdirTemp("", "example")
	check(err)
	defer os.RemoveAll(root)
	check(os.WriteFile(filepath.Join(root, "hello.txt"), []byte("hello, world\n"), 0o644))

	serverTLS, clientTLS := exampleTLS()
	dir, err := disk.OpenTree(root, false)
	check(err)
	defer dir.Close()
	files := serve.NewServer(dir, slog.New(slog.DiscardHandler))
	listener, err := kwik.ListenAddr("127.0.0.1:0", serverTLS, &kwik.ServerConfig{OpenContent: files.OpenContent})
	check(err)
	served := make(chan error)
	go func() { served <- files.Serve(context.Background(), listener) }()

	url, err := transfer.ParseTreeURL("kwik://" + listener.Addr().String())
	check(err)
	source := transfer.MirrorSource{URL: url, TLS: clientTLS}
	err = transfer.List(context.Background(), transfer.ListOptions{MirrorSource: source, Roots: true},
		func(e transfer.Entry, file *transfer.Manifest) error {
			fmt.Println(e.Path, e.Size, file.Root)
			return nil
		})
	check(err)

	listener.Close()
	<-served
	files.Close()
	// Output: hello.txt 13 623a5460d841b6d1c13d080e85500e0043fd4ba4a8ba9c1aa9b4f6e0d212276c
}
