//go:build unix

package cmd

import (
	"bytes"
	"kwikcp/internal/escape"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestOddNames fetches files with names that are hard on shells, terminals and URLs, to those names.
func TestOddNames(t *testing.T) {
	t.Parallel()
	work := t.TempDir()
	names := []string{
		"two words", `quotes ' " and $HOME`, "new\nline", "tab\t and \r return", "\x1b[2Jescape\x07", "\u202egnp.exe", "\U0001f600 漢 ü",
		"-q", "--json", "-", "~", "*?[a]", "100%", "%2e%2e", "a#b3=c", "a?pin=b", "a;b&c=d", "C:x", "...", " ", "\x7f\u0085",
		strings.Repeat("x", 255), strings.Repeat("\U0001f600", 63),
	}
	for _, dir := range []string{"A", "B", "out", ".tmp"} {
		if err := os.Mkdir(filepath.Join(work, dir), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	for i, name := range names {
		if err := fillFile(filepath.Join(work, "A", name), 1000, byte(i)); err != nil {
			t.Skipf("the file system has no such names: %v", err)
		}
	}
	p, server := startTestServer(t, work, "--role", "primary", "--root", "A")
	for _, name := range names {
		at := url.URL{Scheme: "kwik", Path: "/" + name}
		host, query, _ := strings.Cut(strings.TrimPrefix(server, "kwik://"), "/")
		at.Host = host
		get, err := startProcess(filepath.Join(work, "out"), testEnv(work), nil, "get", at.String()+query)
		if err != nil {
			t.Fatal(err)
		}
		code, err := get.wait(patience)
		if err != nil {
			get.kill()
			t.Fatal(err)
		}
		stderr := get.stderr.String()
		if code != 0 || get.stdout.String() != "" {
			t.Errorf("%q: exit code %d, %q", name, code, stderr)
			continue
		}
		for line := range strings.Lines(stderr) {
			if escape.Line(line) != strings.TrimSuffix(line, "\n")+"; " || !strings.HasPrefix(line, "kwikcp: ") {
				t.Errorf("%q: stderr has %q", name, line)
			}
		}
		want, _ := os.ReadFile(filepath.Join(work, "A", name))
		if got, err := os.ReadFile(filepath.Join(work, "out", name)); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%q: %v", name, err)
		}
	}
	if entries, err := os.ReadDir(filepath.Join(work, "out")); err != nil || len(entries) != len(names) {
		t.Errorf("%d files in the end: %v, %v", len(entries), entries, err)
	}
	if text := p.stderr.String(); strings.ContainsAny(text, "\x1b\x07\u202e\u0085\r") {
		t.Errorf("the server's log has control characters: %q", text)
	}
}
