// Package trust keeps and checks the identities of servers.
//
// A server is identified by its key. A Pin is the hash of the public key; URLs, AddPath
// frames and known-hosts entries carry it. It stays the same when the certificate is
// renewed. Nothing here prints, asks or decides whom
// to trust; that is for the caller.
package trust

import (
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
)

// A Pin is the SHA-256 of a certificate's SubjectPublicKeyInfo, as in RFC 7469
// and in curl's --pinnedpubkey.
type Pin [sha256.Size]byte

// PinOf returns the pin of the public key in cert.
func PinOf(cert *x509.Certificate) Pin {
	return sha256.Sum256(cert.RawSubjectPublicKeyInfo)
}

// String returns p in base64url without padding, 43 characters that need no
// escape in a URL. ParsePin reads it.
func (p Pin) String() string { return base64.RawURLEncoding.EncodeToString(p[:]) }

// ParsePin reads a pin in base64url or standard base64, with or without
// padding, and with or without curl's prefix "sha256//".
func ParsePin(s string) (Pin, error) {
	text := strings.TrimSuffix(strings.TrimPrefix(s, "sha256//"), "=")
	encoding := base64.RawURLEncoding
	if strings.ContainsAny(text, "+/") {
		encoding = base64.RawStdEncoding
	}
	// The decoder skips line ends. They count here, so a text with one decodes to too few
	// bytes. Strict, so that a pin has one spelling only.
	var p Pin
	if len(text) != encoding.EncodedLen(len(p)) {
		return Pin{}, fmt.Errorf("pin %.60q: want 43 characters of base64, the SHA-256 of a public key", s)
	}
	b, err := encoding.Strict().DecodeString(text)
	if err != nil || len(b) != len(p) {
		return Pin{}, fmt.Errorf("pin %.60q: not base64", s)
	}
	return Pin(b), nil
}

// A PinError reports that the peer holds another key than the expected one: another
// machine answers, or the server has a new key.
type PinError struct {
	Want, Got Pin
}

func (e *PinError) Error() string {
	return fmt.Sprintf("the server has the key %v, and not %v as expected", e.Got, e.Want)
}

// VerifyPin returns a function for tls.Config.VerifyConnection that accepts
// only a peer with the key want, and otherwise fails with a *PinError. Dates,
// names and issuer of the certificate do not matter.
func VerifyPin(want Pin) func(tls.ConnectionState) error {
	return func(state tls.ConnectionState) error {
		if len(state.PeerCertificates) == 0 {
			return errors.New("the peer showed no certificate")
		}
		// The first certificate is the one whose key signs the handshake.
		if got := PinOf(state.PeerCertificates[0]); got != want {
			return &PinError{Want: want, Got: got}
		}
		return nil
	}
}

// PinnedClientConfig returns a copy of base, or a new configuration if base is nil. It accepts
// exactly a server with the key want, over TLS 1.3. A VerifyConnection in base is asked too,
// after the pin.
func PinnedClientConfig(base *tls.Config, want Pin) *tls.Config {
	config := new(tls.Config)
	if base != nil {
		config = base.Clone()
	}
	config.MinVersion = max(config.MinVersion, tls.VersionTLS13)

	// This replaces the check of the certificate chain. InsecureSkipVerify turns off the
	// search for a known issuer, because a self-signed certificate has none.
	// VerifyConnection still runs, for resumed sessions too, and accepts exactly one key.
	// The handshake proves that the server holds it. Two other places set
	// InsecureSkipVerify: kwik's join and trust on first use in cmd.
	config.InsecureSkipVerify = true
	verify, also := VerifyPin(want), config.VerifyConnection
	config.VerifyConnection = func(state tls.ConnectionState) error {
		if err := verify(state); err != nil || also == nil {
			return err
		}
		return also(state)
	}
	return config
}
