package trust

import (
	"crypto/sha256"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"net"
	"strings"
	"sync"
	"testing"
	"time"
)

// somePin has all of "-", "_" in base64url, so "+" and "/" in base64.
var somePin = Pin{0xfb, 0xff, 0xfe, 31: 0x01}

func TestParsePin(t *testing.T) {
	p := somePin
	url, std := base64.RawURLEncoding.EncodeToString(p[:]), base64.RawStdEncoding.EncodeToString(p[:])
	for name, s := range map[string]string{
		"String":              p.String(),
		"base64url":           url,
		"base64url, padded":   url + "=",
		"standard":            std,
		"standard, padded":    std + "=",
		"curl":                "sha256//" + std + "=",
		"curl, no padding":    "sha256//" + std,
		"curl with base64url": "sha256//" + url,
	} {
		if got, err := ParsePin(s); got != p || err != nil {
			t.Errorf("%s: ParsePin(%q) = %v, %v", name, s, got, err)
		}
	}
	for name, s := range map[string]string{
		"empty":              "",
		"prefix only":        "sha256//",
		"short":              url[:42],
		"long":               url + "A",
		"twice padded":       url + "==",
		"two alphabets":      "-+" + url[2:],
		"no base64":          strings.Repeat("!", 43),
		"line end":           url[:20] + "\n" + url[20:42],
		"line end, appended": url + "\n",
		"space":              " " + url[:42],
		"two prefixes":       "sha256//sha256//" + url,
		"other hash":         "sha1//" + url,
		"hexadecimal":        strings.Repeat("ab", 32),
		// The last character holds 4 bits of the hash and 2 that must be zero.
		"second spelling": url[:42] + "F",
	} {
		if got, err := ParsePin(s); err == nil {
			t.Errorf("%s: ParsePin(%q) = %v", name, s, got)
		}
	}
}

func FuzzParsePin(f *testing.F) {
	f.Add(somePin.String())
	f.Add("sha256//+//+AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAE=")
	f.Add("\n\r=")
	f.Fuzz(func(t *testing.T, s string) {
		p, err := ParsePin(s)
		if err != nil {
			if p != (Pin{}) {
				t.Errorf("error with a pin: %v", p)
			}
			return
		}
		if again, err := ParsePin(p.String()); again != p || err != nil {
			t.Errorf("%v read again is %v, %v", p, again, err)
		}
		std := strings.NewReplacer("-", "+", "_", "/").Replace(s)
		if p.String() != strings.NewReplacer("+", "-", "/", "_").Replace(strings.TrimSuffix(strings.TrimPrefix(std, "sha256//"), "=")) {
			t.Errorf("%q was read as %v", s, p)
		}
	})
}

func identity(t *testing.T, now time.Time) (tls.Certificate, Pin) {
	t.Helper()
	cert, err := NewIdentity(now)
	if err != nil {
		t.Fatal(err)
	}
	return cert, PinOf(cert.Leaf)
}

// handshake runs TLS between a server with cert and a client, and returns what the client
// says. It is over TCP because net.Pipe has no buffer. There a client that refuses and a
// server that still has to write wait for each other.
func handshake(t *testing.T, cert tls.Certificate, client *tls.Config) error {
	t.Helper()
	ln, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{cert}})
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	defer wg.Wait()
	defer ln.Close()
	wg.Go(func() {
		if conn, err := ln.Accept(); err == nil {
			conn.(*tls.Conn).Handshake() // the client tells how it went
			conn.Close()
		}
	})
	conn, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	return tls.Client(conn, client).Handshake()
}

func TestPinnedClientConfig(t *testing.T) {
	cert, pin := identity(t, time.Now())
	if want := Pin(sha256.Sum256(cert.Leaf.RawSubjectPublicKeyInfo)); pin != want {
		t.Errorf("PinOf = %v, want %v", pin, want)
	}
	if err := handshake(t, cert, PinnedClientConfig(nil, pin)); err != nil {
		t.Errorf("the right key: %v", err)
	}
	if err := handshake(t, cert, &tls.Config{ServerName: "x"}); err == nil {
		t.Error("an unpinned client trusts a self-signed key")
	}
	for _, want := range []Pin{somePin, {}} {
		err := handshake(t, cert, PinnedClientConfig(nil, want))
		var perr *PinError
		if !errors.As(err, &perr) || perr.Want != want || perr.Got != pin {
			t.Errorf("another key: %v", err)
		} else if s := perr.Error(); !strings.Contains(s, want.String()) || !strings.Contains(s, pin.String()) {
			t.Errorf("%q does not name both pins", s)
		}
	}
	// Identity is the key, not the dates.
	old, oldPin := identity(t, time.Now().AddDate(-20, 0, 0))
	if err := handshake(t, old, PinnedClientConfig(nil, oldPin)); err != nil {
		t.Errorf("the right key in an expired certificate: %v", err)
	}
}

func TestPinnedClientConfigKeepsBase(t *testing.T) {
	cert, pin := identity(t, time.Now())
	refused := errors.New("refused by base")
	asked := 0
	base := &tls.Config{
		NextProtos:       []string{"kwik"},
		MinVersion:       tls.VersionTLS12,
		VerifyConnection: func(tls.ConnectionState) error { asked++; return refused },
	}
	config := PinnedClientConfig(base, pin)
	if base.InsecureSkipVerify || base.MinVersion != tls.VersionTLS12 {
		t.Error("base was changed")
	}
	if config.MinVersion != tls.VersionTLS13 || len(config.NextProtos) != 1 {
		t.Errorf("MinVersion %#x, NextProtos %v", config.MinVersion, config.NextProtos)
	}
	if err := handshake(t, cert, config); !errors.Is(err, refused) || asked != 1 {
		t.Errorf("base was asked %d times, error %v", asked, err)
	}
	var perr *PinError
	if err := handshake(t, cert, PinnedClientConfig(base, somePin)); !errors.As(err, &perr) || asked != 1 {
		t.Errorf("base was asked %d times, error %v", asked, err)
	}
}

func TestVerifyPinWithoutCertificate(t *testing.T) {
	if err := VerifyPin(Pin{})(tls.ConnectionState{}); err == nil {
		t.Error("accepts a peer without a certificate")
	}
}
