//go:build unix

package cmd

import (
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"text/template"
	"time"
)

// nginxConfig serves the directory www below several locations. /list/ and /json/ list it, and
// /login/ demands a login. Files below the last three have strong ETags, weak ones and none. There
// the web server asks the test before it opens a file.
var nginxConfig = template.Must(template.New("").Parse(`
daemon off;
master_process off;
pid {{.Dir}}/pid;
error_log {{.Dir}}/error.log;
events {}
http {
	log_format counted '$request_method $uri $status $body_bytes_sent';
	access_log {{.Dir}}/access.log counted;
	client_body_temp_path {{.Dir}}/body;
	proxy_temp_path {{.Dir}}/proxy;
	fastcgi_temp_path {{.Dir}}/fastcgi;
	uwsgi_temp_path {{.Dir}}/uwsgi;
	scgi_temp_path {{.Dir}}/scgi;
	default_type application/octet-stream;
	ssl_certificate {{.Dir}}/ca.pem;
	ssl_certificate_key {{.Dir}}/key.pem;
	server {
		listen {{.Addr}} ssl http2;
		location /list/ { alias {{.Dir}}/www/; autoindex on; }
		location /json/ { alias {{.Dir}}/www/; autoindex on; autoindex_format json; }
		location /mirror/ { alias {{.Dir}}/www/; }
		location /unlisted/ { alias {{.Dir}}/www/; }
		location = /unlisted/unlisted/ { alias {{.Dir}}/www/unlisted/; autoindex on; }
		location /login/ {
			alias {{.Dir}}/www/; autoindex on;
			auth_basic files; auth_basic_user_file {{.Dir}}/users;
		}
		location /strong/ { alias {{.Dir}}/www/; auth_request /gate; }
		location /weak/ {
			alias {{.Dir}}/www/; auth_request /gate;
			etag off; add_header ETag 'W/"$sent_http_last_modified"';
		}
		location /untagged/ { alias {{.Dir}}/www/; auth_request /gate; etag off; }
		location = /gate {
			internal;
			proxy_pass {{.Gate}};
			proxy_set_header X-Request "$request_method $request_uri";
		}
	}
}
`))

const (
	nginxUser     = "reader"
	nginxPassword = "secret-of-nginx"
)

// An nginx is a web server with TLS. Its certificate authority is ca.pem in its directory.
type nginx struct {
	Dir, Addr, Gate string

	mu     sync.Mutex // held while a file is replaced, so that requests behind have the new one
	gets   map[string]int
	before map[string]func(n int) // called with the number of a GET of a path, before it is answered
}

// ServeHTTP is asked by the web server about a request.
func (n *nginx) ServeHTTP(_ http.ResponseWriter, r *http.Request) {
	n.mu.Lock()
	defer n.mu.Unlock()
	path, isGet := strings.CutPrefix(r.Header.Get("X-Request"), "GET ")
	if f := n.before[path]; isGet && f != nil {
		n.gets[path]++
		f(n.gets[path])
	}
}

func startNginx(t *testing.T) *nginx {
	t.Helper()
	program := realProgram(t, "nginx")
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	n := &nginx{
		Dir: t.TempDir(), Addr: free.Addr().String(), gets: make(map[string]int), before: make(map[string]func(int)),
	}
	free.Close()
	gate := httptest.NewServer(n)
	t.Cleanup(gate.Close)
	n.Gate = gate.URL
	tls := httptest.NewTLSServer(nil)
	tls.Close()
	key, err := x509.MarshalPKCS8PrivateKey(tls.TLS.Certificates[0].PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	var config bytes.Buffer
	if err := nginxConfig.Execute(&config, n); err != nil {
		t.Fatal(err)
	}
	for name, content := range map[string][]byte{
		"nginx.conf": config.Bytes(),
		"ca.pem":     pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: tls.Certificate().Raw}),
		"key.pem":    pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key}),
		"users":      []byte(nginxUser + ":{PLAIN}" + nginxPassword + "\n"),
		"netrc":      []byte("machine 127.0.0.1 login " + nginxUser + " password " + nginxPassword + "\n"),
	} {
		if err := os.WriteFile(filepath.Join(n.Dir, name), content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Mkdir(filepath.Join(n.Dir, "www"), 0o755); err != nil {
		t.Fatal(err)
	}
	var stderr bytes.Buffer
	cmd := exec.Command(program, "-p", n.Dir, "-c", filepath.Join(n.Dir, "nginx.conf"))
	cmd.Stderr = &stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
	})
	for deadline := time.Now().Add(patience); ; time.Sleep(10 * time.Millisecond) {
		c, err := net.Dial("tcp", n.Addr)
		if err == nil {
			c.Close()
			return n
		}
		if time.Now().After(deadline) {
			cmd.Process.Kill()
			cmd.Wait()
			t.Fatal(err, stderr.String())
		}
	}
}

// put replaces a file in one step. Its time is seconds old.
func (n *nginx) put(t *testing.T, name string, size int64, seed byte, seconds int) {
	t.Helper()
	path := filepath.Join(n.Dir, "www", name)
	err := os.MkdirAll(filepath.Dir(path), 0o755)
	if err == nil {
		err = fillFile(path+".new", size, seed)
	}
	if err == nil {
		at := time.Now().Add(-time.Duration(seconds) * time.Second)
		err = os.Chtimes(path+".new", at, at)
	}
	if err == nil {
		err = os.Rename(path+".new", path)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// An access is a line of the log: a request that has ended.
type access struct {
	method, path string
	status       int
	bytes        int64
}

// accesses returns the requests of paths with a prefix.
func (n *nginx) accesses(t *testing.T, prefix string) (all []access) {
	t.Helper()
	log, err := os.ReadFile(filepath.Join(n.Dir, "access.log"))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(log)) {
		// A path may have spaces.
		fields := strings.Fields(line)
		var a access
		if len(fields) < 4 || !strings.HasSuffix(line, "\n") {
			continue
		}
		last := len(fields) - 2
		a.method, a.path = fields[0], strings.Join(fields[1:last], " ")
		if _, err := fmt.Sscan(strings.Join(fields[last:], " "), &a.status, &a.bytes); err != nil {
			t.Fatalf("%q: %v", line, err)
		}
		if strings.HasPrefix(a.path, prefix) {
			all = append(all, a)
		}
	}
	return all
}

// sent returns the bytes of the files that were sent below a prefix.
func (n *nginx) sent(t *testing.T, prefix string) (bytes int64) {
	t.Helper()
	for _, a := range n.accesses(t, prefix) {
		if !strings.HasSuffix(a.path, "/") {
			bytes += a.bytes
		}
	}
	return bytes
}

// url returns the URL of a path.
func (n *nginx) url(path string) string { return "https://" + n.Addr + path }

// serve starts a primary on a location, and returns its URL.
func (n *nginx) serve(t *testing.T, location string, args ...string) string {
	t.Helper()
	_, url := startTestServer(t, t.TempDir(), append([]string{
		"--role", "primary", "--root", n.url(location), "--cacert", filepath.Join(n.Dir, "ca.pem"),
	}, args...)...)
	return url
}

// pathOn returns the URL of a primary with a path.
func pathOn(url, path string) string { return strings.Replace(url, "/?", "/"+path+"?", 1) }

// isNoise reports whether a file has the content that put wrote.
func isNoise(t *testing.T, path string, size int64, seed byte) bool {
	t.Helper()
	got, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	want := make([]byte, size)
	newNoise(seed).Read(want)
	return bytes.Equal(got, want)
}

// TestNginx takes files from a real web server: as a mirror and as a root of primaries.
func TestNginx(t *testing.T) {
	n := startNginx(t)
	for name, test := range map[string]func(*testing.T, *nginx, string){
		"mirror": testNginxMirror, "list": testNginxRoot, "json": testNginxRoot, "login": testNginxLogin,
		"unlisted": testNginxUnlisted,
		"strong":   testNginxReplaced, "weak": testNginxReplaced, "untagged": testNginxReplaced,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(t, n, name) // the name is also that of a location, and of a directory
		})
	}
}

// testNginxMirror gets a file from a slow primary and from the web server. All answers are ranges.
func testNginxMirror(t *testing.T, n *nginx, dir string) {
	const size = 8 << 20
	n.put(t, dir+"/file", size, 1, 60)
	_, url := startTestServer(t, n.Dir, "--role", "primary", "--root", "www", "--limit-rate", "8M")
	work := t.TempDir()
	sources := getSources(t, work, "--cacert", filepath.Join(n.Dir, "ca.pem"),
		"--web-mirror", n.url("/mirror/{path}"), pathOn(url, dir+"/file"), "got")
	var fromMirror int64
	for _, s := range sources {
		if s.Role == "web" && s.Addr == n.Addr {
			fromMirror += s.Bytes
		}
	}
	if fromMirror == 0 {
		t.Errorf("no byte is from the mirror: %+v", sources)
	}
	if !isNoise(t, filepath.Join(work, "got"), size, 1) {
		t.Error("the file is wrong")
	}
	for _, a := range n.accesses(t, "/mirror/") {
		if a.status != 206 {
			t.Errorf("%+v", a)
		}
	}
}

// testNginxRoot lists a root and has two clients get it. The web server sends each byte once.
func testNginxRoot(t *testing.T, n *nginx, dir string) {
	const size, small = 9<<20 + 5, 3000
	n.put(t, dir+"/big", size, 2, 60)
	n.put(t, dir+"/d e/a&b%20#ü", small, 3, 60)
	n.put(t, dir+"/d e/empty", 0, 4, 60)
	location := "/" + dir + "/" + dir + "/"
	url := n.serve(t, location)
	work := t.TempDir()
	list := exec.Command("kwikcp", "ls", "-R", url)
	list.Env = testEnv(work)
	listed, err := list.CombinedOutput()
	if err != nil {
		t.Fatal(err, string(listed))
	}
	for _, name := range []string{"big", "d e/a&b%20#ü", "d e/empty"} {
		if !strings.Contains(string(listed), name) {
			t.Errorf("%q is not listed in\n%s", name, listed)
		}
	}
	done := make(chan string)
	for _, tree := range []string{"one", "two"} {
		go func() {
			out, err := get(t, work, "-r", url, tree)
			if err != nil {
				out = fmt.Sprintf("%s: %v: %s", tree, err, out)
			}
			done <- out
		}()
	}
	for range 2 {
		if out := <-done; out != "" {
			t.Error(out)
		}
	}
	for _, tree := range []string{"one", "two"} {
		diff := exec.Command("diff", "-r", filepath.Join(n.Dir, "www", dir), filepath.Join(work, tree))
		out, err := diff.CombinedOutput()
		if err != nil {
			t.Errorf("%s: %s", tree, out)
		}
	}
	const want = size + small
	for deadline := time.Now().Add(patience); n.sent(t, location) < want && time.Now().Before(deadline); {
		time.Sleep(10 * time.Millisecond)
	}
	if sent := n.sent(t, location); sent != want {
		t.Errorf("%d bytes were sent for files of %d: %+v", sent, want, n.accesses(t, location))
	}
}

// testNginxLogin serves a root that demands a login.
func testNginxLogin(t *testing.T, n *nginx, dir string) {
	n.put(t, dir+"/d e/file", 1000, 5, 60)
	work := t.TempDir()
	p, err := startProcess(work, testEnv(work), nil, "serve", "--role", "primary", "--listen", "127.0.0.1:0",
		"--root", n.url("/login/"), "--cacert", filepath.Join(n.Dir, "ca.pem"))
	if err != nil {
		t.Fatal(err)
	}
	defer p.kill()
	code, err := p.wait(patience)
	text := p.stderr.String()
	isClear := strings.Contains(text, "401") && strings.Contains(text, "--netrc") && strings.Count(text, "\n") == 1
	if err != nil || code != exitRefused || !isClear {
		t.Errorf("exit %d, %v: %s", code, err, text)
	}
	url := n.serve(t, "/login/", "--netrc", filepath.Join(n.Dir, "netrc"))
	if out, err := get(t, work, pathOn(url, dir+"/d%20e/file"), "got"); err != nil {
		t.Fatal(out, err)
	}
	if !isNoise(t, filepath.Join(work, "got"), 1000, 5) {
		t.Error("the file is wrong")
	}
}

// testNginxUnlisted serves a root of which only the top directory is listed. The directory below it
// is not, and its file is fetched by its path.
func testNginxUnlisted(t *testing.T, n *nginx, dir string) {
	n.put(t, dir+"/below/file", 1000, 8, 60)
	work := t.TempDir()
	url := n.serve(t, "/unlisted/unlisted/")
	for path, want := range map[string]string{
		"":       `"below": list it: the server has no listing of the directory;`,
		"below/": ": the server has no listing of the directory; its files can be fetched by their paths",
	} {
		cmd := exec.Command("kwikcp", "get", "-r", "-q", pathOn(url, path), "tree")
		cmd.Dir, cmd.Env = work, testEnv(work)
		out, _ := cmd.CombinedOutput()
		if cmd.ProcessState.ExitCode() != exitOther || !strings.Contains(string(out), want) {
			t.Errorf("%q: exit %d: %s", path, cmd.ProcessState.ExitCode(), out)
		}
	}
	if out, err := get(t, work, pathOn(url, "below/file"), "file"); err != nil {
		t.Error(err, out)
	}
}

// testNginxReplaced replaces a file while it is fetched. The client has the old content, or ends
// with exit status 10 and gets the new content later. Fresh files would have the same version if
// both were written in the same second.
func testNginxReplaced(t *testing.T, n *nginx, dir string) {
	const size = 16 << 20 // 4 blocks
	location := "/" + dir + "/"
	ages := [2]int{60, 30} // seconds
	if dir != "weak" {
		ages = [2]int{}
	}
	n.put(t, dir+"/file", size, 6, ages[0])
	isReplaced := false
	n.mu.Lock()
	n.before[location+dir+"/file"] = func(gets int) {
		if gets == 3 {
			n.put(t, dir+"/file", size, 7, ages[1])
			isReplaced = true
		}
	}
	n.mu.Unlock()
	url := pathOn(n.serve(t, location), dir+"/file")
	work := t.TempDir()
	cmd := exec.Command("kwikcp", "get", "-q", url, "got")
	cmd.Dir, cmd.Env = work, testEnv(work)
	out, _ := cmd.CombinedOutput()
	n.mu.Lock()
	wasReplaced := isReplaced
	n.mu.Unlock()
	code := cmd.ProcessState.ExitCode()
	switch {
	case !wasReplaced:
		t.Fatalf("the transfer ended before the file was replaced: exit %d: %s", code, out)
	case code == exitOK:
		if !isNoise(t, filepath.Join(work, "got"), size, 6) {
			t.Error("the file is not the old one")
		}
		return
	case code != exitChanged || !strings.Contains(string(out), ": the file changed on the server"):
		t.Fatalf("exit %d: %s", code, out)
	}
	again, err := get(t, work, url, "got")
	if err != nil || !isNoise(t, filepath.Join(work, "got"), size, 7) {
		t.Errorf("the new content: %v %s", err, again)
	}
}
