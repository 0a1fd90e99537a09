package cmd

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"kwikcp/internal/trust"
	"kwikcp/transfer"
)

// newPolicy returns a policy with new known hosts, and its stderr.
func newPolicy(t *testing.T, cacert string) (*trustPolicy, *bytes.Buffer) {
	t.Helper()
	stderr := &bytes.Buffer{}
	p, err := newTrustPolicy(&terminal{stderr: stderr}, filepath.Join(t.TempDir(), "state"), cacert)
	if err != nil {
		t.Fatal(err)
	}
	return p, stderr
}

// shown is the state of a connection to a server that shows certificates.
func shown(certs ...*x509.Certificate) tls.ConnectionState {
	return tls.ConnectionState{PeerCertificates: certs}
}

func selfSigned(t *testing.T) *x509.Certificate {
	t.Helper()
	cert, err := trust.NewIdentity(time.Now())
	if err != nil {
		t.Fatal(err)
	}
	return cert.Leaf
}

func TestTrustUnknown(t *testing.T) {
	for host, accepted := range map[string]bool{
		"127.0.0.1:4433": true, "127.9.9.9:4433": true, "[::1]:4433": true, "localhost:4433": true, "LOCALHOST:1": true,
		"[::ffff:127.0.0.1]:1": true,
		"192.0.2.1:4433":       false, "[2001:db8::1]:4433": false, "localhost.example.org:1": false, "0.0.0.0:1": false,
	} {
		p, stderr := newPolicy(t, "")
		leaf := selfSigned(t)
		err := p.verify(host, shown(leaf), false)
		if accepted != (err == nil) {
			t.Errorf("%s: %v, accepted must be %v", host, err, accepted)
		}
		if unknown, ok := errors.AsType[unknownHostError](err); !accepted && (!ok || unknown.pin != trust.PinOf(leaf)) {
			t.Errorf("%s: %v names no pin %v", host, err, trust.PinOf(leaf))
		}
		if _, found, err := p.known.Lookup(host); found != accepted || err != nil {
			t.Errorf("%s: recorded %v, %v", host, found, err)
		}
		if p.accepted(err) {
			t.Errorf("%s: accepted without anybody to ask", host)
		}
		if stderr.Len() > 0 {
			t.Errorf("%s: it says %q", host, stderr)
		}
	}
}

func TestTrustKnown(t *testing.T) {
	const host = "127.0.0.1:4433"
	p, _ := newPolicy(t, "")
	first, second := selfSigned(t), selfSigned(t)
	if err := p.verify(host, shown(first), false); err != nil {
		t.Fatal(err)
	}
	if err := p.verify(host, shown(first), false); err != nil {
		t.Errorf("the same key: %v", err)
	}
	if err := p.verify("127.0.0.1:4434", shown(second), false); err != nil {
		t.Errorf("another port: %v", err)
	}
	err := p.verify(host, shown(second), false)
	changed, ok := errors.AsType[changedKeyError](err)
	if !ok {
		t.Fatalf("another key: %v", err)
	}
	for _, want := range []string{
		trust.PinOf(first).String(), trust.PinOf(second).String(), p.known.Path(), "line 1 of", "attack",
	} {
		if !strings.Contains(changed.Error(), want) {
			t.Errorf("another key: no %q in %q", want, changed)
		}
	}
	for _, want := range []string{p.known.Path(), trust.PinOf(second).String()} {
		if !strings.Contains(changed.hint(), want) {
			t.Errorf("another key: no %q in the hint %q", want, changed.hint())
		}
	}
	if pin, _, _ := p.known.Lookup(host); pin != trust.PinOf(first) {
		t.Error("the known key was replaced")
	}
	if err := p.verify(host, shown(), false); err == nil {
		t.Error("no certificate at all was accepted")
	}
}

func TestTrustAsked(t *testing.T) {
	for _, yes := range []bool{true, false} {
		const host = "example.org:4433"
		p, _ := newPolicy(t, "")
		leaf := selfSigned(t)
		var question string
		p.ask = func(q string) bool { question = q; return yes }
		err := &transfer.Error{Kind: transfer.KindRefused, Op: "connect", Err: p.verify(host, shown(leaf), false)}
		if got := p.accepted(err); got != yes {
			t.Errorf("answer %v: accepted %v", yes, got)
		}
		if !strings.Contains(question, host) || !strings.Contains(question, trust.PinOf(leaf).String()) {
			t.Errorf("question %q", question)
		}
		if again := p.verify(host, shown(leaf), false); (again == nil) != yes {
			t.Errorf("answer %v: the next time %v", yes, again)
		}
		if p.accepted(errors.New("another")) || p.accepted(nil) {
			t.Error("an error that is no question was accepted")
		}
	}
}

func TestTrustDamagedState(t *testing.T) {
	p, stderr := newPolicy(t, "")
	dir := filepath.Dir(p.known.Path())
	if err := os.WriteFile(dir, nil, 0o600); err != nil { // where the directory should be
		t.Fatal(err)
	}
	if _, ok := errors.AsType[knownHostsError](p.verify("127.0.0.1:1", shown(selfSigned(t)), false)); !ok {
		t.Error("known hosts that cannot be read were taken for empty")
	}
	p.record("127.0.0.1:1", trust.Pin{})
	if got := stderr.String(); !strings.HasPrefix(got, "kwikcp: warning: ") || strings.Count(got, "\n") != 1 {
		t.Errorf("it says %q", got)
	}
}

// TestTrustAuthority checks certificates of an authority that --cacert names.
func TestTrustAuthority(t *testing.T) {
	ca, caKey := certificate(t, &x509.Certificate{IsCA: true, KeyUsage: x509.KeyUsageCertSign}, nil, nil)
	file := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: ca.Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	names := x509.Certificate{DNSNames: []string{"example.org"}, IPAddresses: []net.IP{net.ParseIP("192.0.2.1")}}
	good, _ := certificate(t, &names, ca, caKey)
	middle, middleKey := certificate(t, &x509.Certificate{IsCA: true, KeyUsage: x509.KeyUsageCertSign}, ca, caKey)
	under, _ := certificate(t, &names, middle, middleKey)
	for _, test := range []struct {
		host  string
		certs []*x509.Certificate
		ok    bool
	}{
		{"example.org:1", []*x509.Certificate{good}, true},
		{"192.0.2.1:1", []*x509.Certificate{good}, true},
		{"example.org:1", []*x509.Certificate{under, middle}, true},
		{"example.org:1", []*x509.Certificate{under}, false},
		{"example.com:1", []*x509.Certificate{good}, false},
		{"192.0.2.2:1", []*x509.Certificate{good}, false},
		{"example.org:1", []*x509.Certificate{selfSigned(t), good}, false},
	} {
		p, _ := newPolicy(t, file)
		if err := p.verify(test.host, shown(test.certs...), false); (err == nil) != test.ok {
			t.Errorf("%s, %d certificates: %v", test.host, len(test.certs), err)
		}
		if _, found, _ := p.known.Lookup(test.host); found {
			t.Errorf("%s: recorded", test.host)
		}
	}
	p, _ := newPolicy(t, "")
	if err := p.verify("example.org:1", shown(good), false); err == nil {
		t.Error("an authority that is not the system's was trusted without --cacert")
	}
}

// TestTrustOutOfDate checks chains of a known authority of which a part is not valid now. The
// message names that part and this machine's clock.
func TestTrustOutOfDate(t *testing.T) {
	const host = "localhost:1"
	ca, caKey := certificate(t, &x509.Certificate{IsCA: true, KeyUsage: x509.KeyUsageCertSign}, nil, nil)
	file := filepath.Join(t.TempDir(), "ca.pem")
	caPEM := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: ca.Raw})
	if err := os.WriteFile(file, caPEM, 0o600); err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	middle := func(from, to time.Duration) (*x509.Certificate, *ecdsa.PrivateKey) {
		template := &x509.Certificate{
			IsCA: true, KeyUsage: x509.KeyUsageCertSign, NotBefore: now.Add(from), NotAfter: now.Add(to),
		}
		return certificate(t, template, ca, caKey)
	}
	leaf := func(from, to time.Duration, parent *x509.Certificate, key *ecdsa.PrivateKey) *x509.Certificate {
		template := &x509.Certificate{DNSNames: []string{"localhost"}, NotBefore: now.Add(from), NotAfter: now.Add(to)}
		cert, _ := certificate(t, template, parent, key)
		return cert
	}
	good, goodKey := middle(-time.Hour, time.Hour)
	old, oldKey := middle(-3*time.Hour, -2*time.Hour)
	for _, test := range []struct {
		chain []*x509.Certificate
		want  string // empty: the server is unknown
	}{
		{[]*x509.Certificate{leaf(-5*time.Hour, -4*time.Hour, good, goodKey), good}, "not accepted: it expired at "},
		{[]*x509.Certificate{leaf(time.Hour, 2*time.Hour, good, goodKey), good}, "not accepted: it is valid from "},
		{
			[]*x509.Certificate{leaf(-time.Hour, time.Hour, old, oldKey), old},
			`not accepted: that of its authority "test" expired at `,
		},
		{[]*x509.Certificate{leaf(-5*time.Hour, -4*time.Hour, good, goodKey)}, ""},
		{[]*x509.Certificate{selfSigned(t)}, ""},
	} {
		p, _ := newPolicy(t, file)
		err := p.verify(host, shown(test.chain...), false)
		_, unknown := errors.AsType[unknownHostError](err)
		if test.want == "" && !unknown {
			t.Errorf("%v, want that the server is unknown", err)
		}
		clock := "the clock of this machine shows " + now.UTC().Format("2006-01-02")
		message := fmt.Sprint(err)
		if test.want != "" && (!strings.Contains(message, test.want) || !strings.Contains(message, clock)) {
			t.Errorf("%v, want %q and %q", err, test.want, clock)
		}
		if _, found, _ := p.known.Lookup(host); found {
			t.Error("recorded")
		}
	}
}

// certificate makes a certificate that parent signs, or itself if that is nil.
func certificate(t *testing.T, template, parent *x509.Certificate, parentKey *ecdsa.PrivateKey) (*x509.Certificate, *ecdsa.PrivateKey) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template.SerialNumber, template.Subject = big.NewInt(time.Now().UnixNano()), pkix.Name{CommonName: "test"}
	if template.NotBefore.IsZero() {
		template.NotBefore, template.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
	}
	template.BasicConstraintsValid = true
	if parent == nil {
		parent, parentKey = template, key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), parentKey)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return cert, key
}

func TestTrustPinned(t *testing.T) {
	p, _ := newPolicy(t, "")
	leaf := selfSigned(t)
	pin, other := trust.PinOf(leaf), trust.Pin{}
	pinned := transfer.URL{Host: "example.org:1", Pin: (*[32]byte)(&pin)}
	if err := p.config(pinned, false).VerifyConnection(shown(leaf)); err != nil {
		t.Errorf("right pin: %v", err)
	}
	err := p.config(transfer.URL{Host: "127.0.0.1:1", Pin: (*[32]byte)(&other)}, false).VerifyConnection(shown(leaf))
	if _, ok := errors.AsType[*trust.PinError](err); !ok {
		t.Errorf("wrong pin on loopback: %v", err)
	}
}
