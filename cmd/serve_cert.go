package cmd

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"strings"
	"sync/atomic"
	"time"

	"kwikcp/internal/trust"
)

// certificateInterval is how often a server looks whether the files of its certificate have
// changed.
const certificateInterval = 2 * time.Second

// maxPEM bounds the file of a certificate or a key, in bytes.
const maxPEM = 1 << 20

// A certificateFile is the certificate of --cert and --key. It is read again when the files
// change. get is safe for concurrent use; one goroutine at a time calls the other methods.
type certificateFile struct {
	cert, key string // names of the files
	log       *slog.Logger

	current atomic.Pointer[tls.Certificate]
	loaded  certificatePEM // the content of current
	// failed is the content that could not be used when it was read last, and failure the
	// reason.
	failed  certificatePEM
	failure string
	logged  bool // failure was logged
}

// A certificatePEM is the content of the two files.
type certificatePEM struct{ cert, key []byte }

func (p certificatePEM) equal(other certificatePEM) bool {
	return bytes.Equal(p.cert, other.cert) && bytes.Equal(p.key, other.key)
}

// newCertificateFile reads a certificate; nil if neither option was given.
func newCertificateFile(cert, key string, log *slog.Logger) (*certificateFile, error) {
	switch {
	case cert == "" && key == "":
		return nil, nil
	case cert == "" || key == "":
		return nil, usagef(adviseCert, "--cert and --key go together")
	}
	c := &certificateFile{cert: cert, key: key, log: log}
	pem, err := c.read()
	if err != nil {
		return nil, err
	}
	if err := c.use(pem); err != nil {
		return nil, err
	}
	return c, nil
}

// get implements the GetCertificate of a tls.Config.
func (c *certificateFile) get(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	return c.current.Load(), nil
}

func (c *certificateFile) read() (pem certificatePEM, err error) {
	if pem.cert, err = readPEM(c.cert, false); err != nil {
		return pem, usagef(adviseCert, "--cert: %w", err)
	}
	if pem.key, err = readPEM(c.key, true); err != nil {
		return pem, usagef(adviseCert, "--key: %w", err)
	}
	return pem, nil
}

// readPEM reads a file. A secret one must not be readable by every user.
func readPEM(name string, isSecret bool) ([]byte, error) {
	f, err := os.OpenFile(name, os.O_RDONLY, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%q is not a regular file", name)
	}
	if isSecret && trust.IsOpenToAll(info) {
		return nil, fmt.Errorf("mode %#o of %q opens it to every user; chmod it to 0600", info.Mode().Perm(), name)
	}
	data, err := io.ReadAll(io.LimitReader(f, maxPEM+1))
	if err == nil && len(data) > maxPEM {
		err = fmt.Errorf("%q is longer than %d bytes", name, maxPEM)
	}
	return data, err
}

// use makes a certificate the current one.
func (c *certificateFile) use(pem certificatePEM) error {
	cert, err := tls.X509KeyPair(pem.cert, pem.key)
	if err == nil {
		err = tryHandshake(cert)
	}
	if err != nil {
		return usagef(adviseCert, "--cert %q and --key %q: %w", c.cert, c.key, err)
	}
	now := time.Now()
	switch {
	case now.After(cert.Leaf.NotAfter):
		c.log.Warn("the certificate has expired", "file", c.cert, "not_after", cert.Leaf.NotAfter)
	case now.Before(cert.Leaf.NotBefore):
		c.log.Warn("the certificate is not valid yet by this machine's clock", "file", c.cert,
			"not_before", cert.Leaf.NotBefore)
	}
	c.current.Store(&cert)
	c.loaded = pem
	return nil
}

// tryHandshake returns an error if no client could accept a certificate, such as one whose key
// TLS 1.3 does not know.
func tryHandshake(cert tls.Certificate) error {
	a, b := net.Pipe()
	defer a.Close()
	defer b.Close()
	server := tls.Server(a, &tls.Config{
		Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS13, SessionTicketsDisabled: true,
	})
	result := make(chan error, 1)
	go func() { // ends with the pipe
		err := server.Handshake()
		a.Close()
		result <- err
	}()
	// The client only completes the exchange of messages; nothing is trusted.
	client := tls.Client(b, &tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS13})
	clientErr := client.Handshake()
	b.Close()
	if err := <-result; err != nil {
		return err
	}
	return clientErr
}

// reload uses the files if they have changed, and reports whether the key is another one. A pair
// that cannot be used changes nothing. It is logged once: at once if urgent, otherwise when it is
// seen a second time, since two files are not replaced in one step.
func (c *certificateFile) reload(urgent bool) (otherKey bool) {
	pem, err := c.read()
	if err == nil && pem.equal(c.loaded) {
		c.failed, c.failure = certificatePEM{}, ""
		return false
	}
	before := c.current.Load()
	if err == nil {
		err = c.use(pem)
	}
	if err != nil {
		isNew := c.failure != err.Error() || !c.failed.equal(pem)
		if isNew {
			c.failed, c.failure, c.logged = pem, err.Error(), false
		}
		if !c.logged && (urgent || !isNew) {
			c.logged = true
			c.log.Error("the new certificate cannot be used; the old one stays", "err", err)
		}
		return false
	}
	c.failed, c.failure = certificatePEM{}, ""
	now := c.current.Load()
	c.log.Info("certificate reloaded", "file", c.cert, "names", strings.Join(namesOf(now.Leaf), " "),
		"not_after", now.Leaf.NotAfter)
	return trust.PinOf(before.Leaf) != trust.PinOf(now.Leaf)
}

// keepFiles reads the certificate and the files of access again when they change and at each
// SIGHUP, until the server ends.
func (s *runningServer) keepFiles(ctx context.Context) {
	ticker := time.NewTicker(certificateInterval)
	defer ticker.Stop()
	for {
		urgent := false
		select {
		case <-ctx.Done():
			return
		case <-s.reloads:
			urgent = true
		case <-ticker.C:
		}
		s.access.reload()
		if s.certificate == nil {
			continue
		}
		if otherKey := s.certificate.reload(urgent); otherKey {
			s.listener.CertificateChanged()
			select {
			case s.keyChanged <- struct{}{}:
			default: // the membership ends anyway
			}
		}
	}
}

// requestReload reads the certificate again soon. It is called for each SIGHUP.
func (s *runningServer) requestReload() {
	s.log.Info("SIGHUP: reloading", "certificate", s.certificate != nil)
	select {
	case s.reloads <- struct{}{}:
	default: // one is due
	}
}

// namesOf returns the names and addresses that a certificate is for.
func namesOf(leaf *x509.Certificate) []string {
	names := append([]string(nil), leaf.DNSNames...)
	for _, ip := range leaf.IPAddresses {
		names = append(names, ip.String())
	}
	return names
}

// hostOf returns the host for the URL of a server that is reached at host:port: a name that its
// certificate is for.
func hostOf(leaf *x509.Certificate, hostport string) string {
	host, port, err := net.SplitHostPort(hostport)
	if err != nil || leaf.VerifyHostname(host) == nil {
		return hostport
	}
	for _, name := range namesOf(leaf) {
		if !strings.Contains(name, "*") {
			return net.JoinHostPort(name, port)
		}
	}
	return hostport
}

// isSelfSigned reports whether no authority can vouch for a certificate, so that clients need its
// pin.
func isSelfSigned(leaf *x509.Certificate) bool {
	err := leaf.CheckSignature(leaf.SignatureAlgorithm, leaf.RawTBSCertificate, leaf.Signature)
	return err == nil && bytes.Equal(leaf.RawIssuer, leaf.RawSubject)
}
