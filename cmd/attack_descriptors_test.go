//go:build unix

package cmd

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// A runResult is how a kwikcp ended.
type runResult struct {
	code   int
	stderr string
}

// runToEnd runs kwikcp in a directory until it ends, at most for patience.
func runToEnd(t *testing.T, dir string, args ...string) runResult {
	t.Helper()
	p, err := startProcess(dir, append(os.Environ(), "XDG_STATE_HOME="+dir), nil, args...)
	if err != nil {
		t.Fatal(err)
	}
	defer p.kill()
	code, err := p.wait(patience)
	if err != nil {
		t.Fatalf("kwikcp %v: %v", args, err)
	}
	text, _ := p.stderr.look()
	return runResult{code, text}
}

// TestAttackDescriptors lets one client request more files than a server may have open, which is
// 48. The server has half of them open for clients at most. Another client is served, or told that
// the server is busy, with the exit code of a network failure. It is not told that its file is
// missing. When the first client is gone, the file is there.
func TestAttackDescriptors(t *testing.T) {
	const files = 64
	dir := t.TempDir()
	root := filepath.Join(dir, "root")
	if err := os.Mkdir(root, 0o755); err != nil {
		t.Fatal(err)
	}
	content := bytes.Repeat([]byte("0123456789abcdef"), 1<<14)
	names := []string{"honest", "honest2"}
	for i := range files {
		names = append(names, fmt.Sprintf("f%d", i))
	}
	for _, name := range names {
		if err := os.WriteFile(filepath.Join(root, name), content, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	const serve = "ulimit -n 48 && exec kwikcp serve --role primary --root root --listen 127.0.0.1:0"
	server := &process{cmd: exec.Command("sh", "-c", serve),
		stdout: newOutput(), stderr: newOutput(), done: make(chan struct{})}
	server.cmd.Dir, server.cmd.Stdout, server.cmd.Stderr = dir, server.stdout, server.stderr
	server.cmd.Env = append(os.Environ(), "XDG_STATE_HOME="+filepath.Join(dir, "state"))
	if err := server.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() { // ends with the process, which the test kills
		server.cmd.Wait()
		close(server.done)
	}()
	defer server.kill()
	url, err := server.await(`^(kwik://\S+)$`)
	if err != nil {
		t.Fatal(err)
	}
	base, query, _ := strings.Cut(url, "/?")
	urlOf := func(name string) string { return base + "/" + name + "?" + query }

	var list strings.Builder
	for i := range files {
		fmt.Fprintf(&list, "%s\tgot%d\n", urlOf(fmt.Sprintf("f%d", i)), i)
	}
	if err := os.WriteFile(filepath.Join(dir, "list"), []byte(list.String()), 0o644); err != nil {
		t.Fatal(err)
	}
	hog, err := startProcess(dir, append(os.Environ(), "XDG_STATE_HOME="+dir), nil,
		"get", "-i", "list", "-j", fmt.Sprint(files), "--limit-rate", "1K", "--retry", "100", "--retry-delay", "1")
	if err != nil {
		t.Fatal(err)
	}
	defer hog.kill()
	if _, err := hog.await(`retry 1 of`); err != nil {
		t.Fatal(err)
	}
	for range 10 {
		beside := runToEnd(t, dir, "get", urlOf("honest"), "out")
		os.Remove(filepath.Join(dir, "out"))
		isBusy := beside.code == exitNetwork &&
			strings.Contains(beside.stderr, "the server is busy (hint: try again later)")
		if beside.code != exitOK && !isBusy {
			t.Errorf("beside it, get ends with %d: %s", beside.code, beside.stderr)
		}
	}
	tree := runToEnd(t, dir, "get", "-r", base+"/?"+query, "tree")
	if tree.code == exitNotFound || strings.Contains(tree.stderr, "no such file") {
		t.Errorf("beside it, get -r ends with %d: %s", tree.code, tree.stderr)
	}
	if ls := runToEnd(t, dir, "ls", base+"/?"+query); ls.code != exitNetwork && ls.code != exitOK {
		t.Errorf("beside it, ls ends with %d: %s", ls.code, ls.stderr)
	}
	hog.signal(syscall.SIGTERM) // it closes its session; a killed client counts for half a minute more
	if _, err := hog.wait(patience); err != nil {
		t.Fatal(err)
	}
	if r := runToEnd(t, dir, "get", "--retry", "8", "--retry-delay", "1", urlOf("honest2"), "out"); r.code != 0 {
		t.Errorf("after it, get ends with %d: %s", r.code, r.stderr)
	}
}
