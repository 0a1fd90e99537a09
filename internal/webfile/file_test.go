package webfile

import (
	"bytes"
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// content is what servers of these tests have.
var content = bytes.Repeat([]byte("0123456789abcdef"), 4096)

// serve starts an https server and returns a client that trusts it.
func serve(t *testing.T, o Options, h http.HandlerFunc) (*httptest.Server, *Client) {
	t.Helper()
	s := httptest.NewUnstartedServer(h)
	s.EnableHTTP2 = true
	s.StartTLS()
	t.Cleanup(s.Close)
	o.Roots = x509.NewCertPool()
	o.Roots.AddCert(s.Certificate())
	c := New(o)
	c.proxy = func(*http.Request) (*url.URL, error) { return nil, nil }
	t.Cleanup(c.Close)
	return s, c
}

// file returns the file at a path of a server.
func file(t *testing.T, c *Client, base, path string) *File {
	t.Helper()
	u, err := Parse(base+path, true)
	if err != nil {
		t.Fatal(err)
	}
	return c.File(u, int64(len(content)))
}

// fetch fetches a range and returns what arrived.
func fetch(f *File, start, end int64) ([]byte, error) {
	r, err := f.Fetch(context.Background(), start, end)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	return io.ReadAll(r)
}

// serveContent serves content with an entity tag, as a good server does.
func serveContent(tag string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("ETag", tag)
		http.ServeContent(w, r, "", time.Unix(1e9, 0), bytes.NewReader(content))
	}
}

func TestFetch(t *testing.T) {
	for _, tag := range []string{`"strong"`, `W/"weak"`} {
		s, c := serve(t, Options{Agent: "test"}, serveContent(tag))
		f := file(t, c, s.URL, "/a%20b?secret=1")
		n := int64(len(content))
		for _, r := range [][2]int64{{0, 1}, {0, n}, {1, n}, {n - 1, n}, {7, 4096}} {
			if got, err := fetch(f, r[0], r[1]); err != nil || !bytes.Equal(got, content[r[0]:r[1]]) {
				t.Errorf("%v: %d bytes, %v", r, len(got), err)
			}
		}
	}
}

// Each fault of a server ends a fetch with an error that tells it.
func TestFetchFaults(t *testing.T) {
	partial := func(contentRange string, body []byte) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Range", contentRange)
			w.WriteHeader(http.StatusPartialContent)
			w.Write(body)
		}
	}
	status := func(code int, after string) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Retry-After", after)
			w.WriteHeader(code)
		}
	}
	redirect := func(to string) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, to, http.StatusFound) }
	}
	n := len(content)
	for name, tt := range map[string]struct {
		h           http.HandlerFunc
		want        string
		isPermanent bool
		after       time.Duration
	}{
		"whole file": {func(w http.ResponseWriter, _ *http.Request) { w.Write(content) }, "parts of files", true, 0},
		"other size, whole": {func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "65535")
			w.Write(content[1:])
		}, "has 65535 bytes, not 65536", true, 0},
		"other size, partial": {
			partial(fmt.Sprintf("bytes 10-19/%d", n+1), content[10:20]), "has 65537 bytes", true, 0,
		},
		"other range":     {partial(fmt.Sprintf("bytes 0-9/%d", n), content[:10]), "bytes 0 to 9 instead", true, 0},
		"longer range":    {partial(fmt.Sprintf("bytes 10-20/%d", n), content[10:21]), "instead of", true, 0},
		"no range header": {partial("", content[10:20]), "wrong Content-Range", true, 0},
		"several ranges":  {partial("bytes 10-19", content[10:20]), "wrong Content-Range", true, 0},
		"encoded": {func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Encoding", "gzip")
			partial(fmt.Sprintf("bytes 10-19/%d", n), content[10:20])(w, r)
		}, `encodes the file as "gzip"`, true, 0},
		"missing":       {status(404, ""), "404 Not Found", true, 0},
		"login":         {status(401, ""), "401 Unauthorized", true, 0},
		"forbidden":     {status(403, "10"), "403 Forbidden", true, 0},
		"shorter":       {status(416, ""), "416", true, 0},
		"busy":          {status(503, "7"), "503", false, 7 * time.Second},
		"too many":      {status(429, "999999999"), "429", false, maxRetryAfter},
		"broken":        {status(500, "-5"), "500", false, 0},
		"unknown":       {status(599, ""), "status 599", true, 0},
		"no content":    {status(204, ""), "204", true, 0},
		"redirect loop": {redirect("/x"), "more than 10 redirects", true, 0},
		"to plain http": {func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "http://example.com/", http.StatusFound)
		}, "not https", true, 0},
		"to a file": {func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "file:///etc/passwd", http.StatusFound)
		}, "not an http or https URL", true, 0},
		"to nowhere": {status(302, ""), "redirects", true, 0},
	} {
		s, c := serve(t, Options{}, tt.h)
		_, err := fetch(file(t, c, s.URL, "/f?secret"), 10, 20)
		e, ok := errors.AsType[*Error](err)
		if !ok || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v", name, err)
		} else if e.Permanent != tt.isPermanent || e.RetryAfter != tt.after {
			t.Errorf("%s: %+v", name, e)
		}
		if err != nil && strings.Contains(err.Error(), "secret") {
			t.Errorf("%s: the error shows the query: %v", name, err)
		}
	}
}

func TestFetchEndsEarly(t *testing.T) {
	for _, tellsLength := range []bool{true, false} {
		s, c := serve(t, Options{}, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Range", "bytes 10-19/65536")
			if tellsLength {
				w.Header().Set("Content-Length", "5")
			}
			w.WriteHeader(http.StatusPartialContent)
			w.Write(content[10:15])
		})
		if got, err := fetch(file(t, c, s.URL, "/f"), 10, 20); err != io.ErrUnexpectedEOF || len(got) != 5 {
			t.Errorf("%d bytes, %v", len(got), err)
		}
	}
}

// A file that changes is noticed once, and then used in its new version.
func TestFetchChanged(t *testing.T) {
	for _, tags := range [][2]string{{`"1"`, `"2"`}, {`W/"1"`, `W/"2"`}, {`"1"`, ""}} {
		var n atomic.Int32
		s, c := serve(t, Options{}, func(w http.ResponseWriter, r *http.Request) {
			tag := tags[min(n.Add(1)-1, 1)]
			serveContent(tag)(w, r)
		})
		f := file(t, c, s.URL, "/f")
		for i, want := range []error{nil, ErrChanged, nil} {
			_, err := fetch(f, 10, 20)
			if e, ok := errors.AsType[*Error](err); !errors.Is(err, want) || ok && e.Permanent {
				t.Errorf("%q, fetch %d: %v", tags, i, err)
			}
		}
	}
}

// Fetches at the same time that find a new version are no proof that the server sends no parts.
func TestFetchChangedTwice(t *testing.T) {
	var n atomic.Int32
	arrived := make(chan struct{})
	s, c := serve(t, Options{}, func(w http.ResponseWriter, r *http.Request) {
		switch n.Add(1) {
		case 1:
			serveContent(`"1"`)(w, r)
			return
		case 3:
			close(arrived)
		}
		<-arrived
		serveContent(`"2"`)(w, r)
	})
	f := file(t, c, s.URL, "/f")
	if _, err := fetch(f, 10, 20); err != nil {
		t.Fatal(err)
	}
	failed := make(chan error)
	for range 2 {
		go func() { _, err := fetch(f, 10, 20); failed <- err }()
	}
	for range 2 {
		if err := <-failed; !errors.Is(err, ErrChanged) {
			t.Error(err)
		}
	}
	if _, err := fetch(f, 10, 20); err != nil {
		t.Error(err)
	}
}

// Redirects are followed, also from a private address to another, but not from a public one.
func TestFetchRedirects(t *testing.T) {
	var authorized atomic.Int32
	final, _ := serve(t, Options{}, func(w http.ResponseWriter, r *http.Request) {
		if _, _, ok := r.BasicAuth(); ok {
			authorized.Add(1)
		}
		serveContent(`"1"`)(w, r)
	})
	s, c := serve(t, Options{}, func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, strings.Replace(final.URL, "https://", "https://user:pass@", 1)+"/f", http.StatusTemporaryRedirect)
	})
	c.options.Roots.AddCert(final.Certificate())
	got, err := fetch(file(t, c, s.URL, "/f"), 3, 9)
	if err != nil || !bytes.Equal(got, content[3:9]) || authorized.Load() != 0 {
		t.Errorf("%q, %v, %d logins", got, err, authorized.Load())
	}
	public := true
	c.isPublic = func(netip.Addr) bool { was := public; public = false; return was } // the first server only
	_, err = fetch(file(t, c, s.URL, "/f"), 3, 9)
	if e, ok := errors.AsType[*Error](err); !ok || !e.Permanent || !strings.Contains(err.Error(), "not public") {
		t.Errorf("from a public address to a private one: %v", err)
	}
}

// A mirror that somebody else named must not be at an address that is not allowed.
func TestFetchMayConnect(t *testing.T) {
	s, c := serve(t, Options{MayConnect: func(ip netip.Addr) bool { return !ip.IsLoopback() }}, serveContent(`"1"`))
	_, err := fetch(file(t, c, s.URL, "/f"), 3, 9)
	if e, ok := errors.AsType[*Error](err); !ok || !e.Permanent || !strings.Contains(err.Error(), "127.0.0.1") {
		t.Errorf("%v", err)
	}
}

// Through a proxy the name decides, because the proxy resolves it.
func TestFetchProxy(t *testing.T) {
	proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Host == "mirror.example.com" {
			serveContent(`"1"`)(w, r)
		}
	}))
	defer proxy.Close()
	address, _ := url.Parse(proxy.URL)
	c := New(Options{AllowHTTP: true, MayConnect: isPublic})
	defer c.Close()
	c.proxy = func(*http.Request) (*url.URL, error) { return address, nil }
	if got, err := fetch(file(t, c, "http://mirror.example.com", "/f"), 3, 9); err != nil || !bytes.Equal(got, content[3:9]) {
		t.Errorf("%q, %v", got, err)
	}
	for _, host := range []string{"127.0.0.1", "[::1]", "localhost", "intranet", "a.local", "10.1.2.3", "a.internal.",
		"127.1", "0x7f.1", "10.1.0x2.3", "localhost.localdomain"} {
		_, err := fetch(file(t, c, "http://"+host, "/f"), 3, 9)
		if e, ok := errors.AsType[*Error](err); !ok || !e.Permanent || !errors.Is(err, errNearby) {
			t.Errorf("%s: %v", host, err)
		}
	}
}

func TestFetchConnectErrors(t *testing.T) {
	s, c := serve(t, Options{}, serveContent(`"1"`))
	closed := httptest.NewServer(nil)
	closed.Close()
	plain := httptest.NewServer(serveContent(`"1"`))
	defer plain.Close()
	untrusting := New(Options{})
	defer untrusting.Close()
	for name, tt := range map[string]struct {
		c           *Client
		base, want  string
		isPermanent bool
	}{
		"closed port":     {c, closed.URL, "the port is closed", false},
		"no such name":    {c, "https://no-such-name.invalid", "does not resolve", true},
		"not trusted":     {untrusting, s.URL, "certificate", true},
		"does not do TLS": {c, strings.Replace(plain.URL, "http:", "https:", 1), "does not speak TLS", true},
	} {
		_, err := fetch(file(t, tt.c, tt.base, "/f"), 3, 9)
		e, ok := errors.AsType[*Error](err)
		switch {
		case !ok, !strings.Contains(err.Error(), tt.want):
			t.Errorf("%s: %v", name, err)
		case name != "no such name" && e.Permanent != tt.isPermanent: // without a resolver it is not known
			t.Errorf("%s: permanent %t", name, e.Permanent)
		}
	}
	ctx, cancel := context.WithCancelCause(context.Background())
	cause := errors.New("enough")
	cancel(cause)
	if _, err := file(t, c, s.URL, "/f").Fetch(ctx, 0, 1); err != cause {
		t.Errorf("after the end of the context: %v", err)
	}
}

func TestFetchCredentials(t *testing.T) {
	var user atomic.Value
	credentials := func(host string, isRedirect bool) (string, string, bool) {
		return "u", "p", host == "127.0.0.1" && !isRedirect
	}
	s, c := serve(t, Options{Credentials: credentials},
		func(w http.ResponseWriter, r *http.Request) {
			name, _, _ := r.BasicAuth()
			user.Store(name)
			serveContent(`"1"`)(w, r)
		})
	if _, err := fetch(file(t, c, s.URL, "/f"), 3, 9); err != nil || user.Load() != "u" {
		t.Errorf("%v, %v", user.Load(), err)
	}
}

// A password goes to the host that the user named, and to one to which that redirects with TLS, if
// the netrc file names it.
func TestFetchCredentialsOfRedirects(t *testing.T) {
	var asked []string
	user := func(r *http.Request) string {
		name, _, _ := r.BasicAuth()
		return name
	}
	credentials := func(host string, isRedirect bool) (string, string, bool) {
		asked = append(asked, fmt.Sprintf("%s %t", host, isRedirect))
		return "u", "p", true
	}
	var got, gotPlain string
	plain := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		gotPlain = user(r)
		serveContent("")(w, r)
	}))
	defer plain.Close()
	options := Options{Credentials: credentials, AllowHTTP: true}
	second, c := serve(t, options, func(w http.ResponseWriter, r *http.Request) {
		got = user(r)
		serveContent("")(w, r)
	})
	first := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		to := plain.URL
		if r.URL.Path == "/tls" {
			to = second.URL
		}
		http.Redirect(w, r, to+"/f#part", http.StatusFound)
	}))
	defer first.Close()
	for _, at := range []string{"/tls", "/plain"} {
		if _, err := fetch(file(t, c, first.URL, at), 3, 9); err != nil {
			t.Errorf("%s: %v", at, err)
		}
	}
	want := []string{"127.0.0.1 true"} // the others are without TLS
	if got != "u" || gotPlain != "" || !slices.Equal(asked, want) {
		t.Errorf("with TLS %q, without %q; asked: %q", got, gotPlain, asked)
	}
}

func TestParse(t *testing.T) {
	for text, want := range map[string]string{
		"https://a.example/x": "", "HTTPS://a/": "", "http://a.example/x": "not https", "ftp://a/x": "not an http",
		"/x": "not an http", "https:///x": "no host", "https://u:p@a/x": "netrc", "https://a/x#f": "fragment",
		"https://a:port/":  "invalid port",
		"https://a:65536/": "port", "https://a:0/": "port", "https://a:65535/": "", "https://a:/": "", "https://a/%zz": "invalid URL escape", "https://\x00": "invalid control",
	} {
		_, err := Parse(text, false)
		if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", text, err, want)
		}
		if err != nil && strings.Contains(err.Error(), "u:p") {
			t.Errorf("%v shows a password", err)
		}
	}
	if _, err := Parse("http://a/x", true); err != nil {
		t.Error(err)
	}
}

func FuzzContentRange(f *testing.F) {
	f.Add("bytes 0-9/10")
	f.Add("bytes 5-9/*")
	f.Add("bytes -1-5/10")
	f.Fuzz(func(t *testing.T, text string) {
		first, last, total, err := ParseContentRange(text)
		isRange := 0 <= first && first <= last
		isInside := total == -1 || last < total
		if err == nil && !(isRange && isInside) {
			t.Errorf("%q: %d-%d/%d", text, first, last, total)
		}
	})
}

func TestContentRange(t *testing.T) {
	first, last, total, err := ParseContentRange("bytes 5-9/10")
	if got := [3]int64{first, last, total}; got != [3]int64{5, 9, 10} || err != nil {
		t.Error(got, err)
	}
	if _, _, total, err := ParseContentRange("bytes 5-9/*"); total != -1 || err != nil {
		t.Error(total, err)
	}
	for _, bad := range []string{
		"", "bytes", "bytes 5-10/10", "bytes 6-5/10", "bytes +1-5/10", "bytes 1-5/-1", "bytes 1-99999999999999999999/*",
	} {
		if _, _, _, err := ParseContentRange(bad); err == nil {
			t.Errorf("%q is taken", bad)
		}
	}
}
