//go:build unix

package cmd

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"
)

// A certWorld is a directory with a private authority and a file to serve.
type certWorld struct {
	*testing.T
	*authority
	work string
}

func newCertWorld(t *testing.T) *certWorld {
	t.Helper()
	work := t.TempDir()
	for _, dir := range []string{"ca", "A", "B"} {
		if err := os.Mkdir(filepath.Join(work, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"A/f", "B/f"} {
		if err := fillFile(filepath.Join(work, name), 3<<20, 1); err != nil {
			t.Fatal(err)
		}
	}
	return &certWorld{t, newAuthority(t, filepath.Join(work, "ca")), work}
}

// kwikcp runs a command and returns its exit code and stderr.
func (w *certWorld) kwikcp(args ...string) (code int, stderr string) {
	w.Helper()
	c := exec.Command("kwikcp", args...)
	var out bytes.Buffer
	c.Dir, c.Env, c.Stderr = w.work, testEnv(w.work), &out
	err := c.Run()
	if e, ok := errors.AsType[*exec.ExitError](err); ok {
		return e.ExitCode(), out.String()
	}
	if err != nil {
		w.Fatal(err)
	}
	return 0, out.String()
}

// wantGet fails the test unless a get from a server by the name host succeeds with the authority.
func (w *certWorld) wantGet(url, host string, more ...string) {
	w.Helper()
	args := append([]string{"get", "-q", "--cacert", w.path("root.pem"), withHost(url, host) + "f", "got"}, more...)
	if code, stderr := w.kwikcp(args...); code != 0 {
		w.Errorf("%s by the name %s: exit %d, %s", url, host, code, stderr)
	}
}

// withHost replaces the host of a URL.
func withHost(url, host string) string {
	return regexp.MustCompile(`//.*:`).ReplaceAllString(url, "//"+host+":")
}

var keyTypes = map[string][]string{
	"RSA":     {"RSA", "-pkeyopt", "rsa_keygen_bits:2048"},
	"P-256":   {"EC", "-pkeyopt", "ec_paramgen_curve:P-256"},
	"P-384":   {"EC", "-pkeyopt", "ec_paramgen_curve:P-384"},
	"P-521":   {"EC", "-pkeyopt", "ec_paramgen_curve:P-521"},
	"Ed25519": {"ED25519"},
}

// TestCertificatesOfAnAuthority fetches from servers with every type of key, by name and by
// address, with every client command.
func TestCertificatesOfAnAuthority(t *testing.T) {
	w := newCertWorld(t)
	for name, key := range keyTypes {
		t.Run(name, func(t *testing.T) {
			cert, file := w.issue(strings.ToLower(name), issued{key: key})
			_, url := startTestServer(t, w.work, "--role", "primary", "--root", "A", "--cert", cert, "--key", file)
			if strings.Contains(url, "pin=") {
				t.Errorf("the URL %s has a pin, which the next key would break", url)
			}
			w.wantGet(url, "127.0.0.1")
			w.wantGet(url, "localhost")
			for _, args := range [][]string{
				{"ls", url}, {"verify", "A/f", "--from", url + "f"}, {"doctor", url}, {"get", "-r", url, "tree"},
				{"get", "--range", "0-9", url + "f", "range"},
			} {
				if code, stderr := w.kwikcp(append(args, "--cacert", w.path("root.pem"))...); code != 0 {
					t.Errorf("%q: exit %d, %s", args, code, stderr)
				}
			}
		})
	}
	if _, err := os.Stat(filepath.Join(w.work, ".state/kwikcp/known_hosts")); err == nil {
		t.Error("a server with a certificate was recorded as a known host")
	}
}

// TestCertificatesThatDoNotFit checks that every fault of a certificate is refused and named, on
// loopback as well.
func TestCertificatesThatDoNotFit(t *testing.T) {
	w := newCertWorld(t)
	day := 24 * time.Hour
	for name, x := range map[string]struct {
		issued
		host string
		want string
	}{
		"wrong name":      {issued{names: "DNS:a.example.org,DNS:*.example.net"}, "localhost", `it is for a\.example\.org, `},
		"wrong address":   {issued{names: "IP:192.0.2.1"}, "127.0.0.1", `it is for 192\.0\.2\.1`},
		"name, not IP":    {issued{names: "DNS:localhost"}, "127.0.0.1", `it is for localhost`},
		"no name":         {issued{names: "-"}, "localhost", `it names no host`},
		"expired":         {issued{from: -3 * day, to: -day}, "localhost", `it expired at 20.*; the clock of this`},
		"not yet":         {issued{from: day}, "localhost", `it is valid from 20.* on, and the clock of this`},
		"not for servers": {issued{usage: "clientAuth"}, "localhost", `without serverAuth`},
		"no chain":        {issued{alone: true}, "localhost", `no certificate authority vouches for it`},
	} {
		t.Run(name, func(t *testing.T) {
			cert, key := w.issue(strings.ReplaceAll(name, " ", "-"), x.issued)
			server, url := startTestServer(t, w.work, "--role", "primary", "--root", "A", "--cert", cert, "--key", key)
			code, stderr := w.kwikcp("get", withHost(url, x.host)+"f", "got", "--cacert", w.path("root.pem"))
			matches := regexp.MustCompile(x.want).MatchString(stderr)
			if code != exitRefused || !matches || strings.Count(stderr, "\n") != 1 {
				t.Errorf("exit %d, %s", code, stderr)
			}
			logged := server.stderr.String()
			if (name == "expired" || name == "not yet") && !strings.Contains(logged, "the certificate ") {
				t.Errorf("the server does not warn: %s", logged)
			}
		})
	}
	t.Run("no extended key usage", func(t *testing.T) { // is any usage
		cert, key := w.issue("any", issued{usage: "-"})
		_, url := startTestServer(t, w.work, "--role", "primary", "--root", "A", "--cert", cert, "--key", key)
		w.wantGet(url, "localhost")
	})
	t.Run("another authority", func(t *testing.T) {
		if err := os.Mkdir(w.path("other"), 0o755); err != nil {
			t.Fatal(err)
		}
		newAuthority(t, w.path("other"))
		cert, key := w.issue("honest", issued{})
		_, url := startTestServer(t, w.work, "--role", "primary", "--root", "A", "--cert", cert, "--key", key)
		code, stderr := w.kwikcp("get", url+"f", "got", "--cacert", w.path("other/root.pem"))
		if code != exitRefused || !strings.Contains(stderr, "no certificate authority vouches for it") {
			t.Errorf("exit %d, %s", code, stderr)
		}
		w.wantGet(url, "localhost")
	})
}

// TestCertificateOptions checks what serve refuses.
func TestCertificateOptions(t *testing.T) {
	w := newCertWorld(t)
	cert, key := w.issue("a", issued{})
	other, _ := w.issue("b", issued{})
	open := w.path("open.key")
	w.write("open.key", w.read("a.key"))
	if err := os.Chmod(open, 0o644); err != nil {
		t.Fatal(err)
	}
	w.run("genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-224", "-out", "p224.key")
	w.run("req", "-config", "ca.cnf", "-x509", "-key", "p224.key", "-subj", "/CN=p224", "-out", "p224.pem")
	w.write("garbage", "garbage")
	for name, x := range map[string]struct {
		cert, key string
		want      string
	}{
		"no key":               {cert, "", "--cert and --key go together"},
		"no certificate":       {"", key, "--cert and --key go together"},
		"key of another":       {other, key, "private key does not match"},
		"key for every user":   {cert, open, "opens it to every user; chmod it to 0600"},
		"missing":              {w.path("nothing"), key, "no such file"},
		"missing key":          {cert, w.path("nothing"), "no such file"},
		"directory":            {w.work, key, "not a regular file"},
		"garbage":              {w.path("garbage"), key, "PEM"},
		"garbage key":          {cert, w.path("garbage"), "PEM"},
		"a curve unlike TLS's": {w.path("p224.pem"), w.path("p224.key"), "p224"},
	} {
		args := []string{"serve", "--role", "primary", "--root", "A", "--listen", "127.0.0.1:0"}
		if x.cert != "" {
			args = append(args, "--cert", x.cert)
		}
		if x.key != "" {
			args = append(args, "--key", x.key)
		}
		code, stderr := w.kwikcp(args...)
		if code != exitUsage || !strings.Contains(stderr, x.want) || strings.Count(stderr, "\n") != 1 {
			t.Errorf("%s: exit %d, %s", name, code, stderr)
		}
	}
}

// install puts a pair in the place of the files of another, in two steps with a pause between
// them.
func (w *certWorld) install(cert, key, asCert, asKey string, between func()) {
	w.Helper()
	for i, pair := range [][2]string{{cert, asCert}, {key, asKey}} {
		data, err := os.ReadFile(pair[0])
		if err == nil {
			err = os.WriteFile(pair[1]+".new", data, 0o600)
		}
		if err == nil {
			err = os.Rename(pair[1]+".new", pair[1])
		}
		if err != nil {
			w.Fatal(err)
		}
		if i == 0 {
			between()
		}
	}
}

// TestCertificateReload replaces the certificates of a primary and a secondary while a get runs.
func TestCertificateReload(t *testing.T) {
	w := newCertWorld(t)
	start := func(name string, args ...string) (p *process, url string) {
		w.issue(name, issued{})
		return startTestServer(t, w.work, append([]string{
			"--root", map[string]string{"primary": "A"}[name] + map[string]string{"secondary": "B"}[name],
			"--cert", w.path(name + ".pem"), "--key", w.path(name + ".key"),
			"--state-dir", filepath.Join(w.work, ".state-"+name), "--limit-rate", "200K", "--role", name,
		}, args...)...)
	}
	await := func(p *process, pattern string) {
		t.Helper()
		if _, err := p.await(pattern); err != nil {
			t.Fatal(err)
		}
	}
	primary, url := start("primary")
	secondary, _ := start("secondary", "--primary", strings.TrimSuffix(strings.TrimPrefix(url, "kwik://"), "/"), "--cacert", w.path("root.pem"))
	get, err := startProcess(w.work, testEnv(w.work), nil, "get", "--cacert", w.path("root.pem"), url+"f", "slow")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(get.kill)
	await(primary, `secondary joined`)

	// Two steps, with a SIGHUP and several polls between them: nothing changes, and one line
	// names it.
	cert, key := w.issue("renewed", issued{key: keyTypes["P-256"]})
	w.install(cert, key, w.path("primary.pem"), w.path("primary.key"), func() {
		if err := primary.signal(syscall.SIGHUP); err != nil {
			t.Fatal(err)
		}
		await(primary, `the new certificate cannot be used; the old one stays`)
		w.wantGet(url, "localhost", "--range", "0-9")
	})
	await(primary, `certificate reloaded`)
	if n := strings.Count(primary.stderr.String(), "cannot be used"); n != 1 {
		t.Errorf("%d lines for one pair that does not fit", n)
	}
	w.wantGet(url, "localhost", "--range", "0-9")

	// A secondary has a new key and joins again. SIGHUP reads the files at once.
	cert, key = w.issue("renewed2", issued{key: keyTypes["P-384"]})
	w.install(cert, key, w.path("secondary.pem"), w.path("secondary.key"), func() {})
	if err := secondary.signal(syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	await(secondary, `(?s)certificate reloaded.*msg=joined `)
	if code, err := get.wait(patience); code != 0 || err != nil {
		t.Errorf("the get that ran meanwhile: exit %d, %v, %s", code, err, get.stderr)
	}
	code, stderr := w.kwikcp("doctor", "--cacert", w.path("root.pem"), url)
	if code != 0 {
		t.Errorf("doctor after the reloads: exit %d, %s", code, stderr)
	}
	for _, p := range []*process{primary, secondary} {
		if err := p.signal(syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
		if code, err := p.wait(patience); code != 0 || err != nil {
			t.Errorf("exit %d, %v", code, err)
		}
	}
}

// TestCertificateURL checks the URL that a server prints: a name of its certificate, and a pin
// only if no authority vouches for it.
func TestCertificateURL(t *testing.T) {
	w := newCertWorld(t)
	named, namedKey := w.issue("named", issued{names: "DNS:*.example.net,DNS:files.example.org,IP:192.0.2.7"})
	w.run("genpkey", "-algorithm", "ED25519", "-out", "self.key")
	w.run("req", "-config", "ca.cnf", "-x509", "-key", "self.key", "-subj", "/CN=self",
		"-addext", "subjectAltName=DNS:self.example.org", "-out", "self.pem")
	if err := os.Chmod(w.path("self.key"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, x := range []struct{ listen, cert, key, want string }{
		{"0.0.0.0:0", named, namedKey, `^kwik://files\.example\.org:\d+/$`},
		{"127.0.0.1:0", named, namedKey, `^kwik://files\.example\.org:\d+/$`},
		{"0.0.0.0:0", w.path("self.pem"), w.path("self.key"), `^kwik://self\.example\.org:\d+/\?pin=[\w-]{43}$`},
	} {
		p, url := startTestServer(t, w.work, "--role", "primary", "--root", "A", "--listen", x.listen,
			"--cert", x.cert, "--key", x.key)
		if !regexp.MustCompile(x.want).MatchString(url) {
			t.Errorf("%s with %s: %s, want %s", x.listen, filepath.Base(x.cert), url, x.want)
		}
		p.kill()
	}
}
