package trust

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/tls"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// An AccessToken is a permission to read some paths of the primaries that share a private key. It
// is signed with a key derived from that one, so that nothing needs to be stored.
type AccessToken struct {
	// Name identifies the token in logs and in lists of revoked tokens; see CheckTokenName.
	Name string
	// Paths are what the token allows, in the form of NormalizePath, sorted, none inside
	// another.
	Paths []string
	// Issued and Expires are the limits of its validity, in whole milliseconds. A zero Expires
	// means that the token does not expire.
	Issued, Expires time.Time
}

const (
	// TokenPrefix begins the text of each token.
	TokenPrefix = "kwikcp1_"
	// MaxTokenText bounds the text of a token, in bytes.
	MaxTokenText = 1 << 10
	// MaxTokenName bounds the name of a token, in bytes.
	MaxTokenName = 64
	// MaxTokenPaths bounds the paths of a token.
	MaxTokenPaths = 16
	// issueTolerance is how far the clock of the issuer may be ahead of a server's. Expiry
	// has no tolerance.
	issueTolerance = 10 * time.Minute

	tokenVersion = 1
	// tokenContext separates the signatures of tokens from all others under a key.
	tokenContext = "kwikcp access token 1"
)

var (
	// ErrTokenInvalid means that a text is no token, or that another key signed it.
	ErrTokenInvalid = errors.New("not a valid token")
	// ErrTokenExpired and ErrTokenNotYet are the errors of authentic tokens outside their
	// dates.
	ErrTokenExpired = errors.New("the token has expired")
	ErrTokenNotYet  = errors.New("the token was issued in the future")
)

// AccessKey derives the key that signs access tokens from the private key of a server. Every
// primary with that private key accepts the tokens. See secret.
func AccessKey(cert tls.Certificate) [32]byte {
	return secret(cert, "kwikcp 2026 access token key")
}

var tokenEncoding = base64.RawURLEncoding.Strict()

// Sign returns the text of the token, one line without its end. It is an error if a field is not as
// documented, or if the text would be too long.
func (t AccessToken) Sign(key [32]byte) (string, error) {
	if err := t.check(); err != nil {
		return "", err
	}
	body := t.encode()
	text := TokenPrefix + tokenEncoding.EncodeToString(append(body, tokenMAC(key, body)...))
	if len(text) > MaxTokenText {
		return "", fmt.Errorf("the token would have %d characters, more than %d: allow fewer or shorter paths",
			len(text), MaxTokenText)
	}
	return text, nil
}

// check returns an error unless every field is as documented.
func (t AccessToken) check() error {
	if err := CheckTokenName(t.Name); err != nil {
		return fmt.Errorf("the name %.80q: %w", t.Name, err)
	}
	named := slices.Clone(t.Paths)
	for i := range named {
		if named[i] == "" { // the normal form of everything
			named[i] = "/"
		}
	}
	normal, err := NormalizePaths(named)
	if err != nil {
		return err
	}
	switch {
	case !slices.Equal(normal, t.Paths):
		return errors.New("the paths are not in their normal form")
	case t.Issued.UnixMilli() <= 0:
		return errors.New("no time of issue")
	case !t.Expires.IsZero() && t.Expires.UnixMilli() <= t.Issued.UnixMilli():
		return errors.New("it expires before it is issued")
	}
	return nil
}

// encode returns the signed bytes: version, times, name and paths.
func (t AccessToken) encode() []byte {
	b := []byte{tokenVersion}
	expires := uint64(0)
	if !t.Expires.IsZero() {
		expires = uint64(t.Expires.UnixMilli())
	}
	b = binary.AppendUvarint(b, uint64(t.Issued.UnixMilli()))
	b = binary.AppendUvarint(b, expires)
	b = appendText(b, t.Name)
	b = binary.AppendUvarint(b, uint64(len(t.Paths)))
	for _, p := range t.Paths {
		b = appendText(b, p)
	}
	return b
}

func appendText(b []byte, s string) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}

func tokenMAC(key [32]byte, body []byte) []byte {
	h := hmac.New(sha256.New, key[:])
	h.Write([]byte(tokenContext))
	h.Write(body)
	return h.Sum(nil)
}

// ParseAccessToken reads the text of a token without checking its signature or dates. Each token
// has exactly one text. The error is ErrTokenInvalid.
func ParseAccessToken(text string) (AccessToken, error) {
	t, _, _, err := splitToken(text)
	return t, err
}

// splitToken returns a token, its signed bytes and its signature.
func splitToken(text string) (t AccessToken, body, mac []byte, err error) {
	encoded, ok := strings.CutPrefix(text, TokenPrefix)
	if !ok || len(text) > MaxTokenText || strings.ContainsAny(encoded, "\r\n") { // which the decoder would skip
		return t, nil, nil, ErrTokenInvalid
	}
	raw, err := tokenEncoding.DecodeString(encoded)
	if err != nil || len(raw) < sha256.Size {
		return t, nil, nil, ErrTokenInvalid
	}
	body, mac = raw[:len(raw)-sha256.Size], raw[len(raw)-sha256.Size:]
	t, ok = decodeToken(body)
	if !ok || t.check() != nil || !bytes.Equal(t.encode(), body) {
		return AccessToken{}, nil, nil, ErrTokenInvalid
	}
	return t, body, mac, nil
}

// decodeToken reads the signed bytes. It does not check the fields.
func decodeToken(body []byte) (t AccessToken, ok bool) {
	if len(body) == 0 || body[0] != tokenVersion {
		return t, false
	}
	r := tokenReader{rest: body[1:]}
	issued, expires := r.uvarint(), r.uvarint()
	t.Name = r.text()
	n := r.uvarint()
	if r.failed || issued > math.MaxInt64 || expires > math.MaxInt64 || n > MaxTokenPaths {
		return t, false
	}
	t.Issued = time.UnixMilli(int64(issued)).UTC()
	if expires > 0 {
		t.Expires = time.UnixMilli(int64(expires)).UTC()
	}
	for range n {
		t.Paths = append(t.Paths, r.text())
	}
	return t, !r.failed && len(r.rest) == 0
}

// A tokenReader reads the fields of a token. After a failure all results are zero.
type tokenReader struct {
	rest   []byte
	failed bool
}

func (r *tokenReader) uvarint() uint64 {
	v, n := binary.Uvarint(r.rest)
	if n <= 0 {
		r.failed, r.rest = true, nil
		return 0
	}
	r.rest = r.rest[n:]
	return v
}

func (r *tokenReader) text() string {
	n := r.uvarint()
	if n > uint64(len(r.rest)) {
		r.failed, r.rest = true, nil
		return ""
	}
	s := string(r.rest[:n])
	r.rest = r.rest[n:]
	return s
}

// CheckAccessToken returns the token of a text that key has signed and that is valid at now. The
// time that it takes does not depend on where a signature is wrong. The error is ErrTokenInvalid,
// ErrTokenExpired or ErrTokenNotYet; with the latter two the token is returned as well.
func CheckAccessToken(key [32]byte, text string, now time.Time) (AccessToken, error) {
	t, body, mac, err := splitToken(text)
	if err != nil {
		return AccessToken{}, err
	}
	if !hmac.Equal(mac, tokenMAC(key, body)) {
		return AccessToken{}, ErrTokenInvalid
	}
	switch {
	case !t.Expires.IsZero() && !now.Before(t.Expires):
		return t, ErrTokenExpired
	case now.Add(issueTolerance).Before(t.Issued):
		return t, ErrTokenNotYet
	}
	return t, nil
}

// CheckTokenName returns an error unless a name may identify a token. It has 1 to MaxTokenName
// bytes of printable characters, no space at either end, and no "#", which begins a comment in a
// list of names.
func CheckTokenName(name string) error {
	switch {
	case name == "":
		return errors.New("it is empty")
	case len(name) > MaxTokenName:
		return fmt.Errorf("it is longer than %d bytes", MaxTokenName)
	case !utf8.ValidString(name) || strings.ContainsFunc(name, func(r rune) bool { return !unicode.IsPrint(r) }):
		return errors.New("it has unprintable characters")
	case strings.TrimSpace(name) != name:
		return errors.New("it begins or ends with a space")
	case strings.Contains(name, "#"):
		return errors.New("it has the character #")
	}
	return nil
}

// NormalizePath returns the form in which tokens have a path that a user names: without the slash
// at the start. "" stands for everything that is served, "dir/" for a directory and everything
// below it, and "file" for one file.
func NormalizePath(path string) (string, error) {
	switch {
	case path == "":
		return "", errors.New("it is empty; / allows everything")
	case strings.ContainsRune(path, 0):
		return "", errors.New("it has a NUL byte")
	case strings.ContainsRune(path, '\\'):
		return "", errors.New("it has a backslash")
	}
	normal := strings.TrimPrefix(path, "/")
	if normal == "" {
		return "", nil
	}
	for component := range strings.SplitSeq(strings.TrimSuffix(normal, "/"), "/") {
		switch component {
		case "":
			return "", errors.New("it has an empty component")
		case ".", "..":
			return "", fmt.Errorf("it has the component %q", component)
		}
	}
	return normal, nil
}

// NormalizePaths returns the normal forms of paths, sorted, without those inside another.
func NormalizePaths(paths []string) ([]string, error) {
	var all []string
	for _, path := range paths {
		normal, err := NormalizePath(path)
		if err != nil {
			return nil, fmt.Errorf("the path %.80q: %w", path, err)
		}
		all = append(all, normal)
	}
	slices.Sort(all)
	var kept []string
	for _, path := range all {
		inside := slices.ContainsFunc(kept, func(outer string) bool {
			isDir := outer == "" || strings.HasSuffix(outer, "/")
			return path == outer || isDir && strings.HasPrefix(path, outer)
		})
		if !inside {
			kept = append(kept, path)
		}
	}
	switch {
	case len(kept) == 0:
		return nil, errors.New("no path is allowed")
	case len(kept) > MaxTokenPaths:
		return nil, fmt.Errorf("more than %d paths", MaxTokenPaths)
	}
	return kept, nil
}

// ParseRevoked reads a list of names of revoked tokens: one a line; "#" begins a comment. Lines
// that are no name are left out; the error is about the first of them.
func ParseRevoked(data []byte) (names []string, err error) {
	number := 0
	for line := range bytes.Lines(bytes.TrimPrefix(data, []byte("\ufeff"))) {
		number++
		text, _, _ := strings.Cut(string(line), "#")
		name := strings.TrimSpace(text)
		if name == "" {
			continue
		}
		if bad := CheckTokenName(name); bad != nil {
			if err == nil {
				err = fmt.Errorf("line %d: %.80q is not the name of a token: %w", number, name, bad)
			}
			continue
		}
		names = append(names, name)
	}
	return names, err
}
