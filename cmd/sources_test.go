//go:build unix

package cmd

import (
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// Web servers and buckets that are named wrongly end a command with one line, which has a hint and
// no secret.
func TestBadSources(t *testing.T) {
	work := t.TempDir()
	web := httptest.NewServer(http.NotFoundHandler())
	web.Close() // its port is closed
	httpsURL := strings.Replace(web.URL, "http", "https", 1)
	const file = "kwik://127.0.0.1:1/f"
	get := func(args ...string) []string { return append([]string{"get"}, args...) }
	primary := func(args ...string) []string {
		return append([]string{"serve", "--role", "primary", "--listen", "127.0.0.1:0"}, args...)
	}
	for _, tt := range []struct {
		args []string
		code int
		want []string
	}{
		{get("--web-mirror", "s3://b/f", file), exitUsage, []string{"not an http or https URL", "hint: a mirror is"}},
		{get("--web-mirror", "https://h:65536/f", file), exitUsage, []string{"its port is not 1 to 65535"}},
		{get("--web-mirror", "https://u:hunter2@h/f", file), exitUsage, []string{"netrc"}},
		{get("-r", "--web-mirror", "https://h/f", file), exitUsage, []string{"has no {path}", "hint: write {path}"}},
		{get("--metalink", "ftp://h/f"), exitUsage, []string{"not an http or https URL", "hint"}},
		{get("--metalink", "s3://b/f"), exitUsage, []string{"not an http or https URL", "hint"}},
		{get("--metalink", httpsURL+"/f"), exitNetwork, []string{"the port is closed", "hint: check the URL"}},
		{primary("--root", "ftp://h/d"), exitUsage, []string{`"ftp" is not https or s3`, "hint: --root DIR"}},
		{primary("--root", "S3://bucket"), exitUsage, []string{`"s3"`, "in lower case"}},
		{primary("--root", "http://h/d"), exitUsage, []string{"not https", "hint: --insecure-http-root"}},
		{primary("--root", "https://u:hunter2@h/d"), exitUsage, []string{"must not contain a user"}},
		{primary("--root", "https://h/d?sig=hunter2"), exitUsage, []string{"must not contain a query"}},
		{primary("--root", "https://h:0/d"), exitUsage, []string{"its port"}},
		{primary("--root", httpsURL+"/d"), exitNetwork, []string{"the port is closed", "hint: is the web server"}},
		{primary("--web-mirror", "https://h/{path},65536"), exitUsage, []string{`the priority "65536"`, ",1;"}},
		{primary("--web-mirror", "https://h/{path},-1"), exitUsage, []string{`the priority "-1"`}},
		{primary("--web-mirror", "https://h/{path},"), exitUsage, []string{`the priority ""`}},
	} {
		c := exec.Command("kwikcp", tt.args...)
		c.Dir, c.Env = work, testEnv(work)
		out, _ := c.CombinedOutput()
		message := ""
		errorLines := 0
		for line := range strings.Lines(string(out)) {
			if strings.HasPrefix(line, "kwikcp: error: ") {
				message = line
				errorLines++
			}
		}
		if c.ProcessState.ExitCode() != tt.code || errorLines != 1 || strings.Contains(string(out), "hunter2") {
			t.Errorf("%q: exit %d, not %d\n%s", tt.args, c.ProcessState.ExitCode(), tt.code, out)
		}
		for _, want := range tt.want {
			if !strings.Contains(message, want) {
				t.Errorf("%q: %q is not in %q", tt.args, want, message)
			}
		}
	}
}

// The directories of a web server have no time, and get -r sets none. Names that no file system can
// hold are left out.
func TestWebRootDirectories(t *testing.T) {
	work := t.TempDir()
	modified := time.Date(2020, 1, 2, 3, 4, 5, 0, time.UTC)
	web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		http.ServeContent(w, r, "", modified, strings.NewReader("content"))
	}))
	defer web.Close()
	index := "d/e/f\nd//g\n../h\nd/e/f/i\nd/j\n"
	if err := os.WriteFile(filepath.Join(work, "index"), []byte(index), 0o600); err != nil {
		t.Fatal(err)
	}
	_, url := startTestServer(t, work, "--role", "primary", "--root", web.URL, "--insecure-http-root",
		"--index", "index")
	before := time.Now().Add(-time.Minute)
	run := func(args ...string) string {
		c := exec.Command("kwikcp", args...)
		c.Dir, c.Env = work, testEnv(work)
		out, err := c.CombinedOutput()
		if err != nil {
			t.Fatalf("%q: %v\n%s", args, err, out)
		}
		return string(out)
	}
	run("get", "-r", url, "tree")
	for _, name := range []string{"tree", "tree/d", "tree/d/e", "tree/d/e/f"} {
		info, err := os.Stat(filepath.Join(work, name))
		if err != nil || !info.IsDir() || info.ModTime().Before(before) {
			t.Errorf("%s: %v, %v", name, info, err)
		}
	}
	info, err := os.Stat(filepath.Join(work, "tree/d/j"))
	if err != nil || !info.ModTime().Equal(modified) {
		t.Errorf("the file: %v, %v", info, err)
	}
	if text := run("ls", "-R", url); strings.Contains(text, "1970") || !strings.Contains(text, "  -       ") {
		t.Errorf("ls: %s", text)
	}
	if text := run("ls", "--json", url); strings.Contains(text, "mtime") || !strings.Contains(text, `"path":"d"`) {
		t.Errorf("ls --json: %s", text)
	}
}
