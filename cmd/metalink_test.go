//go:build unix

package cmd

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// metalinkOf returns a Metalink of files at a URL. With pieces, it has their hashes, otherwise
// those of whole files.
func metalinkOf(base string, piece int, files map[string][]byte) string {
	var b strings.Builder
	b.WriteString(`<metalink xmlns="urn:ietf:params:xml:ns:metalink">`)
	for name, content := range files {
		fmt.Fprintf(&b, `<file name=%q><size>%d</size><hash type="md5">0</hash>`, name, len(content))
		if piece == 0 {
			fmt.Fprintf(&b, `<hash type="sha-256">%x</hash>`, sha256.Sum256(content))
		} else {
			fmt.Fprintf(&b, `<pieces length="%d" type="sha-256">`, piece)
			for off := 0; off < len(content); off += piece {
				fmt.Fprintf(&b, "<hash>%x</hash>", sha256.Sum256(content[off:min(off+piece, len(content))]))
			}
			b.WriteString("</pieces>")
		}
		fmt.Fprintf(&b, `<url priority="2">%s/%s</url><url>http://127.0.0.1:1/</url></file>`, base, name)
	}
	b.WriteString("</metalink>")
	return b.String()
}

// get --metalink fetches one file and several, with a primary and without one.
func TestMetalink(t *testing.T) {
	work := t.TempDir()
	files := map[string][]byte{"a.bin": nil, "d/b.bin": nil}
	for name := range files {
		at := filepath.Join(work, "A", name)
		if err := os.MkdirAll(filepath.Dir(at), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := fillFile(at, int64(3<<20+len(name)), byte(len(name))); err != nil {
			t.Fatal(err)
		}
		files[name], _ = os.ReadFile(at)
	}
	one := map[string][]byte{"d/b.bin": files["d/b.bin"]}
	var web *httptest.Server
	pages := http.FileServer(http.Dir(filepath.Join(work, "A")))
	web = httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/one.meta4" {
			fmt.Fprint(w, metalinkOf(web.URL, 1<<18, one))
			return
		}
		pages.ServeHTTP(w, r)
	}))
	defer web.Close()
	authority := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: web.Certificate().Raw})
	wrong := map[string][]byte{"d/b.bin": append([]byte{1}, files["d/b.bin"][1:]...)}
	wrong["d/b.bin"][0]++
	for name, content := range map[string]string{
		"ca.pem": string(authority), "pieces": metalinkOf(web.URL, 1<<18, one), "whole": metalinkOf(web.URL, 0, one),
		"both": metalinkOf(web.URL, 1<<18, files), "bad": "<metalink/>", "large": metalinkOf(web.URL, 8<<20, one),
		"wrong":   metalinkOf(web.URL, 0, wrong),
		"missing": metalinkOf(web.URL+"/none", 1<<18, one), "http": metalinkOf("http://127.0.0.1:1", 1<<18, one),
		"climbs": strings.Replace(metalinkOf(web.URL, 0, one), "d/b.bin", "../b.bin", 1),
	} {
		if err := os.WriteFile(filepath.Join(work, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	_, url := startTestServer(t, work, "--role", "primary", "--root", "A")
	url = strings.Replace(url, "/?", "/d/b.bin?", 1)
	const b = "d/b.bin"
	zeros := strings.Repeat("0", 64)
	get := []string{"get", "--json", "--cacert", "ca.pem", "--metalink"}
	for _, tt := range []struct {
		args  []string
		code  int
		proof string
		got   map[string]string // files, and those that they are equal to
		text  string            // in stderr or stdout
	}{
		{args: []string{"pieces"}, proof: "pieces", got: map[string]string{"b.bin": b}},
		{args: []string{"pieces"}, proof: "pieces", got: map[string]string{"b.bin": b}, text: `"up_to_date":true`},
		{args: []string{"whole", "w"}, proof: "whole", got: map[string]string{"w": b}},
		{args: []string{web.URL + "/one.meta4", "u"}, proof: "pieces", got: map[string]string{"u": b}},
		{
			args: []string{"both", "many"}, proof: "pieces",
			got: map[string]string{"many/a.bin": "a.bin", "many/d/b.bin": b},
		},
		{args: []string{"both", url, "p"}, proof: "tree", got: map[string]string{"p": b}},
		{args: []string{"whole", url, "q"}, proof: "tree", got: map[string]string{"q": b}, text: `"checksums":["sha`},
		{args: []string{"wrong", "z"}, code: exitIntegrity},
		{args: []string{"wrong", url, "z"}, code: exitIntegrity},
		{args: []string{"missing", "z"}, code: exitNotFound},
		{args: []string{"none", "z"}, code: exitNotFound, text: "read the Metalink"},
		{args: []string{"bad", "z"}, code: exitUsage, text: "not a Metalink"},
		{args: []string{"climbs", "z"}, code: exitUsage, text: "leads out of"},
		{args: []string{"large", "z"}, code: exitUsage, text: "no sha-256 hash"},
		{args: []string{"http", "z"}, code: exitUsage, text: "no https URL"},
		{args: []string{"http", "z", "--insecure-http-mirrors", "--connect-timeout", "0.1"}, code: exitNetwork},
		{args: []string{"http://h/x?secret", "z", "--insecure-http-mirrors"}, code: exitUsage, text: "not https"},
		{args: []string{"pieces", "z", "y"}, code: exitUsage, text: "one destination"},
		{args: []string{"pieces", "z", "--range", "0-1"}, code: exitUsage, text: "--range"},
		{args: []string{"pieces", "z", "--checksum", "blake3=" + zeros}, code: exitUsage, text: "blake3"},
		{args: []string{"both", "-"}, code: exitUsage, text: "2 files"},
	} {
		c := exec.Command("kwikcp", append(slices.Clone(get), tt.args...)...)
		var out, stderr bytes.Buffer
		c.Dir, c.Env, c.Stdout, c.Stderr = work, testEnv(work), &out, &stderr
		c.Run()
		all := out.String() + stderr.String()
		if c.ProcessState.ExitCode() != tt.code || !strings.Contains(all, tt.text) || strings.Contains(all, "secret") {
			t.Errorf("%q: exit %d, want %d and %q\n%s", tt.args, c.ProcessState.ExitCode(), tt.code, tt.text, all)
			continue
		}
		for name, same := range tt.got {
			if got, err := os.ReadFile(filepath.Join(work, name)); err != nil || !bytes.Equal(got, files[same]) {
				t.Errorf("%q: %s has %d bytes, %v", tt.args, name, len(got), err)
			}
		}
		if _, err := os.Stat(filepath.Join(work, "z")); err == nil {
			t.Fatalf("%q wrote the file", tt.args)
		}
		for line := range strings.Lines(out.String()) {
			var event struct {
				Event, Proof string
				OK           bool
			}
			if err := json.Unmarshal([]byte(line), &event); err != nil {
				t.Fatal(err)
			}
			if event.Event == "result" && event.OK && event.Proof != tt.proof {
				t.Errorf("%q: %s", tt.args, line)
			}
		}
	}
	for proof, want := range map[string]string{
		"pieces": "verified by the hashes of its pieces",
		"whole":  "verified by the hash of the whole file, checksum correct",
	} {
		c := exec.Command("kwikcp", "get", "--cacert", "ca.pem", "--metalink", proof, "text-"+proof)
		c.Dir, c.Env = work, testEnv(work)
		if text, err := c.CombinedOutput(); err != nil || !strings.Contains(string(text), want) {
			t.Errorf("%v: %s", err, text)
		}
	}
	c := exec.Command("kwikcp", "get", "--cacert", "ca.pem", "--metalink", "-", "-")
	c.Dir, c.Env, c.Stdin = work, testEnv(work), strings.NewReader(metalinkOf(web.URL, 0, one))
	if got, err := c.Output(); err != nil || !bytes.Equal(got, files[b]) {
		t.Errorf("stdout: %d bytes, %v", len(got), err)
	}
}
