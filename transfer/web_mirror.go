package transfer

import (
	"crypto/x509"
	"errors"
	"fmt"
	"kwikcp/internal/webfile"
	"kwikcp/kwik"
	"net/netip"
	"net/url"
	"strings"
)

// A WebMirror is a web server that has files of a primary. A transfer takes bytes from it as from
// a secondary. It is trusted with nothing: all bytes are verified against the tree that the
// primary named.
type WebMirror struct {
	// Template is the URL of a file. {path} stands for the file's path on the primary,
	// percent-encoded. Without it, it is the URL of one file.
	Template string
	// Priority orders mirrors: those with small numbers are used first.
	Priority int
}

// pathMark stands for the path of a file in a template.
const pathMark = "{path}"

// MaxTemplate bounds WebMirror.Template, in bytes.
const MaxTemplate = 2048

// Check returns an error unless the template is one of https URLs, or of http URLs if they are
// allowed.
func (m WebMirror) Check(allowHTTP bool) error {
	if len(m.Template) > MaxTemplate {
		return fmt.Errorf("it has more than %d bytes", MaxTemplate)
	}
	const path = "a-path-of-kwikcp"
	u, err := m.urlOf(path, allowHTTP)
	if err == nil && m.HasPath() && !strings.Contains(u.Path+"?"+u.RawQuery, path) {
		return errors.New(pathMark + " must be in its path or query")
	}
	return err
}

// HasPath reports whether the template is one for many files.
func (m WebMirror) HasPath() bool { return strings.Contains(m.Template, pathMark) }

// urlOf returns the URL of the file at a path.
func (m WebMirror) urlOf(path string, allowHTTP bool) (*url.URL, error) {
	return webfile.Parse(strings.ReplaceAll(m.Template, pathMark, percentEncode(path)), allowHTTP)
}

// percentEncode encodes all bytes of a path but slashes and unreserved characters (RFC 3986,
// section 2.3). So it may be in the path of a URL or in its query.
func percentEncode(path string) string {
	var b strings.Builder
	for _, c := range []byte(path) {
		isLetter := 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z'
		isDigit := '0' <= c && c <= '9'
		if isLetter || isDigit || strings.IndexByte("-._~/", c) >= 0 {
			b.WriteByte(c)
		} else {
			fmt.Fprintf(&b, "%%%02X", c)
		}
	}
	return b.String()
}

// WebOptions says which web mirrors a transfer uses, and how. The zero value uses those that the
// primary names.
type WebOptions struct {
	// Mirrors are used besides those that the primary names. They are used for files whose URLs
	// they have: a template without {path} is for Get only.
	Mirrors []WebMirror
	// IgnoreNamed ignores the mirrors that the primary names.
	IgnoreNamed bool
	// AllowHTTP allows mirrors without TLS. Others then see, and can delay, what is fetched, but
	// not change it.
	AllowHTTP bool
	// Roots verify the certificates of mirrors; nil means those of the system.
	Roots *x509.CertPool
	// Credentials returns the user and the password for a host; nil has none. They are sent to
	// that host only. It is asked about the hosts of Mirrors, and, with isRedirect set, about those
	// to which they redirect with TLS.
	Credentials func(host string, isRedirect bool) (user, password string, ok bool)

	minExtent int64 // kwik.ExternalConfig.MinExtent; tests set it
}

// A WebFile describes one file on web mirrors, as a line of a list or a Metalink does. The zero
// value has no mirrors.
type WebFile struct {
	// Mirrors are used before those of WebOptions. A mirror that is banned is so for this file.
	Mirrors []WebMirror
	// IsForeign is set if the user did not name the hosts. Then they are treated like hosts to
	// which a mirror redirects: WebOptions.Credentials is called with isRedirect set.
	IsForeign bool
	// MayConnect decides about the addresses of mirrors that are foreign; nil allows all.
	MayConnect func(netip.Addr) bool

	// HasSize is set if Size is the size of the file in bytes.
	HasSize bool
	Size    int64
	// PieceSize is the size in bytes of all pieces but the last one, at most MaxPiece; 0 without
	// pieces. Pieces has their SHA-256 hashes, one after the other. They count only in a Get
	// without a primary.
	PieceSize int64
	Pieces    []byte
}

// MaxPiece bounds WebFile.PieceSize, in bytes: a whole piece is held until it is verified.
const MaxPiece = kwik.MaxLocalUnit

// A Proof says by what the bytes of a Result are proved.
type Proof string

const (
	ProofTree   Proof = "tree"   // the BLAKE3 tree whose root the primary, or the user, named
	ProofPieces Proof = "pieces" // the hash of each piece
	ProofWhole  Proof = "whole"  // the hashes of the whole file
)
