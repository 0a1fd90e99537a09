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
	"kwikcp/transfer/source"
)

func check(err error) {
	if err != nil {
		panic(err)
	}
}

// exampleTLS makes a self-signed certificate for a server, and the configuration of a client that
// accepts no other.
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

// serveExample serves a directory on the loopback interface. It returns the URL of the directory, a
// configuration that trusts the server, and a function that stops it.
func serveExample(root string) (url string, client *tls.Config, stop func()) {
	serverTLS, clientTLS := exampleTLS()
	dir, err := disk.OpenTree(root, false)
	check(err)
	files := serve.NewServer(source.Local(dir), slog.New(slog.DiscardHandler))
	listener, err := kwik.ListenAddr("127.0.0.1:0", serverTLS, &kwik.ServerConfig{OpenContent: files.OpenContent})
	check(err)
	served := make(chan error)
	go func() { served <- files.Serve(context.Background(), listener) }()
	return "kwik://" + listener.Addr().String(), clientTLS, func() {
		listener.Close()
		<-served
		files.Close()
		dir.Close()
	}
}

// exampleDir makes a directory with one file, and an empty one beside it.
func exampleDir() (source, target string, remove func()) {
	top, err := os.MkdirTemp("", "example")
	check(err)
	source, target = filepath.Join(top, "source"), filepath.Join(top, "target")
	check(os.Mkdir(source, 0o755))
	check(os.Mkdir(target, 0o755))
	check(os.WriteFile(filepath.Join(source, "hello.txt"), []byte("hello, world\n"), 0o644))
	return source, target, func() { os.RemoveAll(top) }
}

// A client fetches one file. The URL may end with #b3=HASH to require a certain content.
func ExampleGet() {
	source, target, remove := exampleDir()
	defer remove()
	server, clientTLS, stop := serveExample(source)
	defer stop()

	url, err := transfer.ParseURL(server + "/hello.txt")
	check(err)
	options := transfer.GetOptions{URL: url, TLS: clientTLS, Target: filepath.Join(target, "hello.txt")}
	result, err := transfer.Get(context.Background(), options, nil)
	check(err)
	fmt.Println(result.Bytes, result.Root)

	content, err := os.ReadFile(result.Path)
	check(err)
	fmt.Print(string(content))
	// Output:
	// 13 623a5460d841b6d1c13d080e85500e0043fd4ba4a8ba9c1aa9b4f6e0d212276c
	// hello, world
}

// A client copies a directory, and then finds that nothing has changed.
func ExampleMirror() {
	source, target, remove := exampleDir()
	defer remove()
	server, clientTLS, stop := serveExample(source)
	defer stop()

	url, err := transfer.ParseTreeURL(server)
	check(err)
	options := transfer.MirrorOptions{MirrorSource: transfer.MirrorSource{URL: url, TLS: clientTLS}, Target: target}
	for range 2 {
		result, err := transfer.Mirror(context.Background(), options, nil)
		check(err)
		fmt.Println(result.Fetched, "fetched,", result.UpToDate, "up to date")
	}
	// Output:
	// 1 fetched, 0 up to date
	// 0 fetched, 1 up to date
}

// A client lists a directory with the hash of each file.
func ExampleList() {
	source, _, remove := exampleDir()
	defer remove()
	server, clientTLS, stop := serveExample(source)
	defer stop()

	url, err := transfer.ParseTreeURL(server)
	check(err)
	options := transfer.ListOptions{MirrorSource: transfer.MirrorSource{URL: url, TLS: clientTLS}, Roots: true}
	err = transfer.List(context.Background(), options, func(e transfer.Entry, file *transfer.Manifest) error {
		fmt.Println(e.Path, e.Size, file.Root)
		return nil
	})
	check(err)
	// Output: hello.txt 13 623a5460d841b6d1c13d080e85500e0043fd4ba4a8ba9c1aa9b4f6e0d212276c
}
