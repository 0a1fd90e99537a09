package webfile

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"
)

// A File is a file on a web server. It is safe for concurrent use.
type File struct {
	c    *Client
	url  *url.URL
	size int64

	mu  sync.Mutex
	tag string // identifies the version that the last answer had; empty before
}

// File returns the file at a URL, which must have so many bytes. u must be from Parse.
func (c *Client) File(u *url.URL, size int64) *File { return &File{c: c, url: u, size: size} }

// An Error is a request that failed.
type Error struct {
	URL    string // without query
	Status int    // of the answer; 0 without one
	Err    error
	// Permanent is set if the same request will not succeed later.
	Permanent bool
	// RetryAfter is how long the server asks to wait; 0 if it does not.
	RetryAfter time.Duration
}

func (e *Error) Error() string { return fmt.Sprintf("%s: %v", e.URL, e.Err) }

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// ErrChanged means that the file is another version than before.
var ErrChanged = errors.New("the file has changed")

// Fetch requests the bytes [start, end) and returns them as they arrive. The reader ends with
// io.ErrUnexpectedEOF if the server sends fewer. An error is an *Error, unless ctx ended.
func (f *File) Fetch(ctx context.Context, start, end int64) (io.ReadCloser, error) {
	ifRange := f.pinned()
	header := http.Header{"Range": {fmt.Sprintf("bytes=%d-%d", start, end-1)}}
	if IsStrong(ifRange) {
		header.Set("If-Range", ifRange)
	} else {
		ifRange = ""
	}
	answer, err := f.c.Request(ctx, http.MethodGet, f.url, header)
	if err != nil {
		return nil, err
	}
	if err := f.checkAnswer(answer, ifRange, start, end); err != nil {
		answer.Body.Close()
		return nil, err
	}
	return Expect(answer.Body, end-start), nil
}

// Expect returns the content of an answer that must have so many bytes. The reader ends with
// io.ErrUnexpectedEOF if there are fewer, and does not return more.
func Expect(content io.ReadCloser, bytes int64) io.ReadCloser {
	return &body{Reader: io.LimitReader(content, bytes), Closer: content, left: bytes}
}

// A body is the content of an answer. It must have as many bytes as were requested.
type body struct {
	io.Reader
	io.Closer
	left int64
}

func (b *body) Read(p []byte) (int, error) {
	n, err := b.Reader.Read(p)
	b.left -= int64(n)
	if err == io.EOF && b.left > 0 {
		err = io.ErrUnexpectedEOF
	}
	return n, err
}

// checkAnswer returns an error unless an answer has the bytes [start, end) of the file. ifRange is
// the version that was required for a part of the file; empty for any.
func (f *File) checkAnswer(answer *http.Response, ifRange string, start, end int64) error {
	fail := func(isPermanent bool, err error) error {
		return &Error{URL: Shown(f.url), Status: answer.StatusCode, Err: err, Permanent: isPermanent}
	}
	if encoding := answer.Header.Get("Content-Encoding"); encoding != "" && encoding != "identity" {
		return fail(true, fmt.Errorf("the server encodes the file as %q", encoding))
	}
	switch answer.StatusCode {
	case http.StatusPartialContent:
		first, last, total, err := ParseContentRange(answer.Header.Get("Content-Range"))
		switch {
		case err != nil:
			return fail(true, err)
		case first != start || last >= end:
			err := fmt.Errorf("the server sent the bytes %d to %d instead of %d to %d", first, last, start, end-1)
			return fail(true, err)
		case total >= 0 && total != f.size:
			return fail(true, fmt.Errorf("the file there has %d bytes, not %d", total, f.size))
		}
	case http.StatusOK:
		isWhole := start == 0 && end == f.size
		switch {
		case answer.ContentLength >= 0 && answer.ContentLength != f.size:
			return fail(true, fmt.Errorf("the file there has %d bytes, not %d", answer.ContentLength, f.size))
		case !isWhole && ifRange != "" && ifRange != versionOf(answer): // fetches at the same time find it, too
			f.pin(answer)
			return fail(false, ErrChanged)
		case !isWhole:
			return fail(true, errors.New("the server does not send parts of files"))
		}
	default:
		return StatusError(f.url, answer)
	}
	if !f.pin(answer) {
		return fail(false, ErrChanged)
	}
	return nil
}

// versionOf returns what identifies the version of a file in an answer; empty if nothing does.
func versionOf(answer *http.Response) string {
	if tag := answer.Header.Get("ETag"); tag != "" {
		return tag
	}
	return answer.Header.Get("Last-Modified")
}

// IsStrong reports whether a version is a strong entity tag (RFC 9110, section 8.8.3).
func IsStrong(version string) bool { return strings.HasPrefix(version, `"`) }

func (f *File) pinned() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.tag
}

// pin records the version of an answer, and reports whether those before had the same.
func (f *File) pin(answer *http.Response) (same bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	tag := versionOf(answer)
	same = f.tag == "" || f.tag == tag
	f.tag = tag
	return same
}

// maxRetryAfter bounds Error.RetryAfter: a server may send any.
const maxRetryAfter = time.Hour

// StatusError returns the error of an answer that has no content.
func StatusError(u *url.URL, answer *http.Response) *Error {
	status := answer.StatusCode
	e := &Error{URL: Shown(u), Status: status, Err: errors.New(statusText(status)), Permanent: true}
	switch status {
	case http.StatusRequestTimeout, http.StatusTooEarly, http.StatusTooManyRequests, http.StatusInternalServerError,
		http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		e.Permanent = false
		e.RetryAfter = retryAfter(answer.Header.Get("Retry-After"), time.Now())
	}
	return e
}

// statusText describes a status without the words of the server.
func statusText(status int) string {
	if text := http.StatusText(status); text != "" {
		return fmt.Sprintf("%d %s", status, text)
	}
	return fmt.Sprintf("status %d", status)
}

// retryAfter parses a Retry-After header: seconds, or a date.
func retryAfter(text string, now time.Time) time.Duration {
	if seconds, err := strconv.Atoi(text); err == nil {
		return time.Duration(min(max(seconds, 0), int(maxRetryAfter/time.Second))) * time.Second
	}
	if at, err := http.ParseTime(text); err == nil {
		return min(max(at.Sub(now), 0), maxRetryAfter)
	}
	return 0
}

// ParseContentRange parses a Content-Range header of one range (RFC 9110, section 14.4). total is
// -1 if the header does not tell it.
func ParseContentRange(text string) (first, last, total int64, err error) {
	bad := fmt.Errorf("the server sent a wrong Content-Range")
	rest, ok := strings.CutPrefix(text, "bytes ")
	span, of, hasTotal := strings.Cut(rest, "/")
	from, to, isSpan := strings.Cut(span, "-")
	if !ok || !hasTotal || !isSpan {
		return 0, 0, 0, bad
	}
	number := func(s string) int64 {
		n, err := strconv.ParseUint(s, 10, 63) // takes no sign
		if err != nil {
			ok = false
		}
		return int64(n)
	}
	first, last, total = number(from), number(to), -1
	if of != "*" {
		total = number(of)
	}
	if !ok || first > last || total >= 0 && last >= total {
		return 0, 0, 0, bad
	}
	return first, last, total, nil
}

// Read returns the content at a URL, of at most so many bytes. server is the address that sent it,
// after redirects; the zero Addr behind a proxy. An error is an *Error, unless ctx ended.
func (c *Client) Read(ctx context.Context, u *url.URL, most int64) (content []byte, server netip.Addr, err error) {
	ctx, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	answer, server, err := c.request(ctx, http.MethodGet, u, nil)
	if err != nil {
		return nil, server, err
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		return nil, server, StatusError(u, answer)
	}
	content, err = io.ReadAll(io.LimitReader(answer.Body, most+1))
	switch {
	case err != nil:
		return nil, server, &Error{URL: Shown(u), Err: err}
	case int64(len(content)) > most:
		return nil, server, &Error{URL: Shown(u), Permanent: true, Err: fmt.Errorf("it has more than %d bytes", most)}
	}
	return content, server, nil
}

// Request sends a request without content, and follows redirects. The header is that of each
// request. The Request of the answer has the last URL. An error is an *Error, unless ctx ended. The
// caller closes the answer's body.
func (c *Client) Request(ctx context.Context, method string, u *url.URL, header http.Header) (*http.Response, error) {
	answer, _, err := c.request(ctx, method, u, header)
	return answer, err
}

// request is Request, and returns the address that sent the answer; the zero Addr behind a proxy.
func (c *Client) request(
	ctx context.Context, method string, u *url.URL, header http.Header,
) (answer *http.Response, server netip.Addr, err error) {
	transport, first := c.first, u
	for range maxRedirects + 1 {
		answer, remote, err := c.send(ctx, transport, method, u, header, c.login(u, first))
		if err != nil {
			if ctx.Err() != nil {
				return nil, remote, context.Cause(ctx)
			}
			return nil, remote, connectError(u, err)
		}
		switch answer.StatusCode {
		case http.StatusMovedPermanently, http.StatusFound, http.StatusSeeOther, http.StatusTemporaryRedirect,
			http.StatusPermanentRedirect:
		default:
			return answer, remote, nil
		}
		answer.Body.Close()
		next, err := answer.Location()
		if err == nil {
			next.Fragment, next.RawFragment = "", "" // is not sent (RFC 9110, section 10.2.2)
			err = check(next, u.Scheme == "http")
		}
		if err != nil {
			return nil, remote, &Error{URL: Shown(u), Status: answer.StatusCode, Permanent: true,
				Err: fmt.Errorf("it redirects to a URL that is not followed: %w", err)}
		}
		if !remote.IsValid() || c.isPublic(remote) {
			transport = c.strict
		}
		next.User = nil
		u = next
	}
	return nil, server, &Error{URL: Shown(u), Permanent: true, Err: fmt.Errorf("more than %d redirects", maxRedirects)}
}

// login returns the credentials for a request for u, nil if there are none for its host. first is
// the URL before any redirect. Without TLS there are none: others could read them.
func (c *Client) login(u, first *url.URL) *url.Userinfo {
	if c.options.Credentials == nil || u.Scheme != "https" {
		return nil
	}
	isRedirect := !strings.EqualFold(u.Host, first.Host)
	user, password, ok := c.options.Credentials(u.Hostname(), isRedirect)
	if !ok {
		return nil
	}
	return url.UserPassword(user, password)
}

// send sends one request. remote is the address of the server; the zero Addr behind a proxy.
func (c *Client) send(
	ctx context.Context, transport *http.Transport, method string, u *url.URL, header http.Header, login *url.Userinfo,
) (answer *http.Response, remote netip.Addr, err error) {
	var connected netip.Addr
	ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{GotConn: func(g httptrace.GotConnInfo) {
		if addr, ok := g.Conn.RemoteAddr().(*net.TCPAddr); ok {
			connected = addr.AddrPort().Addr().Unmap()
		}
	}})
	r, err := http.NewRequestWithContext(ctx, method, u.String(), nil)
	if err != nil {
		return nil, remote, err
	}
	for name, values := range header {
		r.Header[name] = values
	}
	r.Header.Set("Accept-Encoding", "identity")
	if c.options.Agent != "" {
		r.Header.Set("User-Agent", c.options.Agent)
	}
	if login != nil {
		password, _ := login.Password()
		r.SetBasicAuth(login.Username(), password)
	}
	proxy, err := c.proxy(r)
	if err != nil {
		return nil, remote, err
	}
	isGuarded := transport == c.strict || c.options.MayConnect != nil
	if proxy != nil {
		if isGuarded && isNearby(u.Hostname()) {
			return nil, remote, errNearby
		}
		r = r.WithContext(throughProxy(ctx))
	}
	answer, err = transport.RoundTrip(r)
	if proxy == nil {
		remote = connected
	}
	return answer, remote, err
}

var errNearby = errors.New("it names a host that is not public")
