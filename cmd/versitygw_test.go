//go:build unix

package cmd

import (
	"bytes"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"
)

// realProgram returns the path of a program that tests run against. Without it the test is skipped,
// or fails if KWIKCP_REAL is set, as .ci/run does.
func realProgram(t *testing.T, name string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	switch {
	case err == nil:
		return path
	case os.Getenv("KWIKCP_REAL") != "":
		t.Fatalf("%s is missing: %v", name, err)
	}
	t.Skipf("SKIPPED: %s is not installed; .ci/run installs it", name)
	return ""
}

const (
	gatewayKey    = "testaccess"
	gatewaySecret = "testsecret1"
)

// A gateway is a versitygw that serves the buckets below a directory, and a proxy in front of it
// that counts.
type gateway struct {
	dir  string // has a directory for each bucket
	port string
	cmd  *exec.Cmd
	*httptest.Server
	client *minio.Client
	sent   atomic.Int64 // bytes of objects
	puts   atomic.Int64
	gets   atomic.Int64 // requests of objects, and of listings
	// beforeGet is called before the service gets such a request, with its number. An error is
	// answered with the status 403. Nil does nothing.
	beforeGet atomic.Pointer[func(n int64) error]
}

func startGateway(t *testing.T) *gateway {
	t.Helper()
	realProgram(t, "versitygw")
	g := &gateway{dir: t.TempDir()}
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_, g.port, _ = net.SplitHostPort(free.Addr().String())
	free.Close()
	target := &url.URL{Scheme: "http", Host: "127.0.0.1:" + g.port}
	proxy := &httputil.ReverseProxy{
		// The host of the client is part of its signature.
		Rewrite: func(r *httputil.ProxyRequest) { r.SetURL(target); r.Out.Host = r.In.Host },
		ModifyResponse: func(r *http.Response) error {
			switch isObject := r.Header.Get("Accept-Ranges") != ""; {
			case r.Request.Method == http.MethodPut:
				g.puts.Add(1)
			case r.Request.Method == http.MethodGet && isObject:
				r.Body = countedBody{r.Body, &g.sent}
			}
			return nil
		},
	}
	g.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if f := g.beforeGet.Load(); f != nil && r.Method == http.MethodGet {
			if err := (*f)(g.gets.Add(1)); err != nil {
				w.WriteHeader(http.StatusForbidden)
				return
			}
		}
		proxy.ServeHTTP(w, r)
	}))
	t.Cleanup(g.Server.Close)
	g.client, err = minio.New(target.Host, &minio.Options{
		Creds: credentials.NewStaticV4(gatewayKey, gatewaySecret, ""), Region: "us-east-1",
	})
	if err != nil {
		t.Fatal(err)
	}
	g.start(t)
	t.Cleanup(g.stop)
	return g
}

func (g *gateway) start(t *testing.T) {
	t.Helper()
	g.cmd = exec.Command("versitygw", "--port", "127.0.0.1:"+g.port, "--keep-alive", "-q", "posix", g.dir)
	g.cmd.Env = append(os.Environ(), "ROOT_ACCESS_KEY="+gatewayKey, "ROOT_SECRET_KEY="+gatewaySecret)
	if err := g.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(patience); ; {
		c, err := net.Dial("tcp", "127.0.0.1:"+g.port)
		if err == nil {
			c.Close()
			return
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

func (g *gateway) stop() {
	g.cmd.Process.Kill()
	g.cmd.Wait()
}

// A countedBody counts the bytes that are read from it.
type countedBody struct {
	io.ReadCloser
	n *atomic.Int64
}

func (b countedBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	b.n.Add(int64(n))
	return n, err
}

// put writes an object of noise into the bucket "bucket".
func (g *gateway) put(t *testing.T, name string, size int64, seed byte) error {
	_, err := g.client.PutObject(t.Context(), "bucket", name, io.LimitReader(newNoise(seed), size), size,
		minio.PutObjectOptions{})
	return err
}

// serve starts a primary on a bucket, with its own state.
func (g *gateway) serve(t *testing.T, secret string, args ...string) (*process, error) {
	t.Helper()
	return g.serveAs(t, secret, append([]string{"--role", "primary"}, args...)...)
}

// serveAs starts a server on a bucket, with its own state. The arguments have its role.
func (g *gateway) serveAs(t *testing.T, secret string, args ...string) (*process, error) {
	t.Helper()
	args = append([]string{
		"serve", "--listen", "127.0.0.1:0", "--s3-endpoint", g.URL, "--insecure-s3-endpoint",
	}, args...)
	work := t.TempDir()
	env := append(testEnv(work), "AWS_ACCESS_KEY_ID="+gatewayKey, "AWS_SECRET_ACCESS_KEY="+secret)
	p, err := startProcess(work, env, nil, args...)
	if err == nil {
		t.Cleanup(p.kill)
	}
	return p, err
}

// get runs kwikcp get, and returns what it printed.
func get(t *testing.T, work string, args ...string) (string, error) {
	t.Helper()
	cmd := exec.Command("kwikcp", append([]string{"get", "-q"}, args...)...)
	cmd.Dir, cmd.Env = work, testEnv(work)
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// TestVersitygw serves a bucket of a real S3 service from two primaries. The first publishes the
// tree of a file. It ends with a service that is gone for a while.
func TestVersitygw(t *testing.T) {
	g := startGateway(t)
	const size, small = 9<<20 + 5, 40
	bucket := filepath.Join(g.dir, "bucket")
	if err := os.Mkdir(bucket, 0o777); err != nil {
		t.Fatal(err)
	}
	put := func(name string, n int64) {
		if err := g.put(t, "pub/"+name, n, byte(n)); err != nil {
			t.Fatal(err)
		}
	}
	put("big", size)
	for i := range small {
		put("dir/sub/"+strconv.Itoa(i), 16<<10)
	}
	put("dir/empty", 0)
	var logs []*process
	for i, flags := range [][]string{{"--publish-trees"}, nil} {
		p, err := g.serve(t, gatewaySecret, append(flags, "--root", "s3://bucket/pub")...)
		if err != nil {
			t.Fatal(err)
		}
		logs = append(logs, p)
		kwik, err := p.await(`^(kwik://\S+)\n`)
		if err != nil {
			t.Fatal(err)
		}
		at := func(path string) string { return strings.Replace(kwik, "/?", "/"+path+"?", 1) }
		work := t.TempDir()
		before := g.sent.Load()
		if out, err := get(t, work, at("big"), "big"); err != nil {
			t.Fatal(out, err)
		}
		if out, err := get(t, work, "-r", at(""), "tree"); err != nil {
			t.Fatal(out, err)
		}
		cmd := exec.Command("diff", "-r", "-x", ".kwikcp", filepath.Join(bucket, "pub"), filepath.Join(work, "tree"))
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("primary %d serves another tree: %s", i, out)
		}
		if _, err := os.Stat(filepath.Join(work, "tree", ".kwikcp")); err == nil {
			t.Error("the trees are served")
		}
		served, fetched := int64(2*size+small*16<<10), g.sent.Load()-before
		t.Logf("primary %d: %d bytes fetched, %d served", i, fetched, served)
		// The rest is heads and listings.
		if fetched > size+small*16<<10+size/10 {
			t.Errorf("primary %d: %d bytes fetched, %d served", i, fetched, served)
		}
		if i == 0 { // until the tree is there
			for deadline := time.Now().Add(patience); g.puts.Load() == 0 && time.Now().Before(deadline); {
				time.Sleep(10 * time.Millisecond)
			}
		}
	}
	if trees, err := os.ReadDir(filepath.Join(bucket, "pub/.kwikcp/trees")); err != nil || len(trees) != 1 ||
		g.puts.Load() != 1 {
		t.Errorf("%d trees after %d requests: %v", len(trees), g.puts.Load(), err)
	}

	last := logs[1]
	kwik, _ := last.await(`^(kwik://\S+)\n`)
	at := strings.Replace(kwik, "/?", "/new?", 1)
	work := t.TempDir()
	g.stop()
	if out, err := get(t, work, at, "new"); err == nil {
		t.Errorf("a file of a service that is gone: %s", out)
	}
	if _, err := last.await("root is not available"); err != nil {
		t.Error(err)
	}
	g.start(t)
	put("new", 2<<20)
	if _, err := last.await("root is back"); err != nil {
		t.Error(err)
	}
	if out, err := get(t, work, at, "new"); err != nil {
		t.Error(out, err)
	}
	for _, p := range logs {
		if log := p.stderr.String() + p.stdout.String(); strings.Contains(log, gatewaySecret) ||
			strings.Contains(log, gatewayKey) || bytes.Count([]byte(log), []byte("root is not available")) > 1 {
			t.Errorf("the log has credentials, or one loss more than once: %s", log)
		}
	}
}

// TestVersitygwRefuses starts servers of buckets that cannot be read.
func TestVersitygwRefuses(t *testing.T) {
	g := startGateway(t)
	if err := os.Mkdir(filepath.Join(g.dir, "bucket"), 0o777); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		root, secret string
		code         int
		message      string
	}{
		{"s3://other", gatewaySecret, exitNotFound, "there is no such bucket"},
		{"s3://bucket", "another-secret", exitRefused, "the credentials are refused"},
	} {
		p, err := g.serve(t, tt.secret, "--root", tt.root)
		if err != nil {
			t.Fatal(err)
		}
		code, err := p.wait(patience)
		text := p.stderr.String()
		isReported := strings.Contains(text, tt.message) && strings.Count(text, "\n") == 1
		if err != nil || code != tt.code || !isReported {
			t.Errorf("%s: exit %d, want %d: %s %v", tt.root, code, tt.code, text, err)
		}
		if strings.Contains(text, tt.secret) {
			t.Errorf("%s: the message has the credentials: %s", tt.root, text)
		}
	}
}
