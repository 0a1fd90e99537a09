package transfer

import (
	"errors"
	"fmt"
	"kwikcp/integrity"
	"kwikcp/internal/trust"
	"kwikcp/transfer/internal/wire"
	"net"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
)

// DefaultPort is the UDP port of a server whose URL names none.
const DefaultPort = "4433"

// A URL names a file on a primary: kwik://HOST[:PORT]/PATH[?pin=PIN][#b3=HEX].
type URL struct {
	Host string // host:port, an IPv6 address in brackets
	Path string // relative to the served root, checked by CheckPath; empty if the URL names only a server
	// Pin is the SHA-256 of the server's SubjectPublicKeyInfo; nil if the URL has none.
	Pin *[32]byte
	// Root is the BLAKE3 hash that the file must have; nil if the URL names none.
	Root *integrity.Root
}

// ParseURL parses the URL of a file. Its errors are short texts about the URL, which they do not
// name.
func ParseURL(s string) (URL, error) {
	u, err := ParseServerURL(s)
	if err != nil {
		return URL{}, err
	}
	if u.Path == "" {
		return URL{}, errors.New("it names no file: kwik://HOST/PATH is needed")
	}
	return u, nil
}

// ParseTreeURL parses the URL of a directory or file. Slashes at its end are ignored. An empty
// path is the served directory. The URL must not have a hash.
func ParseTreeURL(s string) (URL, error) {
	u, err := parseURL(s, true)
	if err == nil && u.Root != nil {
		return URL{}, errors.New("a directory has no hash that b3= could name")
	}
	return u, err
}

// ParseServerURL parses the URL of a server, with or without the path of a file.
func ParseServerURL(s string) (URL, error) { return parseURL(s, false) }

// parseURL parses a URL. With tree it ignores slashes at the end of the path.
func parseURL(s string, tree bool) (URL, error) {
	if strings.ContainsFunc(s, func(r rune) bool { return r < 0x20 || r == 0x7f }) {
		return URL{}, errors.New("it has control characters")
	}
	p, err := url.Parse(withZoneEncoded(s))
	if err != nil {
		if ue, ok := errors.AsType[*url.Error](err); ok {
			err = ue.Err // the caller names the URL
		}
		return URL{}, err
	}
	switch {
	case p.Scheme == "":
		return URL{}, errors.New("it has no scheme: kwik://HOST/PATH is needed")
	case p.Scheme != "kwik":
		return URL{}, fmt.Errorf("its scheme is %q, kwik is needed", p.Scheme)
	case p.Opaque != "" || p.Host == "":
		return URL{}, errors.New("it has no host: kwik://HOST/PATH is needed")
	case p.User != nil:
		return URL{}, errors.New("it has a user name, which kwik URLs do not have")
	}
	host, port := p.Hostname(), p.Port()
	if !validHost(host) || strings.Contains(host, ":") != strings.HasPrefix(p.Host, "[") {
		return URL{}, fmt.Errorf("its host %q is not valid", host)
	}
	if port == "" {
		if strings.HasSuffix(p.Host, ":") {
			return URL{}, errors.New("its port is empty")
		}
		port = DefaultPort
	}
	if n, err := strconv.Atoi(port); err != nil || n < 1 || n > 65535 {
		return URL{}, fmt.Errorf("its port %s is not between 1 and 65535", port)
	}
	u := URL{Host: net.JoinHostPort(host, port)}
	switch {
	case p.ForceQuery:
		return URL{}, errors.New("its query is empty; pin=... is needed after the question mark")
	case p.Fragment == "" && strings.Contains(s, "#"):
		return URL{}, errors.New("its fragment is empty; b3=HEX is needed after the #")
	}
	query, err := url.ParseQuery(p.RawQuery)
	if err != nil {
		return URL{}, errors.New("its query does not parse")
	}
	for key, values := range query {
		if key != "pin" || len(values) != 1 {
			return URL{}, fmt.Errorf("its query has %q; only one pin=... is valid", key)
		}
		pin, err := trust.ParsePin(values[0])
		if err != nil {
			return URL{}, fmt.Errorf("its pin is not valid: %w", err)
		}
		u.Pin = (*[32]byte)(&pin)
	}
	if p.Fragment != "" {
		hex, ok := strings.CutPrefix(p.Fragment, "b3=")
		if !ok {
			return URL{}, fmt.Errorf("its fragment is %q; only b3=HEX is valid", p.Fragment)
		}
		root, err := integrity.ParseRoot(hex)
		if err != nil {
			return URL{}, fmt.Errorf("its fragment is not a BLAKE3 hash: %w", err)
		}
		u.Root = &root
	}
	if tree {
		p.Path = strings.TrimRight(p.Path, "/")
	}
	if p.Path != "" && p.Path != "/" {
		u.Path = strings.TrimPrefix(p.Path, "/")
		if err := wire.CheckPath(u.Path); err != nil {
			return URL{}, fmt.Errorf("its path is not valid: %w", err)
		}
	}
	return u, nil
}

// withZoneEncoded encodes the % before the zone of an IPv6 address (RFC 6874), which people type as
// other programs print it: kwik://[fe80::1%eth0]/.
func withZoneEncoded(s string) string {
	scheme, rest, _ := strings.Cut(s, "://[")
	host, after, ok := strings.Cut(rest, "]")
	addr, zone, hasZone := strings.Cut(host, "%")
	isEncoded := strings.HasPrefix(zone, "25") && len(zone) > len("25")
	if !ok || !hasZone || isEncoded {
		return s
	}
	return scheme + "://[" + addr + "%25" + zone + "]" + after
}

// zoneBytes are the bytes that the zone of an IPv6 address may have.
const zoneBytes = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.-_"

// validHost accepts names and IP addresses. An IPv6 address may have a zone, of letters, digits and
// ".-_", such as the name of an interface.
func validHost(host string) bool {
	if strings.Contains(host, ":") {
		ip, err := netip.ParseAddr(host)
		return err == nil && strings.Trim(ip.Zone(), zoneBytes) == ""
	}
	return host != "" && len(host) <= 253 && !strings.ContainsAny(host, " %\"<>[\\]^`{|}")
}

// String returns the URL in a form that ParseURL reads.
func (u URL) String() string {
	p := url.URL{Scheme: "kwik", Host: u.Host, Path: "/" + u.Path}
	if u.Pin != nil {
		p.RawQuery = "pin=" + trust.Pin(*u.Pin).String()
	}
	if u.Root != nil {
		p.Fragment = "b3=" + u.Root.String()
	}
	return p.String()
}

// CheckPath checks the path of a file on a server (docs/PROTOCOL.md section 12). It must be
// relative, slash-separated, at most 4096 bytes long, and have no NUL and no component that is
// empty, "." or "..". On Windows it must have no backslash and no colon.
func CheckPath(p string) error { return wire.CheckPath(p) }
