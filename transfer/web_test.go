package transfer

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"kwikcp/internal/trust"
	"kwikcp/kwik"
	"kwikcp/transfer/disk"
	"kwikcp/transfer/serve"
	"kwikcp/transfer/source"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	transferpb "kwikcp/transfer/internal/wire/proto"
)

// A webWorld is a slow primary, and a web server that has its files.
type webWorld struct {
	t        *testing.T
	root     string
	primary  *kwik.Listener
	pin      trust.Pin
	web      *httptest.Server
	requests atomic.Int32
	// change, if it is set, may answer a request in place of the web server.
	change func(http.ResponseWriter, *http.Request) (done bool)
}

// newWebWorld starts the servers. named are the templates that the primary names; "{web}" stands
// for the URL of the web server.
func newWebWorld(t *testing.T, files map[string][]byte, named ...string) *webWorld {
	t.Helper()
	return newWebWorldOf(t, 8<<20, files, named...)
}

// newWebWorldOf is newWebWorld with a rate of the primary, in bytes a second.
func newWebWorldOf(t *testing.T, rate int64, files map[string][]byte, named ...string) *webWorld {
	t.Helper()
	w := &webWorld{t: t, root: t.TempDir()}
	for name, content := range files {
		path := filepath.Join(w.root, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, content, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	fileServer := http.FileServer(http.Dir(w.root))
	w.web = httptest.NewUnstartedServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		w.requests.Add(1)
		if w.change == nil || !w.change(rw, r) {
			fileServer.ServeHTTP(rw, r)
		}
	}))
	w.web.EnableHTTP2 = true
	w.web.StartTLS()
	t.Cleanup(w.web.Close)

	d, err := disk.OpenTree(w.root, false)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := trust.NewIdentity(time.Now())
	if err != nil {
		t.Fatal(err)
	}
	w.pin = trust.PinOf(cert.Leaf)
	s := serve.NewServer(source.Local(d), slog.New(slog.DiscardHandler))
	var mirrors []serve.WebMirror
	for i, template := range named {
		template = strings.Replace(template, "{web}", w.web.URL, 1)
		mirrors = append(mirrors, serve.WebMirror{Template: template, Priority: i})
	}
	s.NameWebMirrors(mirrors...)
	config := &kwik.ServerConfig{JoinToken: joinToken, OpenContent: s.OpenContent}
	config.RateLimit = kwik.NewRateLimit(rate)
	w.primary, err = kwik.ListenAddr("127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{cert}}, config)
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() { s.Serve(t.Context(), w.primary) })
	t.Cleanup(func() {
		w.primary.Close()
		wg.Wait()
		s.Close()
		d.Close()
	})
	return w
}

// tls trusts the primary.
func (w *webWorld) tls() *tls.Config { return trust.PinnedClientConfig(nil, w.pin) }

// options trust the web server.
func (w *webWorld) options() WebOptions {
	o := WebOptions{Roots: x509.NewCertPool()}
	o.Roots.AddCert(w.web.Certificate())
	return o
}

func (w *webWorld) get(path string, web WebOptions) (Result, []byte) {
	w.t.Helper()
	return w.getIn(w.t, path, web)
}

// getIn is get in a subtest.
func (w *webWorld) getIn(t *testing.T, path string, web WebOptions) (Result, []byte) {
	t.Helper()
	target := filepath.Join(t.TempDir(), "copy")
	result, err := Get(t.Context(), GetOptions{
		URL: URL{Host: w.primary.Addr().String(), Path: path}, TLS: trust.PinnedClientConfig(nil, w.pin),
		Target: target, Web: web,
	}, nil)
	if err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(target)
	if err != nil {
		t.Fatal(err)
	}
	return result, got
}

// fromWeb returns the web mirrors of a result.
func fromWeb(servers []ServerStatus) (web []ServerStatus) {
	for _, s := range servers {
		if s.Role == kwik.ServerRoleExternal {
			web = append(web, s)
		}
	}
	return web
}

func someBytes(seed byte, n int) []byte {
	b := make([]byte, n)
	rand.NewChaCha8([32]byte{seed}).Read(b)
	return b
}

const oddWebPath = "a b/ü#?%&=+{}.bin"

func TestGetFromWebMirror(t *testing.T) {
	content := someBytes(1, 12<<20)
	w := newWebWorld(t, map[string][]byte{oddWebPath: content}, "{web}/{path}")
	result, got := w.get(oddWebPath, w.options())
	web := fromWeb(result.Servers)
	if !bytes.Equal(got, content) || len(web) != 1 {
		t.Fatalf("%d bytes, from %+v", len(got), result.Servers)
	}
	host := strings.TrimPrefix(w.web.URL, "https://")
	if web[0].Bytes < 6<<20 || web[0].State != ServerJoined {
		t.Errorf("it delivered %+v", web[0])
	}
	if web[0].Addr != host || web[0].ID != kwik.ServerID("web:"+host) {
		t.Errorf("it is called %q at %q", web[0].ID, web[0].Addr)
	}
}

// The client decides whether it uses the mirrors that the primary names, and names others.
func TestGetChoosesWebMirrors(t *testing.T) {
	content := someBytes(1, 4<<20)
	own := func(template string) func(*webWorld, *WebOptions) {
		return func(w *webWorld, o *WebOptions) {
			o.Mirrors = []WebMirror{{Template: strings.Replace(template, "{web}", w.web.URL, 1)}}
		}
	}
	for name, tt := range map[string]struct {
		named  string
		change func(*webWorld, *WebOptions)
		used   bool
	}{
		"named":                {"{web}/{path}", func(*webWorld, *WebOptions) {}, true},
		"ignored":              {"{web}/{path}", func(_ *webWorld, o *WebOptions) { o.IgnoreNamed = true }, false},
		"not trusted":          {"{web}/{path}", func(_ *webWorld, o *WebOptions) { o.Roots = nil }, false},
		"named without TLS":    {"http://127.0.0.1:1/{path}", func(*webWorld, *WebOptions) {}, false},
		"named without a path": {"{web}/file", func(*webWorld, *WebOptions) {}, false},
		"own, a template":      {"", own("{web}/{path}"), true},
		"own, of the file":     {"", own("{web}/file"), true},
		"own, though others": {"{web}/{path}", func(w *webWorld, o *WebOptions) {
			o.IgnoreNamed = true
			own("{web}/file")(w, o)
		}, true},
		"own, of another file":  {"", own("{web}/missing"), false},
		"own, of another, same": {"", own("{web}/other"), false},
	} {
		t.Run(name, func(t *testing.T) {
			var named []string
			if tt.named != "" {
				named = []string{tt.named}
			}
			w := newWebWorld(t, map[string][]byte{"file": content, "other": someBytes(2, len(content))}, named...)
			o := w.options()
			tt.change(w, &o)
			result, got := w.get("file", o)
			if !bytes.Equal(got, content) {
				t.Error("the file is wrong")
			}
			used := false
			for _, s := range fromWeb(result.Servers) {
				used = used || s.Bytes > 0
			}
			if used != tt.used {
				t.Errorf("used %t, want %t: %+v", used, tt.used, result.Servers)
			}
		})
	}
}

// A mirror with wrong bytes is banned, once for all transfers of a pool.
func TestGetBansWebMirror(t *testing.T) {
	content := someBytes(1, 4<<20)
	w := newWebWorld(t, map[string][]byte{"file": content, "other": someBytes(2, len(content))})
	o := w.options()
	o.Mirrors = []WebMirror{{Template: w.web.URL + "/other"}}
	var pool Pool
	defer pool.Close()
	for i := range 2 {
		before := w.requests.Load()
		target := filepath.Join(t.TempDir(), "copy")
		result, err := Get(t.Context(), GetOptions{URL: URL{Host: w.primary.Addr().String(), Path: "file"},
			TLS: trust.PinnedClientConfig(nil, w.pin), Target: target, Web: o, Pool: &pool}, nil)
		if err != nil {
			t.Fatal(err)
		}
		web := fromWeb(result.Servers)
		switch {
		case i == 0 && len(web) != 1:
			t.Errorf("the mirrors are %+v", web)
		case i == 0 && (web[0].State != ServerBanned || web[0].Bytes != 0):
			t.Errorf("the mirror is %+v", web[0])
		case i == 1 && w.requests.Load() != before:
			t.Errorf("%d requests to a banned mirror", w.requests.Load()-before)
		}
	}
}

// A mirror of a tree takes its large files from the web, in spite of faults there.
func TestMirrorFromWebMirror(t *testing.T) {
	files := map[string][]byte{}
	for i := range 40 {
		size := 1000 + i*100
		if i%4 == 0 {
			size = 700_000 + i*1001
		}
		files[fmt.Sprintf("d/%d/file %d", i%3, i)] = someBytes(byte(i), size)
	}
	w := newWebWorld(t, files, "{web}/{path}")
	var n, small atomic.Int32
	w.change = func(rw http.ResponseWriter, r *http.Request) bool {
		if info, err := os.Stat(filepath.Join(w.root, r.URL.Path)); err == nil && info.Size() < minWebFile {
			small.Add(1)
		}
		if n.Add(1)%5 == 0 {
			rw.WriteHeader(http.StatusServiceUnavailable)
			return true
		}
		return false
	}
	target := filepath.Join(t.TempDir(), "copy")
	result, err := Mirror(t.Context(), MirrorOptions{
		MirrorSource: MirrorSource{
			URL: URL{Host: w.primary.Addr().String(), Path: "d"}, TLS: trust.PinnedClientConfig(nil, w.pin),
		},
		Target: target, Web: w.options(),
	}, nil)
	if err != nil {
		t.Fatal(err)
	}
	for name, content := range files {
		got, err := os.ReadFile(filepath.Join(target, strings.TrimPrefix(name, "d/")))
		if err != nil || !bytes.Equal(got, content) {
			t.Errorf("%s: %d bytes, %v", name, len(got), err)
		}
	}
	web := fromWeb(result.Servers)
	if len(web) != 1 || web[0].Bytes == 0 || small.Load() > 0 {
		t.Errorf("%d requests for small files; %+v", small.Load(), result.Servers)
	}
}

// The mirrors of a file are used before the others, and are banned for that file alone.
func TestGetWebFile(t *testing.T) {
	content := someBytes(1, 3<<20)
	w := newWebWorld(t, map[string][]byte{"file": content, "other": someBytes(2, len(content))}, "{web}/{path}")
	var pool Pool
	defer pool.Close()
	for i, path := range []string{"other", "file", "file"} { // the first one is of another file
		result, err := Get(t.Context(), GetOptions{URL: URL{Host: w.primary.Addr().String(), Path: "file"},
			TLS: w.tls(), Target: filepath.Join(t.TempDir(), "copy"), Web: w.options(), Pool: &pool,
			WebFile: WebFile{Mirrors: []WebMirror{{Template: w.web.URL + "/" + path}}, IsForeign: i == 2},
		}, nil)
		if err != nil {
			t.Fatal(err)
		}
		var states []string
		for _, s := range fromWeb(result.Servers) {
			states = append(states, fmt.Sprintf("%s %t", s.State, strings.HasSuffix(string(s.ID), "#file")))
		}
		want := []string{"joined false", "joined true"}
		if i == 0 {
			want[1] = "banned true"
		}
		if !slices.Equal(states, want) {
			t.Errorf("%d: %q", i, states)
		}
	}
	// A Metalink from elsewhere does not lead to this machine.
	result, err := Get(t.Context(), GetOptions{URL: URL{Host: w.primary.Addr().String(), Path: "file"},
		TLS: trust.PinnedClientConfig(nil, w.pin), Target: filepath.Join(t.TempDir(), "copy"), Web: w.options(),
		WebFile: WebFile{Mirrors: []WebMirror{{Template: w.web.URL + "/file"}}, IsForeign: true,
			MayConnect: func(ip netip.Addr) bool { return !ip.IsLoopback() }},
	}, nil)
	for _, s := range fromWeb(result.Servers) {
		if strings.HasSuffix(string(s.ID), "#file") && (s.State != ServerLost || s.Bytes > 0) {
			t.Errorf("%v, %+v", err, s)
		}
	}
}

func TestWebMirrorCheck(t *testing.T) {
	for template, want := range map[string]string{
		"https://a.example/{path}": "", "https://a.example/x": "", "https://a.example/?f={path}": "", "http://a/{path}": "not https",
		"https://{path}/abc": "must be in", "https://a/#{path}": "fragment", "https://u:p@a/{path}": "netrc", "ftp://a/{path}": "http",
		"": "http", "https://a/" + strings.Repeat("x", MaxTemplate): "2048 bytes", "https:///{path}": "no host",
	} {
		err := WebMirror{Template: template}.Check(false)
		if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%.40q: %v, want %q", template, err, want)
		}
	}
	u, err := WebMirror{Template: "https://a/x/{path}?v=1"}.urlOf(oddWebPath, false)
	if want := "https://a/x/a%20b/%C3%BC%23%3F%25%26%3D%2B%7B%7D.bin?v=1"; err != nil || u.String() != want {
		t.Errorf("%v, %v", u, err)
	}
}

// The mirrors are chosen by their priority, and there are not too many.
func TestWebMirrorsAreChosen(t *testing.T) {
	var named []*transferpb.WebMirror
	for i := range 40 {
		named = append(named, &transferpb.WebMirror{Template: fmt.Appendf(nil, "https://m%d.example/{path}", i), Priority: uint32(100 - i)})
	}
	s := newWebSet(WebOptions{Mirrors: []WebMirror{{"https://own.example/file", 7}, {"https://own.example/{path}", 3}}},
		func(netip.Addr) bool { return true })
	defer s.close()
	hosts := func(many bool) string {
		var all []string
		for _, source := range s.choose(named, many) {
			all = append(all, strings.TrimSuffix(source.host, ".example"))
		}
		return strings.Join(all, " ")
	}
	if got := hosts(false); got != "own own m15 m14 m13 m12 m11 m10" {
		t.Error(got)
	}
	if got := hosts(true); got != "own m15 m14 m13 m12 m11 m10 m9" {
		t.Error(got)
	}
	ids := map[kwik.ServerID]bool{}
	for _, source := range s.sources {
		ids[source.Stats().ID] = true
	}
	if len(ids) != len(s.sources) {
		t.Errorf("%d IDs of %d mirrors", len(ids), len(s.sources))
	}
}
