//go:build unix

package cmd

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// An authority is a private certificate authority, a root and an intermediate, made by openssl.
type authority struct {
	t   *testing.T
	dir string
}

// newAuthority makes an authority in dir: root.pem and mid.pem.
func newAuthority(t *testing.T, dir string) *authority {
	t.Helper()
	if _, err := exec.LookPath("openssl"); err != nil {
		t.Fatal("this test needs the program openssl in the PATH: ", err)
	}
	a := &authority{t, dir}
	a.write("ca.cnf", `
[ca]
default_ca = d
[d]
database = index.txt
serial = serial
new_certs_dir = .
default_md = sha256
policy = p
unique_subject = no
email_in_dn = no
[p]
commonName = optional
[req]
distinguished_name = n
[n]
`)
	a.write("index.txt", "")
	a.write("serial", "1000\n")
	a.write("ca.ext", "basicConstraints = critical,CA:TRUE\nkeyUsage = critical,keyCertSign\n")
	a.run("genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-out", "root.key")
	a.run("req", "-config", "ca.cnf", "-new", "-key", "root.key", "-subj", "/CN=root of the test", "-out", "root.csr")
	a.sign("root", "root", "ca.ext", time.Now().Add(-time.Hour), time.Now().Add(240*time.Hour), "-selfsign")
	a.run("genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-384", "-out", "mid.key")
	a.run("req", "-config", "ca.cnf", "-new", "-key", "mid.key", "-subj", "/CN=intermediate", "-out", "mid.csr")
	a.sign("mid", "root", "ca.ext", time.Now().Add(-time.Hour), time.Now().Add(240*time.Hour))
	return a
}

func (a *authority) path(name string) string { return filepath.Join(a.dir, name) }

func (a *authority) write(name, content string) {
	a.t.Helper()
	if err := os.WriteFile(a.path(name), []byte(content), 0o600); err != nil {
		a.t.Fatal(err)
	}
}

func (a *authority) read(name string) string {
	a.t.Helper()
	data, err := os.ReadFile(a.path(name))
	if err != nil {
		a.t.Fatal(err)
	}
	return string(data)
}

func (a *authority) run(args ...string) {
	a.t.Helper()
	c := exec.Command("openssl", args...)
	c.Dir = a.dir
	if out, err := c.CombinedOutput(); err != nil {
		a.t.Fatalf("openssl %s: %v\n%s", strings.Join(args, " "), err, out)
	}
}

// sign signs NAME.csr with the key of by, and writes NAME.pem.
func (a *authority) sign(name, by, extensions string, from, to time.Time, more ...string) {
	a.t.Helper()
	const layout = "20060102150405Z"
	args := []string{"ca", "-batch", "-notext", "-config", "ca.cnf", "-in", name + ".csr", "-out", name + ".pem",
		"-keyfile", by + ".key", "-extfile", extensions,
		"-startdate", from.UTC().Format(layout), "-enddate", to.UTC().Format(layout)}
	if name != by {
		args = append(args, "-cert", by+".pem")
	}
	a.run(append(args, more...)...)
}

// An issued is how to issue a certificate. The zero value is for localhost and 127.0.0.1, now.
type issued struct {
	key      []string      // arguments of openssl genpkey; none is Ed25519
	names    string        // subjectAltName; "-" is none
	usage    string        // extendedKeyUsage; "-" is none
	from, to time.Duration // from now; 0 is an hour ago, and ten days
	alone    bool          // NAME.pem has no intermediate
}

// issue makes NAME.key and NAME.pem.
func (a *authority) issue(name string, x issued) (cert, key string) {
	a.t.Helper()
	if x.key == nil {
		x.key = []string{"ED25519"}
	}
	if x.names == "" {
		x.names = "DNS:localhost,IP:127.0.0.1"
	}
	if x.usage == "" {
		x.usage = "serverAuth"
	}
	if x.from == 0 {
		x.from = -time.Hour
	}
	if x.to == 0 {
		x.to = 240 * time.Hour
	}
	extensions := "basicConstraints = CA:FALSE\n"
	if x.names != "-" {
		extensions += "subjectAltName = " + x.names + "\n"
	}
	if x.usage != "-" {
		extensions += "extendedKeyUsage = " + x.usage + "\n"
	}
	a.write(name+".ext", extensions)
	a.run(append([]string{"genpkey", "-out", name + ".key", "-algorithm"}, x.key...)...)
	a.run("req", "-config", "ca.cnf", "-new", "-key", name+".key", "-subj", "/CN="+name, "-out", name+".csr")
	a.sign(name, "mid", name+".ext", time.Now().Add(x.from), time.Now().Add(x.to))
	if !x.alone {
		a.write(name+".pem", a.read(name+".pem")+a.read("mid.pem"))
	}
	if err := os.Chmod(a.path(name+".key"), 0o600); err != nil {
		a.t.Fatal(err)
	}
	return a.path(name + ".pem"), a.path(name + ".key")
}
