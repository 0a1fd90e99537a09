package cmd

import (
	"bufio"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"golang.org/x/term"

	"kwikcp/internal/trust"
	"kwikcp/transfer"
)

// A trustPolicy decides whether to trust a server. It checks in this order: the pin of the URL; the certificate
// authorities (of --cacert, or the system's); the known hosts. An unknown server is accepted and recorded if it is on
// this machine, asked about on a terminal, and refused otherwise.
type trustPolicy struct {
	t     *terminal
	known *trust.KnownHosts
	roots *x509.CertPool // nil means the system's
	// ask asks the user at the terminal; nil if there is none.
	ask    func(question string) bool
	asking sync.Mutex // one question at a time
}

func newTrustPolicy(t *terminal, stateDir, cacert string) (*trustPolicy, error) {
	p := &trustPolicy{t: t, known: trust.OpenKnownHosts(filepath.Join(stateDir, "known_hosts"))}
	if cacert != "" {
		pem, err := os.ReadFile(cacert)
		if err != nil {
			return nil, usagef(adviseCACert, "--cacert: %w", err)
		}
		p.roots = x509.NewCertPool()
		if !p.roots.AppendCertsFromPEM(pem) {
			return nil, usagef(adviseCACert, "--cacert: %q has no certificate in it", cacert)
		}
	}
	if t.interactive() && term.IsTerminal(int(os.Stdin.Fd())) {
		p.ask = func(question string) bool {
			fmt.Fprintf(t.stderr, "kwikcp: %s [y/N] ", question)
			line, _ := bufio.NewReader(os.Stdin).ReadString('\n')
			answer := strings.ToLower(strings.TrimSpace(line))
			return answer == "y" || answer == "yes"
		}
	}
	return p, nil
}

// config returns the TLS configuration for a server.
func (p *trustPolicy) config(u transfer.URL) *tls.Config {
	base := &tls.Config{KeyLogWriter: keyLog()}
	if u.Pin != nil {
		return trust.PinnedClientConfig(base, *u.Pin)
	}
	// VerifyConnection decides; package tls calls it after every handshake. InsecureSkipVerify lets a server with an
	// unknown issuer get that far, so that the known hosts can be asked.
	base.InsecureSkipVerify = true
	base.VerifyConnection = func(state tls.ConnectionState) error { return p.verify(u.Host, state) }
	return base
}

func (p *trustPolicy) verify(hostport string, state tls.ConnectionState) error {
	if len(state.PeerCertificates) == 0 {
		return errors.New("the server shows no certificate")
	}
	leaf := state.PeerCertificates[0]
	host, _, err := net.SplitHostPort(hostport)
	if err != nil {
		return err
	}
	intermediates := x509.NewCertPool()
	for _, cert := range state.PeerCertificates[1:] {
		intermediates.AddCert(cert)
	}
	_, err = leaf.Verify(x509.VerifyOptions{DNSName: host, Roots: p.roots, Intermediates: intermediates})
	if err == nil {
		return nil
	}
	pin := trust.PinOf(leaf)
	known, found, err := p.known.Lookup(hostport)
	switch {
	case err != nil:
		return knownHostsError{file: p.known.Path(), err: err}
	case found && known == pin:
		return nil
	case found:
		return changedKeyError{hostport: hostport, pin: pin, known: known, file: p.known.Path()}
	case !isLoopback(host):
		return unknownHostError{hostport, pin}
	}
	p.record(hostport, pin)
	return nil
}

func (p *trustPolicy) record(hostport string, pin trust.Pin) {
	if err := p.known.Record(hostport, pin); err != nil {
		p.t.warningf("cannot record the key of %s: %v", hostport, err)
	}
}

// accepted asks the user at the terminal about the unknown server of err, and records a yes. It asks between two
// attempts, since a handshake would time out meanwhile.
func (p *trustPolicy) accepted(err error) bool {
	e, ok := errors.AsType[unknownHostError](err)
	if !ok || p.ask == nil {
		return false
	}
	p.asking.Lock()
	defer p.asking.Unlock()
	if known, found, err := p.known.Lookup(e.hostport); err == nil && found && known == e.pin {
		return true // accepted meanwhile, at the question of another transfer
	}
	if !p.ask(fmt.Sprintf("%s is unknown. Its key has the pin %s. Trust it from now on?", e.hostport, e.pin)) {
		return false
	}
	p.record(e.hostport, e.pin)
	return true
}

func isLoopback(host string) bool {
	if strings.EqualFold(host, "localhost") {
		return true
	}
	ip, err := netip.ParseAddr(host)
	return err == nil && ip.Unmap().IsLoopback()
}
