//go:build unix

package cmd

import (
	"bytes"
	"encoding/json"
	"encoding/pem"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"kwikcp/transfer/serve"
)

// A sourceBytes is how many bytes a get took from a server or mirror, in its result.
type sourceBytes struct {
	Role, Addr string
	Bytes      int64
}

// getSources runs kwikcp get --json in a directory, and returns from where the bytes are.
func getSources(t *testing.T, work string, args ...string) []sourceBytes {
	t.Helper()
	c := exec.Command("kwikcp", append([]string{"get", "--json"}, args...)...)
	var stdout, stderr bytes.Buffer
	c.Dir, c.Env, c.Stdout, c.Stderr = work, testEnv(work), &stdout, &stderr
	if err := c.Run(); err != nil {
		t.Fatalf("%q: %v\n%s%s", args, err, stdout.String(), stderr.String())
	}
	lines := strings.Split(strings.TrimSpace(stdout.String()), "\n")
	var result struct{ Servers []sourceBytes }
	if err := json.Unmarshal([]byte(lines[len(lines)-1]), &result); err != nil {
		t.Fatal(err)
	}
	return result.Servers
}

// A primary names a web server, and get takes most of a file and of a tree from it.
func TestWebMirror(t *testing.T) {
	work := t.TempDir()
	if err := os.MkdirAll(filepath.Join(work, "A/d"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := fillFile(filepath.Join(work, "A/d/a file"), 6<<20, 1); err != nil {
		t.Fatal(err)
	}
	web := httptest.NewTLSServer(http.FileServer(http.Dir(filepath.Join(work, "A"))))
	defer web.Close()
	authority := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: web.Certificate().Raw})
	if err := os.WriteFile(filepath.Join(work, "ca.pem"), authority, 0o600); err != nil {
		t.Fatal(err)
	}
	_, url := startTestServer(t, work, "--role", "primary", "--root", "A", "--limit-rate", "2M",
		"--web-mirror", web.URL+"/{path},3")
	file := strings.Replace(url, "/?", "/d/a%20file?", 1)
	for name, tt := range map[string]struct {
		args []string
		used bool
	}{
		"file":       {[]string{file, "got"}, true},
		"tree":       {[]string{"-r", url, "tree"}, true},
		"no mirrors": {[]string{"--no-mirrors", "--range", "0-999", file, "part"}, false},
	} {
		used, sources := false, getSources(t, work, append([]string{"--cacert", "ca.pem"}, tt.args...)...)
		for _, s := range sources {
			used = used || s.Role == "web" && s.Bytes > 2<<20 && "https://"+s.Addr == web.URL
		}
		if used != tt.used {
			t.Errorf("%s: %+v", name, sources)
		}
	}
	want, _ := os.ReadFile(filepath.Join(work, "A/d/a file"))
	for _, name := range []string{"got", "tree/d/a file"} {
		if got, err := os.ReadFile(filepath.Join(work, name)); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s: %d bytes, %v", name, len(got), err)
		}
	}
}

func TestParseWebMirrors(t *testing.T) {
	for _, tt := range []struct {
		o         webOptions
		manyFiles bool
		want      string // in the error
	}{
		{o: webOptions{mirrors: repeatedValue{list: []string{"https://a/f", "https://a/{path}"}}}},
		{o: webOptions{mirrors: repeatedValue{list: []string{"https://a/f"}}}, manyFiles: true, want: "has no {path}"},
		{o: webOptions{mirrors: repeatedValue{list: []string{"http://a/f"}}}, want: "not https"},
		{o: webOptions{mirrors: repeatedValue{list: []string{"http://a/f"}}, insecure: true}},
		{o: webOptions{mirrors: repeatedValue{list: []string{"https://user:secret@a/f"}}}, want: "netrc"},
		{o: webOptions{mirrors: repeatedValue{list: []string{"kwik://a/f"}}}, want: "http"},
		{o: webOptions{netrc: "missing"}, want: "--netrc"},
	} {
		_, err := tt.o.parse(tt.manyFiles, &trustPolicy{})
		if (err == nil) != (tt.want == "") || err != nil && !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%+v: %v, want %q", tt.o.mirrors.list, err, tt.want)
		}
		if err != nil && (exitCodeOf(err) != exitUsage || strings.Contains(err.Error(), "secret")) {
			t.Errorf("exit %d, %v", exitCodeOf(err), err)
		}
	}
	got, err := parseNamedMirrors([]string{"https://a/{path},7", "https://b/x,y/{path}", "http://c/{path},0"})
	want := []serve.WebMirror{{Template: "https://a/{path}", Priority: 7}, {Template: "https://b/x,y/{path}"}, {Template: "http://c/{path}"}}
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("%+v, %v", got, err)
	}
	for _, bad := range []string{"", ",1", "https://a/f", "https://u:p@a/{path}", "ftp://a/{path}", "https://{path}"} {
		if _, err := parseNamedMirrors([]string{bad}); err == nil || exitCodeOf(err) != exitUsage {
			t.Errorf("%q: %v", bad, err)
		}
	}
}
