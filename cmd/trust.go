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

// A trustPolicy decides whether a server is who it should be. In this order: the pin of the URL; the certificate
// authorities (--cacert, or the system's); the known hosts. A server that none of these knows is accepted and recorded if it is
// on this machine, asked about on a terminal, and refused otherwise.
type trustPolicy struct {
	t     *terminal
	known *trust.KnownHosts
	roots *x509.CertPool // nil means the system's
	// ask puts a question to the person at the terminal; nil if there is none.
	ask    func(question string) bool
	asking sync.Mutex // one question at a time
}

func newTrustPolicy(t *terminal, stateDir, cacert string) (*trustPolicy, error) {
	p := &trustPolicy{t: t, known: trust.OpenKnownHosts(filepath.Join(stateDir, "known_hosts"))}
	if cacert != "" {
		pem, err := os.ReadFile(cacert)
		if err != nil {
			return nil, usageError{fmt.Errorf("--cacert: %w", err), "name a file of PEM certificates"}
		}
		p.roots = x509.NewCertPool()
		if !p.roots.AppendCertsFromPEM(pem) {
			return nil, usageError{fmt.Errorf("--cacert: %q has no certificate in it", cacert), "name a file of PEM certificates"}
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

// config returns the TLS configuration for a server at host:port.
func (p *trustPolicy) config(u transfer.URL) *tls.Config {
	base := &tls.Config{KeyLogWriter: keyLog()}
	if u.Pin != nil {
		return trust.PinnedClientConfig(base, *u.Pin)
	}
	// The decision is made in VerifyConnection, which package tls calls after every handshake whatever
	// InsecureSkipVerify says; it is set so that an unknown issuer can be looked up among the known hosts.
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
	known, found, lookupErr := p.known.Lookup(hostport)
	switch {
	case lookupErr != nil:
		return refusedError{fmt.Errorf("the known hosts cannot be used: %w", lookupErr), "mend or remove " + p.known.Path()}
	case found && known == pin:
		return nil
	case found:
		return refusedError{
			fmt.Errorf("the key of %s is not the one that is known: it has the pin %s, known is %s", hostport, pin, known),
			"if the server was set up anew, remove its line from " + p.known.Path() + ", or use its URL with ?pin=" + pin.String(),
		}
	}
	if !isLoopback(host) {
		return unknownHostError{hostport, pin}
	}
	p.record(hostport, pin)
	return nil
}

func (p *trustPolicy) record(hostport string, pin trust.Pin) {
	if err := p.known.Record(hostport, pin); err != nil {
		p.t.warningf("the key of %s cannot be remembered: %v", hostport, err)
	}
}

// An unknownHostError says that nothing vouches for a server.
type unknownHostError struct {
	hostport string
	pin      trust.Pin
}

func (e unknownHostError) Error() string {
	return e.hostport + " is not known: no authority vouches for it and its key was never seen before"
}

// refusal returns what a script is told.
func (e unknownHostError) refusal() refusedError {
	return refusedError{e, "if the pin " + e.pin.String() + " is the server's, use kwik://" + e.hostport + "/...?pin=" + e.pin.String()}
}

// accepted asks the person at the terminal about the unknown server that err is about, and remembers a yes. The question is
// put between two attempts and not during the handshake, which would time out meanwhile.
func (p *trustPolicy) accepted(err error) bool {
	e, ok := errors.AsType[unknownHostError](err)
	if !ok || p.ask == nil {
		return false
	}
	p.asking.Lock()
	defer p.asking.Unlock()
	if known, found, err := p.known.Lookup(e.hostport); err == nil && found && known == e.pin {
		return true // the answer was given meanwhile, to another transfer's question
	}
	if !p.ask(fmt.Sprintf("%s is not known. Its key has the pin %s. Trust it from now on?", e.hostport, e.pin)) {
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
