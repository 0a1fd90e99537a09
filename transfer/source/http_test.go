package source

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"kwikcp/transfer/disk"
)

// A webServer serves one file with faults.
type webServer struct {
	*httptest.Server
	mu       sync.Mutex
	content  []byte
	tag      string
	mtime    time.Time
	requests []string // method and range
	fault    func(n int, w http.ResponseWriter, r *http.Request) bool
}

func newWebServer(t *testing.T, content []byte) *webServer {
	s := &webServer{content: content, tag: `"one"`, mtime: time.Unix(1700000000, 0)}
	s.Server = httptest.NewServer(http.HandlerFunc(s.serve))
	t.Cleanup(s.Close)
	return s
}

func (s *webServer) serve(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	s.requests = append(s.requests, r.Method+" "+r.Header.Get("Range"))
	n, content, tag, mtime, fault := len(s.requests), s.content, s.tag, s.mtime, s.fault
	s.mu.Unlock()
	if tag != "" {
		w.Header().Set("ETag", tag)
	}
	if fault != nil && fault(n, w, r) {
		return
	}
	if r.URL.Path != "/base/f" {
		http.NotFound(w, r)
		return
	}
	http.ServeContent(w, r, "f", mtime, bytes.NewReader(content))
}

func (s *webServer) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.requests)
}

func (s *webServer) replace(content []byte, tag string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.content, s.tag = content, tag
}

// newHTTPRoot returns a root of a test server with a cache of small blocks.
func newHTTPRoot(t *testing.T, address string, set func(*HTTPOptions)) Root {
	t.Helper()
	base, err := ParseHTTP(address, true)
	if err != nil {
		t.Fatal(err)
	}
	o := HTTPOptions{
		Base: base, AllowHTTP: true, Cache: newCache(testBlock, 16*testBlock),
		Log: slog.New(slog.DiscardHandler),
	}
	if set != nil {
		set(&o)
	}
	s, err := openHTTPStore(o)
	if err != nil {
		t.Fatal(err)
	}
	s.retry.Min, s.retry.Max = time.Millisecond, 10*time.Millisecond
	root := newRemote(s, o.Cache, o.Log, httpParallel)
	t.Cleanup(func() {
		root.Close()
		o.Cache.Close()
		checkEmpty(t, o.Cache)
	})
	return root
}

// TestHTTPFaults has a web server do wrong at its second answer, in the middle of an object.
func TestHTTPFaults(t *testing.T) {
	old, other := pattern(5*testBlock+100, 1), pattern(5*testBlock+100, 2)
	endOf := func(start int) int { return min(start+testBlock, len(old)) }
	abort := func(w http.ResponseWriter, start, bytes int) {
		w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", start, endOf(start)-1, len(old)))
		w.Header().Set("Content-Length", fmt.Sprint(endOf(start)-start))
		w.WriteHeader(http.StatusPartialContent)
		w.Write(old[start : start+min(bytes, endOf(start)-start-1)])
		panic(http.ErrAbortHandler)
	}
	status := func(code int) func(*webServer, http.ResponseWriter, int) bool {
		return func(_ *webServer, w http.ResponseWriter, start int) bool {
			w.WriteHeader(code)
			return true
		}
	}
	unavailable, _ := errors.AsType[*Unavailable](&Unavailable{})
	for name, test := range map[string]struct {
		fault func(s *webServer, w http.ResponseWriter, start int) bool
		want  error // nil if the read succeeds; unavailable stands for an *Unavailable
	}{
		"503": {func(_ *webServer, w http.ResponseWriter, start int) bool {
			w.Header().Set("Retry-After", "0")
			w.WriteHeader(http.StatusServiceUnavailable)
			return true
		}, nil},
		"429": {status(http.StatusTooManyRequests), nil},
		"500": {status(http.StatusInternalServerError), nil},
		"404": {status(http.StatusNotFound), disk.ErrChanged},
		"412": {status(http.StatusPreconditionFailed), disk.ErrChanged},
		"416": {status(http.StatusRequestedRangeNotSatisfiable), disk.ErrChanged},
		"403": {status(http.StatusForbidden), fs.ErrPermission},
		"401": {status(http.StatusUnauthorized), fs.ErrPermission},
		"204": {status(http.StatusNoContent), unavailable},
		"short": {func(_ *webServer, w http.ResponseWriter, start int) bool {
			abort(w, start, 1000)
			return true
		}, nil},
		"empty": {func(_ *webServer, w http.ResponseWriter, start int) bool { abort(w, start, 0); return true }, nil},
		"fewer": {func(_ *webServer, w http.ResponseWriter, start int) bool {
			w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", start, start+49, len(old)))
			w.WriteHeader(http.StatusPartialContent)
			w.Write(old[start : start+50])
			return true
		}, nil},
		"other bytes": {func(_ *webServer, w http.ResponseWriter, start int) bool {
			w.Header().Set("Content-Range", fmt.Sprintf("bytes 0-%d/%d", testBlock-1, len(old)))
			w.WriteHeader(http.StatusPartialContent)
			w.Write(old[:testBlock])
			return true
		}, unavailable},
		"no ranges": {func(_ *webServer, w http.ResponseWriter, start int) bool {
			w.Header().Set("Content-Length", fmt.Sprint(len(old)))
			w.Write(old)
			return true
		}, unavailable},
		"encoded": {func(_ *webServer, w http.ResponseWriter, start int) bool {
			w.Header().Set("Content-Encoding", "gzip")
			return false
		}, unavailable},
		"replaced": {func(s *webServer, w http.ResponseWriter, start int) bool {
			s.replace(other, `"two"`)
			w.Header().Set("ETag", `"two"`)
			return false
		}, disk.ErrChanged},
		"lying tag": {func(_ *webServer, w http.ResponseWriter, start int) bool {
			w.Header().Set("ETag", `"three"`)
			w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", start, endOf(start)-1, len(old)))
			w.WriteHeader(http.StatusPartialContent)
			w.Write(other[start:endOf(start)])
			return true
		}, disk.ErrChanged},
		"another size": {func(_ *webServer, w http.ResponseWriter, start int) bool {
			w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", start, endOf(start)-1, len(old)+1))
			w.WriteHeader(http.StatusPartialContent)
			w.Write(old[start:endOf(start)])
			return true
		}, disk.ErrChanged},
		"redirected away": {func(_ *webServer, w http.ResponseWriter, start int) bool {
			w.Header().Set("Location", "ftp://example.org/f")
			w.WriteHeader(http.StatusFound)
			return true
		}, unavailable},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newWebServer(t, old)
			s.fault = func(n int, w http.ResponseWriter, r *http.Request) bool {
				isFault := n == 2 || n > 2 && test.want != nil
				start, _, _ := strings.Cut(strings.TrimPrefix(r.Header.Get("Range"), "bytes="), "-")
				at, _ := strconv.Atoi(start)
				return isFault && test.fault(s, w, at)
			}
			o := openTest(t, newHTTPRoot(t, s.URL+"/base", nil), "f")
			defer o.Close()
			err := readTest(o, old, 10000)
			gone, isGone := errors.AsType[*Unavailable](err)
			switch {
			case test.want == error(unavailable):
				if !isGone || strings.Contains(gone.Error(), "\n") {
					t.Errorf("%v", err)
				}
			case !errors.Is(err, test.want) || test.want == nil && err != nil:
				t.Errorf("%v", err)
			}
		})
	}
}

// TestHTTPVersions replaces a file on web servers with tags of several kinds. Reads return the old
// content or fail.
func TestHTTPVersions(t *testing.T) {
	old, other := pattern(5*testBlock, 1), pattern(5*testBlock, 2)
	for _, tags := range [][2]string{
		{`"a"`, `"b"`}, {`W/"a"`, `W/"b"`}, {"", ""}, {`"a"`, ""}, {"", `"b"`}, {`W/"a"`, `"a"`},
	} {
		t.Run(tags[0]+" "+tags[1], func(t *testing.T) {
			s := newWebServer(t, old)
			s.tag = tags[0]
			root := newHTTPRoot(t, s.URL+"/base/", nil)
			o := openTest(t, root, "f")
			defer o.Close()
			if err := readTest(o, old[:testBlock], 10000); err != nil {
				t.Fatal(err)
			}
			s.mu.Lock()
			s.mtime = s.mtime.Add(time.Second)
			s.mu.Unlock()
			s.replace(other, tags[1])
			if err := readTest(o, old, 10000); !errors.Is(err, disk.ErrChanged) {
				t.Errorf("%v", err)
			}
			next := openTest(t, root, "f")
			defer next.Close()
			if err := readTest(next, other, 10000); err != nil {
				t.Error(err)
			}
			before, _ := o.Stat()
			after, _ := next.Stat()
			if disk.VersionOf(before) == disk.VersionOf(after) || disk.SameFile(before, after) {
				t.Error("both have the same version")
			}
		})
	}
}

// TestHTTPSmall reads small files of a server that sends no ranges. Each is one request.
func TestHTTPSmall(t *testing.T) {
	for _, size := range []int{0, 1, 1000, testBlock} {
		s := newWebServer(t, pattern(size, 3))
		isWhole := false
		s.fault = func(_ int, _ http.ResponseWriter, r *http.Request) bool {
			if isWhole {
				r.Header.Del("Range")
			}
			return false
		}
		for _, isWhole = range []bool{false, true} {
			before := s.count()
			o := openTest(t, newHTTPRoot(t, s.URL+"/base", nil), "f")
			if err := readTest(o, s.content, 700); err != nil {
				t.Error(size, err)
			}
			if info, _ := o.Stat(); info.Size() != int64(size) || info.ModTime().Unix() != 1700000000 {
				t.Errorf("%d bytes: %d bytes of %v", size, info.Size(), info.ModTime())
			}
			o.Close()
			if n := s.count() - before; n > 1 && size > 0 {
				t.Errorf("%d bytes: %d requests", size, n)
			}
		}
	}
}

// TestHTTPLargeWithoutRanges opens a large file of a server that sends no ranges.
func TestHTTPLargeWithoutRanges(t *testing.T) {
	s := newWebServer(t, pattern(3*testBlock, 3))
	s.fault = func(_ int, _ http.ResponseWriter, r *http.Request) bool {
		r.Header.Del("Range")
		return false
	}
	_, err := newHTTPRoot(t, s.URL+"/base", nil).Open(t.Context(), "f")
	if _, isGone := errors.AsType[*Unavailable](err); !isGone || !strings.Contains(err.Error(), "parts of files") {
		t.Errorf("%v", err)
	}
}

func TestHTTPMissing(t *testing.T) {
	s := newWebServer(t, nil)
	root := newHTTPRoot(t, s.URL+"/base", nil)
	for _, name := range []string{"g", "g/h", "../base/f", "", "a//b", "a/", "/f", "a\x00", strings.Repeat("n", 256)} {
		if _, err := root.Open(t.Context(), name); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("open %q: %v", name, err)
		}
		if _, err := root.Stat(t.Context(), name); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("stat %q: %v", name, err)
		}
	}
	if _, err := root.Names(t.Context(), 10); !errors.Is(err, ErrNoListing) {
		t.Errorf("%v", err)
	}
}

// TestHTTPNames has names that URLs must escape.
func TestHTTPNames(t *testing.T) {
	names := []string{
		"a b", "100%", "a?b", "a#b", "ü", "a+b", "%2e%2e", "a;b,c", "...", "a:b", "q&r=s", "\xff", "x'\"<>",
	}
	var got atomic.Value
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		got.Store(r.URL.Path)
		io.WriteString(w, "x")
	}))
	defer server.Close()
	root := newHTTPRoot(t, server.URL+"/with%2Fslash/", nil)
	for _, name := range names {
		o := openTest(t, root, "d/"+name)
		o.Close()
		if want := "/with/slash/d/" + name; got.Load() != want {
			t.Errorf("%q was requested, not %q", got.Load(), want)
		}
	}
}

// TestHTTPDirectories has a web server that redirects names of directories.
func TestHTTPDirectories(t *testing.T) {
	dir := t.TempDir()
	os.MkdirAll(filepath.Join(dir, "d/e"), 0o755)
	os.WriteFile(filepath.Join(dir, "d/e/f"), []byte("text"), 0o644)
	server := httptest.NewServer(http.FileServer(http.Dir(dir)))
	defer server.Close()
	root := newHTTPRoot(t, server.URL, nil)
	if _, err := root.Open(t.Context(), "d"); !errors.Is(err, disk.ErrNotAFile) {
		t.Errorf("%v", err)
	}
	info, err := root.Stat(t.Context(), "d/e")
	if err != nil || !info.IsDir() || info.Mode() != fs.ModeDir|0o755 {
		t.Errorf("%v %v", info, err)
	}
	_, err = root.Sub(t.Context(), "d/e/f")
	if !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, disk.ErrNotADirectory) {
		t.Errorf("%v", err)
	}
	sub, err := root.At(t.Context(), "d/e")
	if err != nil {
		t.Fatal(err)
	}
	defer sub.Close()
	o, err := sub.Open(t.Context(), "f")
	if err != nil {
		t.Fatal(err)
	}
	defer o.Close()
	if err := readTest(o, []byte("text"), 10); err != nil {
		t.Error(err)
	}
}

// TestHTTPCheck checks a root that becomes unavailable, and then answers again.
func TestHTTPCheck(t *testing.T) {
	var status atomic.Int64
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(int(status.Load()))
	}))
	defer server.Close()
	var log bytes.Buffer
	root := newHTTPRoot(t, server.URL, func(o *HTTPOptions) { o.Log = slog.New(slog.NewTextHandler(&log, nil)) })
	for _, test := range []struct {
		status int
		isGone bool
	}{{503, true}, {503, true}, {401, true}, {404, false}, {403, false}, {200, false}} {
		status.Store(int64(test.status))
		root.(remoteRoot).root.checked = time.Time{}
		_, isGone := errors.AsType[*Unavailable](root.Check(t.Context()))
		if isGone != test.isGone {
			t.Errorf("status %d: gone is %v", test.status, isGone)
		}
	}
	gone, back := strings.Count(log.String(), "level=ERROR"), strings.Count(log.String(), "level=INFO")
	if gone != 1 || back != 1 {
		t.Errorf("%d and %d lines: %s", gone, back, log.String())
	}
	server.Close()
	root.(remoteRoot).root.checked = time.Time{}
	if err := root.Check(t.Context()); err == nil {
		t.Error("a closed port is available")
	}
}

// TestHTTPContext ends a request whose server does not answer.
func TestHTTPContext(t *testing.T) {
	end := make(chan struct{})
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		select {
		case <-end:
		case <-r.Context().Done():
		}
	}))
	defer server.Close()
	defer close(end)
	root := newHTTPRoot(t, server.URL, nil)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, err := root.Open(ctx, "f"); err == nil {
		t.Error("it was opened")
	}
	if _, err := root.Stat(ctx, "g"); err == nil {
		t.Error("it was described")
	}
}

func TestParseHTTP(t *testing.T) {
	for text, want := range map[string]string{
		"https://host/a/":      "",
		"https://host":         "",
		"http://host/a":        "it is not https",
		"ftp://host/a":         "not an http or https URL",
		"https://u:p@host/a":   "user",
		"https://host/a?q=1":   "query",
		"https://host/a?":      "query",
		"https://host/a#f":     "fragment",
		"https:///a":           "host",
		"https://host/%zz":     "escape",
		"https://host:port/a":  "port",
		"https://host/a\nb":    "control",
		"https://u:secret@h\n": "",
	} {
		_, err := ParseHTTP(text, false)
		if want == "" && strings.HasSuffix(text, "\n") {
			if err == nil || strings.Contains(err.Error(), "secret") {
				t.Errorf("%q: %v", text, err)
			}
			continue
		}
		if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", text, err, want)
		}
	}
}
