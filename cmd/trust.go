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
	"time"

	"golang.org/x/term"

	"kwikcp/internal/trust"
	"kwikcp/transfer"
)

// A trustPolicy decides whether to trust a server. It checks in this order: the pin of the URL; the
// certificate authorities (of --cacert, or the system's); the known hosts. An unknown server is
// accepted and recorded if it is on this machine, asked about on a terminal, and refused otherwise.
type trustPolicy struct {
	t     *terminal
	known *trust.KnownHosts
	// missing is why there is no state directory, and so no known hosts; nil if there is one.
	missing error
	roots   *x509.CertPool // nil means the system's
	// webRoots are those for web servers: the system's, and those of --cacert. Nil means the
	// system's.
	webRoots *x509.CertPool
	now      func() time.Time
	// ask asks the user at the terminal; nil if there is none.
	ask    func(question string) bool
	asking sync.Mutex // one question at a time
}

func newTrustPolicy(t *terminal, stateDir, cacert string) (*trustPolicy, error) {
	p := &trustPolicy{t: t, now: time.Now, known: trust.OpenKnownHosts(filepath.Join(stateDir, "known_hosts"))}
	if cacert != "" {
		pem, err := os.ReadFile(cacert)
		if err != nil {
			return nil, usagef(adviseCACert, "--cacert: %w", err)
		}
		p.roots = x509.NewCertPool()
		if !p.roots.AppendCertsFromPEM(pem) {
			return nil, usagef(adviseCACert, "--cacert: %q has no certificate in it", cacert)
		}
		if p.webRoots, err = x509.SystemCertPool(); err != nil {
			p.webRoots = x509.NewCertPool() // this system has none
		}
		p.webRoots.AppendCertsFromPEM(pem)
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

// config returns the TLS configuration for a server. With strict set, because the client presents a
// secret, it does not accept an unknown server on this machine: any local user can listen there.
func (p *trustPolicy) config(u transfer.URL, strict bool) *tls.Config {
	base := &tls.Config{KeyLogWriter: keyLog()}
	if u.Pin != nil {
		return trust.PinnedClientConfig(base, *u.Pin)
	}
	// VerifyConnection decides; package tls calls it after every handshake. InsecureSkipVerify lets
	// a server with an unknown issuer get that far, so that the known hosts can be asked.
	base.InsecureSkipVerify = true
	base.VerifyConnection = func(state tls.ConnectionState) error { return p.verify(u.Host, state, strict) }
	return base
}

func (p *trustPolicy) verify(hostport string, state tls.ConnectionState, strict bool) error {
	if len(state.PeerCertificates) == 0 {
		return errors.New("the server shows no certificate")
	}
	leaf := state.PeerCertificates[0]
	host, _, err := net.SplitHostPort(hostport)
	if err != nil {
		return err
	}
	host, _, _ = strings.Cut(host, "%") // the zone of an address
	fromAuthority, err := p.verifyChain(hostport, host, state.PeerCertificates)
	if err == nil {
		return nil
	}
	pin := trust.PinOf(leaf)
	if p.missing != nil && !fromAuthority {
		return p.missing
	}
	known, found, lookupErr := p.known.Lookup(hostport)
	switch {
	case lookupErr != nil:
		return knownHostsError{file: p.known.Path(), err: lookupErr}
	case found && known == pin && strict && !p.known.Confirmed(hostport):
		return unknownHostError{hostport: hostport, pin: pin, secret: true}
	case found && known == pin:
		return nil
	case found:
		return changedKeyError{
			hostport: hostport, pin: pin, known: known, file: p.known.Path(), line: p.known.Line(hostport),
		}
	case fromAuthority:
		return err
	case strict || !isLoopback(host) || p.roots != nil: // --cacert asks for an authority, on this machine as well
		return unknownHostError{hostport: hostport, pin: pin, secret: strict}
	}
	if err := p.known.RecordUnconfirmed(hostport, pin); err != nil {
		p.t.warningf("cannot record the key of %s: %v", hostport, err)
	}
	return nil
}

// verifyChain returns nil if an authority vouches for a server's certificate. fromAuthority reports
// whether one does so for another time, name or use; then the error is a certificateError.
func (p *trustPolicy) verifyChain(hostport, host string, chain []*x509.Certificate) (fromAuthority bool, err error) {
	leaf, now := chain[0], p.now()
	verify := func(chain []*x509.Certificate, usage x509.ExtKeyUsage) error {
		options := x509.VerifyOptions{
			Roots: p.roots, Intermediates: x509.NewCertPool(), CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{usage},
		}
		for _, cert := range chain[1:] {
			options.Intermediates.AddCert(cert)
		}
		_, err := chain[0].Verify(options)
		return err
	}
	refuse := func(format string, args ...any) (bool, error) {
		return true, certificateError{hostport: hostport, reason: fmt.Sprintf(format, args...), pin: trust.PinOf(leaf)}
	}
	if err := verify(chain, x509.ExtKeyUsageAny); err != nil {
		// A server that no authority knows is unknown, whatever its dates are.
		if verify(undated(chain, now), x509.ExtKeyUsageAny) != nil {
			return false, err
		}
		return refuse("%s", outOfDate(chain, now))
	}
	if err := leaf.VerifyHostname(host); err != nil {
		names := strings.Join(namesOf(leaf), ", ")
		if names == "" {
			return refuse("it names no host (subjectAltName)")
		}
		return refuse("it is for %.200s", names)
	}
	if err := verify(chain, x509.ExtKeyUsageServerAuth); err != nil {
		return refuse("it may not be used by servers (extendedKeyUsage without serverAuth)")
	}
	return true, nil
}

// undated returns copies of certificates that are valid at a time.
func undated(chain []*x509.Certificate, now time.Time) (copies []*x509.Certificate) {
	for _, cert := range chain {
		dated := *cert
		dated.NotBefore, dated.NotAfter = now.Add(-time.Hour), now.Add(time.Hour)
		copies = append(copies, &dated)
	}
	return copies
}

// outOfDate describes the first certificate of a chain that is not valid now.
func outOfDate(chain []*x509.Certificate, now time.Time) string {
	const layout = "2006-01-02 15:04 MST"
	for i, cert := range chain {
		which := "it"
		if i > 0 {
			which = fmt.Sprintf("that of its authority %.100q", cert.Subject.CommonName)
		}
		switch {
		case now.Before(cert.NotBefore):
			return fmt.Sprintf("%s is valid from %s on, and the clock of this machine shows %s",
				which, cert.NotBefore.UTC().Format(layout), now.UTC().Format(layout))
		case now.After(cert.NotAfter):
			return fmt.Sprintf("%s expired at %s; the clock of this machine shows %s",
				which, cert.NotAfter.UTC().Format(layout), now.UTC().Format(layout))
		}
	}
	return "it is not valid now"
}

func (p *trustPolicy) record(hostport string, pin trust.Pin) {
	if err := p.known.Record(hostport, pin); err != nil {
		p.t.warningf("cannot record the key of %s: %v", hostport, err)
	}
}

// accepted asks the user at the terminal about the unknown server of err, and records a yes. It
// asks between two attempts, since a handshake would time out meanwhile.
func (p *trustPolicy) accepted(err error) bool {
	e, ok := errors.AsType[unknownHostError](err)
	if !ok || p.ask == nil {
		return false
	}
	p.asking.Lock()
	defer p.asking.Unlock()
	if known, found, err := p.known.Lookup(e.hostport); err == nil && found && known == e.pin &&
		(!e.secret || p.known.Confirmed(e.hostport)) {
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
