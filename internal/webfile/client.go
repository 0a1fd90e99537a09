// Package webfile reads byte ranges of files on web servers (RFC 9110, section 14). It knows
// nothing of KWIK. Callers trust a web server with nothing: not with its redirects, not with the
// length of its answers, not with their speed.
package webfile

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"time"

	"kwikcp/internal/addrclass"
)

// Options configures a Client. The zero value is safe with every server.
type Options struct {
	// Roots verify the servers' certificates; nil means those of the system.
	Roots *x509.CertPool
	// AllowHTTP permits URLs without TLS.
	AllowHTTP bool
	// Credentials returns the user and the password for a host; nil has none. They are sent to
	// that host only. isRedirect is set for a host that another one named. They are sent
	// with TLS only.
	Credentials func(host string, isRedirect bool) (user, password string, ok bool)
	// MayConnect decides about the address of a server that somebody else named. Nil allows all.
	// Redirects from a public address lead to public addresses in any case.
	MayConnect func(netip.Addr) bool
	// Agent is the User-Agent of requests.
	Agent string
}

const (
	connectTimeout = 10 * time.Second
	// headerTimeout bounds the wait for the first line of an answer.
	headerTimeout = 15 * time.Second
	idleTimeout   = 30 * time.Second
	// readTimeout bounds Client.Read.
	readTimeout  = time.Minute
	maxRedirects = 10
	maxHeader    = 64 << 10 // bytes
	// maxIdle is the number of connections to a host that are kept for the next request. A server
	// with a web root uses as many at once (transfer/source).
	maxIdle = 32
)

// A Client sends requests to web servers. It is safe for concurrent use.
type Client struct {
	options Options
	// strict connects to public addresses only. It follows redirects from there.
	first, strict *http.Transport
	// proxy returns the proxy for a request; nil for none.
	proxy    func(*http.Request) (*url.URL, error)
	isPublic func(netip.Addr) bool
}

// New returns a client that honours the proxies of the environment.
func New(o Options) *Client {
	c := &Client{options: o, proxy: http.ProxyFromEnvironment, isPublic: isPublic}
	mayConnect := o.MayConnect
	if mayConnect == nil {
		mayConnect = func(netip.Addr) bool { return true }
	}
	c.first = c.transport(mayConnect)
	c.strict = c.transport(func(ip netip.Addr) bool { return c.isPublic(ip) })
	return c
}

func isPublic(ip netip.Addr) bool { return addrclass.Of(ip) == addrclass.Public }

// Close closes the connections that no request uses.
func (c *Client) Close() {
	c.first.CloseIdleConnections()
	c.strict.CloseIdleConnections()
}

// transport returns a transport that connects to the addresses that mayConnect allows, and to
// proxies.
func (c *Client) transport(mayConnect func(netip.Addr) bool) *http.Transport {
	dialer := &net.Dialer{Timeout: connectTimeout, ControlContext: control(mayConnect)}
	return &http.Transport{
		Proxy:                  func(r *http.Request) (*url.URL, error) { return c.proxy(r) },
		DialContext:            dialer.DialContext,
		TLSClientConfig:        &tls.Config{RootCAs: c.options.Roots, MinVersion: tls.VersionTLS12},
		TLSHandshakeTimeout:    connectTimeout,
		ResponseHeaderTimeout:  headerTimeout,
		IdleConnTimeout:        idleTimeout,
		MaxIdleConnsPerHost:    maxIdle,
		MaxResponseHeaderBytes: maxHeader,
		DisableCompression:     true,
		ForceAttemptHTTP2:      true,
		ReadBufferSize:         64 << 10,
	}
}

// A refusedAddressError is the error of a connection to an address that is not allowed.
type refusedAddressError struct{ addr netip.Addr }

func (e *refusedAddressError) Error() string {
	return fmt.Sprintf("it leads to the address %v, which is not public", e.addr)
}

var (
	errUserInfo = errors.New("it must not contain a user or a password; name a netrc file instead")
	errNoTLS    = errors.New("it is not https")
	errScheme   = errors.New("not an http or https URL")
	errNoHost   = errors.New("it names no host")
	errPort     = errors.New("its port is not 1 to 65535")
	errFragment = errors.New("it must not contain a fragment (#)")
)

// Parse parses the URL of a file on a web server.
func Parse(text string, allowHTTP bool) (*url.URL, error) {
	u, err := url.Parse(text)
	if err != nil {
		if e, ok := errors.AsType[*url.Error](err); ok {
			err = e.Err // without the text, which may hold a password
		}
		return nil, err
	}
	if u.User != nil {
		return nil, errUserInfo
	}
	return u, check(u, allowHTTP)
}

// check returns an error unless the client may follow a URL.
func check(u *url.URL, allowHTTP bool) error {
	switch {
	case u.Scheme == "http" && !allowHTTP:
		return errNoTLS
	case u.Scheme != "https" && u.Scheme != "http":
		return errScheme
	case u.Hostname() == "":
		return errNoHost
	case !isPort(u):
		return errPort
	case u.Fragment != "":
		return errFragment
	}
	return nil
}

// isPort reports whether the port of a URL is one, or is missing. A colon alone has none.
func isPort(u *url.URL) bool {
	if u.Port() == "" {
		return true
	}
	n, err := strconv.ParseUint(u.Port(), 10, 16)
	return err == nil && n > 0
}

// Shown returns a URL for people: without its query, which may hold a secret.
func Shown(u *url.URL) string {
	shown := url.URL{Scheme: u.Scheme, Host: u.Host, Path: u.Path, RawPath: u.RawPath}
	return shown.String()
}

// isNearby reports whether the name of a host is one of this machine, or of its network. Behind a
// proxy only the name can be checked.
func isNearby(host string) bool {
	if ip, err := netip.ParseAddr(host); err == nil {
		return !isPublic(ip)
	}
	name := strings.TrimSuffix(strings.ToLower(host), ".")
	last := strings.LastIndexByte(name, '.')
	if last < 0 {
		return true
	}
	if isNumber := '0' <= name[last+1] && name[last+1] <= '9'; isNumber { // 127.1 is an address to inet_aton
		return true
	}
	for _, suffix := range []string{".localhost", ".localdomain", ".local", ".internal", ".lan", ".home.arpa"} {
		if strings.HasSuffix(name, suffix) {
			return true
		}
	}
	return false
}
