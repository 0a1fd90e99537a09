package cmd

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// fullPipe returns a pipe that takes no further byte.
func fullPipe(t *testing.T) *os.File {
	t.Helper()
	unread, full, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unread.Close(); full.Close() })
	if _, err := unix.FcntlInt(full.Fd(), unix.F_SETPIPE_SZ, 4096); err != nil {
		t.Fatal(err)
	}
	if _, err := full.Write(make([]byte, 4096)); err != nil {
		t.Fatal(err)
	}
	return full
}

// startWith starts kwikcp with the given stdout and stderr. Nil is a pipe that is read.
func startWith(t *testing.T, work string, stdout, stderr *os.File, args ...string) *process {
	t.Helper()
	p := newProcess(work, testEnv(work), args...)
	if stdout != nil {
		p.cmd.Stdout = stdout
	}
	if stderr != nil {
		p.cmd.Stderr = stderr
	}
	if err := p.start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.kill)
	return p
}

// endsAfter sends a signal and checks the exit code, and that the end is not far.
func (p *process) endsAfter(t *testing.T, s syscall.Signal, want int) {
	t.Helper()
	if err := p.signal(s); err != nil {
		t.Fatal(err)
	}
	code, err := p.wait(patience)
	if err != nil {
		t.Fatal(err)
	}
	if took := p.ended.Sub(p.signalled); code != want || took > 2*time.Second {
		t.Errorf("exit code %d after %v, want %d", code, took, want)
	}
}

// awaitFile waits until a file has a size.
func awaitFile(t *testing.T, name string, size int64) {
	t.Helper()
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		if info, err := os.Stat(name); err == nil && info.Size() == size {
			return
		}
	}
	t.Fatalf("%q did not arrive", name)
}

// Output that is not read keeps servers from nothing: they serve, join, mirror and stop. A get
// still fetches its file, and ends on a signal.
func TestUnreadOutput(t *testing.T) {
	work := t.TempDir()
	for _, dir := range []string{"A", "B", "out"} {
		if err := os.Mkdir(filepath.Join(work, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	const size = 100_000
	if err := fillFile(filepath.Join(work, "A", "f"), size, 1); err != nil {
		t.Fatal(err)
	}
	primary := startWith(t, work, nil, fullPipe(t), "serve", "--role", "primary", "--root", "A",
		"--listen", "127.0.0.1:0", "--log-level", "debug")
	url, err := primary.await(`^(kwik://\S+)\n`)
	if err != nil {
		t.Fatal(err)
	}
	secondary := startWith(t, work, fullPipe(t), fullPipe(t), "serve", "--role", "secondary", "--root", "B",
		"--primary", url, "--mirror", "--listen", "127.0.0.1:0")
	awaitFile(t, filepath.Join(work, "B", "f"), size)

	get := startWith(t, work, nil, fullPipe(t), "get", strings.Replace(url, "/?", "/f?", 1), "out/f")
	awaitFile(t, filepath.Join(work, "out", "f"), size)
	get.endsAfter(t, syscall.SIGTERM, 0)
	secondary.endsAfter(t, syscall.SIGTERM, 0)
	primary.endsAfter(t, syscall.SIGINT, 0)
}

// No message gets into a file of a process whose standard descriptors are closed. Output that is
// lost has one message whatever the command, and an exit code by its cause.
func TestLostOutput(t *testing.T) {
	work := t.TempDir()
	if err := os.Mkdir(filepath.Join(work, "A"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := fillFile(filepath.Join(work, "A", "f"), 100_000, 1); err != nil {
		t.Fatal(err)
	}
	_, url := startTestServer(t, work, "--role", "primary", "--root", "A")
	file := strings.Replace(url, "/?", "/f?", 1)
	const wrongWay = "bad file descriptor (hint: it is not open"
	for _, c := range []struct {
		shell string
		code  int
		want  string
	}{
		{`kwikcp get "$FILE" f <&- >&- 2>&- && cmp f A/f`, 0, ""},
		{`kwikcp get "$FILE" - <&- 2>&- >g && cmp g A/f`, 0, ""},
		{`kwikcp ls "$URL" >/dev/full`, exitNoSpace, "kwikcp: error: write to stdout: no space left on device"},
		{`kwikcp ls --json "$URL" 1</dev/null`, exitLocal, "kwikcp: error: write to stdout: " + wrongWay},
		{`kwikcp sum A/f 1</dev/null`, exitLocal, "kwikcp: error: write to stdout: " + wrongWay},
		{`kwikcp get -q -i - 0>in`, exitLocal, `kwikcp: error: read the list "-": ` + wrongWay},
		{`kwikcp sum A/nothing 2>/dev/full`, exitNotFound, ""},
		{`(kwikcp serve --role primary --root A --listen :0; echo $? >code) 2>log | true; exit $(cat code)`, 141, ""},
	} {
		p := exec.Command("sh", "-c", c.shell)
		p.Dir, p.Env = work, append(testEnv(work), "URL="+url, "FILE="+file)
		text, err := p.CombinedOutput()
		if p.ProcessState == nil {
			t.Fatal(err)
		}
		isWanted := strings.HasPrefix(string(text), c.want) && (len(text) > 0) == (c.want != "")
		if code := p.ProcessState.ExitCode(); code != c.code || !isWanted {
			t.Errorf("%s: exit code %d, output %q; want %d, %q", c.shell, code, text, c.code, c.want)
		}
	}
}
