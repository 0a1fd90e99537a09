package trust

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"
)

var now = time.Date(2026, 5, 17, 12, 0, 0, 0, time.UTC)

func TestNewIdentity(t *testing.T) {
	cert, pin := identity(t, now)
	_, other := identity(t, now)
	if pin == other {
		t.Error("two identities have the same key")
	}
	leaf := cert.Leaf
	if !leaf.NotBefore.Equal(now.Add(-time.Hour)) || !leaf.NotAfter.Equal(now.AddDate(10, 0, 0)) {
		t.Errorf("valid from %v to %v", leaf.NotBefore, leaf.NotAfter)
	}
	if err := leaf.CheckSignature(leaf.SignatureAlgorithm, leaf.RawTBSCertificate, leaf.Signature); err != nil {
		t.Errorf("not signed by itself: %v", err)
	}
	if key, ok := cert.PrivateKey.(*ecdsa.PrivateKey); !ok || key.Curve != elliptic.P256() {
		t.Errorf("key is a %T", cert.PrivateKey)
	}
}

func load(t *testing.T, dir string, now time.Time) (tls.Certificate, Pin) {
	t.Helper()
	cert, err := LoadOrCreateIdentity(dir, now)
	if err != nil {
		t.Fatal(err)
	}
	return cert, PinOf(cert.Leaf)
}

func TestLoadOrCreateIdentity(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "a", "b") // both to be made
	first, pin := load(t, dir, now)
	second, again := load(t, dir, now.AddDate(3, 0, 0))
	if pin != again {
		t.Errorf("the key changed: %v, then %v", pin, again)
	}
	if !second.Leaf.NotAfter.Equal(now.AddDate(13, 0, 0)) {
		t.Errorf("the certificate is an old one: valid to %v", second.Leaf.NotAfter)
	}
	if StatelessResetKey(first) != StatelessResetKey(second) || TokenKey(first) != TokenKey(second) {
		t.Error("the secrets changed")
	}
	wantOnly(t, dir, keyFile)
	if runtime.GOOS == "windows" {
		return // has no such modes
	}
	for name, want := range map[string]fs.FileMode{dir: 0o700, filepath.Join(dir, keyFile): 0o600} {
		if info, err := os.Stat(name); err != nil || info.Mode().Perm() != want {
			t.Errorf("%s: mode %v, %v; want %v", name, info.Mode(), err, want)
		}
	}
}

// wantOnly checks that dir has nothing but the file name.
func wantOnly(t *testing.T, dir, name string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 1 || entries[0].Name() != name {
		t.Errorf("%s has %v, %v; want %s only", dir, entries, err, name)
	}
}

func TestLoadOrCreateIdentityAtOnce(t *testing.T) {
	for range 10 {
		dir := filepath.Join(t.TempDir(), "fresh")
		const n = 16
		var pins [n]Pin
		var wg sync.WaitGroup
		start := make(chan struct{})
		for i := range n {
			wg.Go(func() {
				<-start
				cert, err := LoadOrCreateIdentity(dir, now)
				if err != nil {
					t.Error(err)
					return
				}
				pins[i] = PinOf(cert.Leaf)
			})
		}
		close(start)
		wg.Wait()
		for _, pin := range pins {
			if pin != pins[0] {
				t.Fatalf("different keys: %v", pins)
			}
		}
		wantOnly(t, dir, keyFile)
	}
}

func TestPublish(t *testing.T) {
	unsupported := func(from, to string) error {
		return &os.LinkError{Op: "link", Old: from, New: to, Err: errors.ErrUnsupported}
	}
	for name, link := range map[string]func(string, string) error{"link": os.Link, "no links": unsupported} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			path := filepath.Join(dir, keyFile)
			if err := publish(dir, path, []byte("first"), link); err != nil {
				t.Fatal(err)
			}
			if err := publish(dir, path, []byte("second"), link); !errors.Is(err, fs.ErrExist) {
				t.Errorf("publishing again: %v", err)
			}
			if got, err := os.ReadFile(path); string(got) != "first" || err != nil {
				t.Errorf("file has %q, %v", got, err)
			}
			wantOnly(t, dir, keyFile)
		})
	}
}

func TestKeyFileRefused(t *testing.T) {
	pkcs8 := func(key any) []byte {
		der, err := x509.MarshalPKCS8PrivateKey(key)
		if err != nil {
			t.Fatal(err)
		}
		return pem.EncodeToMemory(&pem.Block{Type: keyPEMType, Bytes: der})
	}
	p256, _ := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	p384, _ := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	_, ed, _ := ed25519.GenerateKey(rand.Reader)
	good := pkcs8(p256)
	for name, data := range map[string][]byte{
		"empty":        nil,
		"garbage":      []byte("garbage\n"),
		"truncated":    good[:len(good)/2],
		"two keys":     append(append([]byte(nil), good...), good...),
		"other block":  pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: []byte{1}}),
		"damaged":      pem.EncodeToMemory(&pem.Block{Type: keyPEMType, Bytes: []byte{1, 2, 3}}),
		"other curve":  pkcs8(p384),
		"other scheme": pkcs8(ed),
		"huge":         append(append([]byte(nil), good...), make([]byte, maxKeyFile)...),
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			path := filepath.Join(dir, keyFile)
			if err := os.WriteFile(path, data, 0o600); err != nil {
				t.Fatal(err)
			}
			_, err := LoadOrCreateIdentity(dir, now)
			var kerr *KeyFileError
			if !errors.As(err, &kerr) || kerr.Path != path || !strings.Contains(err.Error(), path) {
				t.Errorf("error %v", err)
			}
			if got, _ := os.ReadFile(path); string(got) != string(data) {
				t.Error("the file was changed")
			}
		})
	}
	t.Run("open to all", func(t *testing.T) {
		if runtime.GOOS == "windows" {
			t.Skip("has no such modes")
		}
		dir := t.TempDir()
		path := filepath.Join(dir, keyFile)
		os.WriteFile(path, good, 0o600)
		os.Chmod(path, 0o644)
		var kerr *KeyFileError
		if _, err := LoadOrCreateIdentity(dir, now); !errors.As(err, &kerr) {
			t.Errorf("error %v", err)
		}
		os.Chmod(path, 0o440)
		if _, err := LoadOrCreateIdentity(dir, now); err != nil {
			t.Errorf("readable by the group: %v", err)
		}
	})
	t.Run("no directory", func(t *testing.T) {
		file := filepath.Join(t.TempDir(), "file")
		os.WriteFile(file, nil, 0o600)
		if _, err := LoadOrCreateIdentity(file, now); err == nil {
			t.Error("no error")
		}
	})
}

// The secrets derived from a key must never change: clients of a server that
// was restarted with a newer kwikcp depend on them.
func TestSecrets(t *testing.T) {
	scalar := make([]byte, 32)
	scalar[31] = 7
	key, err := ecdsa.ParseRawPrivateKey(elliptic.P256(), scalar)
	if err != nil {
		t.Fatal(err)
	}
	cert := tls.Certificate{PrivateKey: key}
	reset, token := StatelessResetKey(cert), TokenKey(cert)
	if got := hex.EncodeToString(reset[:]); got != "9f7f41f2817e3e51e3812548642e1a2ca6a2bc1b10984df0f9b5a1746744f6cc" {
		t.Errorf("StatelessResetKey = %s", got)
	}
	if got := hex.EncodeToString(token[:]); got != "89d396631561d724b2ba501d463877567182bb553b66130472e778bbb640cdff" {
		t.Errorf("TokenKey = %s", got)
	}
	other, _ := identity(t, now)
	if StatelessResetKey(other) == reset || TokenKey(other) == token {
		t.Error("two keys have the same secrets")
	}
	// A key that only signs: random secrets, not constant ones.
	opaque := tls.Certificate{PrivateKey: struct{ crypto.Signer }{key}}
	if s := StatelessResetKey(opaque); s == reset || s == StatelessResetKey(opaque) || s == [32]byte{} {
		t.Errorf("secret of an opaque key: %x", s)
	}
}
