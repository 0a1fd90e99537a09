package trust

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"os"
	"path/filepath"
	"time"
)

const (
	keyFile    = "server.key"
	keyPEMType = "PRIVATE KEY"
	maxKeyFile = 16 << 10 // bytes; a P-256 key takes 241
)

// A KeyFileError reports that the file with the server's key exists but cannot be used.
// It is never overwritten: whoever has its pin would be locked out.
type KeyFileError struct {
	Path string
	Err  error
}

func (e *KeyFileError) Error() string {
	return fmt.Sprintf("server key %s: %v (repair it, or move it away and get a new key and pin)", e.Path, e.Err)
}

func (e *KeyFileError) Unwrap() error { return e.Err }

// NewIdentity makes an ECDSA P-256 key and a self-signed certificate for it. The
// certificate is valid from an hour before now, to allow for slow clocks, to ten years
// after. Leaf is set, so PinOf(cert.Leaf) is the server's pin.
func NewIdentity(now time.Time) (tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("making a server key: %w", err)
	}
	return certify(key, now)
}

// LoadOrCreateIdentity returns the identity whose key is kept in dir, in the file server.key,
// and makes dir and key if there is none. The certificate around the key is new at each call.
// Concurrent callers with the same fresh directory, in one process or several, all get the
// same key. A file that cannot be used is a *KeyFileError.
func LoadOrCreateIdentity(dir string, now time.Time) (tls.Certificate, error) {
	path := filepath.Join(dir, keyFile)
	key, err := loadKey(path)
	if errors.Is(err, fs.ErrNotExist) {
		if err = createKey(dir, path); err == nil || errors.Is(err, fs.ErrExist) {
			// Ours, or that of somebody who was faster.
			key, err = loadKey(path)
		}
	}
	if err != nil {
		return tls.Certificate{}, err
	}
	return certify(key, now)
}

// certify makes a certificate that key signs for itself.
func certify(key *ecdsa.PrivateKey, now time.Time) (tls.Certificate, error) {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("making a certificate: %w", err)
	}
	template := &x509.Certificate{
		SerialNumber: serial,
		Subject:      pkix.Name{CommonName: "kwikcp"},
		NotBefore:    now.Add(-time.Hour),
		NotAfter:     now.AddDate(10, 0, 0),
		KeyUsage:     x509.KeyUsageDigitalSignature,
		// A server is also a client, of the servers that it joins or dials back.
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("making a certificate: %w", err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("making a certificate: %w", err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}, nil
}

// loadKey reads a key file. Its error wraps fs.ErrNotExist if there is none.
func loadKey(path string) (*ecdsa.PrivateKey, error) {
	data, err := ReadSecret(path, maxKeyFile+1)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	if err != nil {
		return nil, &KeyFileError{path, err}
	}
	key, err := parseKey(data)
	if err != nil {
		return nil, &KeyFileError{path, err}
	}
	return key, nil
}

func parseKey(data []byte) (*ecdsa.PrivateKey, error) {
	if len(data) > maxKeyFile {
		return nil, fmt.Errorf("longer than %d bytes", maxKeyFile)
	}
	block, rest := pem.Decode(data)
	if block == nil || block.Type != keyPEMType || len(bytes.TrimSpace(rest)) > 0 {
		return nil, fmt.Errorf("not one PEM block %q", keyPEMType)
	}
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("not a PKCS #8 key: %w", err)
	}
	ec, ok := key.(*ecdsa.PrivateKey)
	if !ok || ec.Curve != elliptic.P256() {
		return nil, errors.New("not an ECDSA key on the curve P-256")
	}
	return ec, nil
}

// createKey makes a key and puts it at path, whole or not at all. Its error
// wraps fs.ErrExist if there is a file at path already, which stays.
func createKey(dir, path string) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return fmt.Errorf("making a server key: %w", err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return fmt.Errorf("making a server key: %w", err)
	}
	data := pem.EncodeToMemory(&pem.Block{Type: keyPEMType, Bytes: der})
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("keeping the server key: %w", err)
	}
	err = publish(dir, path, data, os.Link)
	if err != nil {
		return fmt.Errorf("keeping the server key: %w", err)
	}
	return nil
}

// publish makes a file of mode 0600 with data at path, which is in dir, unless there is one
// already. It writes to another name first, then links the file to its final name. Unlike a
// rename a link replaces nothing: of several processes that publish at once one wins. No
// reader sees half a file.
func publish(dir, path string, data []byte, link func(from, to string) error) error {
	temp, err := os.CreateTemp(dir, keyFile+".*.tmp") // mode 0600
	if err != nil {
		return err
	}
	defer os.Remove(temp.Name())
	if err := fill(temp, data); err != nil {
		return err
	}
	err = link(temp.Name(), path)
	if err == nil {
		syncDir(dir)
		return nil
	}
	if errors.Is(err, fs.ErrExist) {
		return err
	}
	// A file system without links, such as FAT. Creating the file in place decides the race as
	// well. But a process that reads between creation and write is told that the key is
	// unusable, and has to start again.
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	if err := fill(f, data); err != nil {
		os.Remove(path)
		return err
	}
	syncDir(dir)
	return nil
}

// fill writes data to f, makes sure that it is on disk, and closes f.
func fill(f *os.File, data []byte) error {
	_, err := f.Write(data)
	if err == nil {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}

// syncDir makes new names in dir durable where that is possible. If it is not,
// the worst is a key that a power cut loses before anybody was given its pin.
func syncDir(dir string) {
	if d, err := os.Open(dir); err == nil {
		d.Sync()
		d.Close()
	}
}

// TicketKey derives the key of a primary's own tickets from its private key. The tickets
// therefore stay valid when the primary is restarted.
func TicketKey(cert tls.Certificate) [32]byte {
	return secret(cert, "kwikcp 2026 primary's own ticket key")
}

// StatelessResetKey derives quic.Transport.StatelessResetKey from the private key of cert, so
// that a restarted server can reset the connections of its clients at once. See secret.
func StatelessResetKey(cert tls.Certificate) [32]byte {
	return secret(cert, "kwikcp 2026 QUIC stateless reset key")
}

// TokenKey derives quic.Transport.TokenGeneratorKey from the private key of
// cert, so that address validation tokens outlive a restart. See secret.
func TokenKey(cert tls.Certificate) [32]byte {
	return secret(cert, "kwikcp 2026 QUIC token key")
}

// secret derives a secret from the private key of cert. It is always the same, and does not
// reveal the key or the secret of another context. A key that cannot be read out, as in a
// hardware module, gives a random secret instead, another one at each call.
func secret(cert tls.Certificate, context string) (s [32]byte) {
	der, err := x509.MarshalPKCS8PrivateKey(cert.PrivateKey)
	if err == nil {
		var b []byte
		if b, err = hkdf.Key(sha256.New, der, nil, context, len(s)); err == nil {
			return [32]byte(b)
		}
	}
	rand.Read(s[:]) // never fails
	return s
}
