//go:build unix

package cmd

import (
	"bytes"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestIgnoredSignals checks that signals that a shell ignored, as nohup does, stay ignored.
func TestIgnoredSignals(t *testing.T) {
	t.Parallel()
	work := terminalWork(t)
	p := &process{stdout: newOutput(), stderr: newOutput(), done: make(chan struct{})}
	p.cmd = exec.Command("sh", "-c", `trap "" INT HUP; exec kwikcp serve --role primary --root A --listen 127.0.0.1:0`)
	p.cmd.Dir, p.cmd.Env, p.cmd.Stdout, p.cmd.Stderr = work, testEnv(work), p.stdout, p.stderr
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() { // ends with the process, which the test kills
		p.cmd.Wait()
		close(p.done)
	}()
	t.Cleanup(p.kill)
	waitFor(t, func() bool { return strings.Contains(p.stdout.String(), "kwik://") })
	for _, s := range []syscall.Signal{syscall.SIGINT, syscall.SIGHUP} {
		if err := p.signal(s); err != nil {
			t.Fatal(err)
		}
	}
	url := strings.Replace(strings.TrimSpace(p.stdout.String()), "/?", "/f?", 1)
	get := exec.Command("kwikcp", "get", "-q", url, "out/f")
	get.Dir, get.Env = work, testEnv(work)
	if text, err := get.CombinedOutput(); err != nil {
		t.Errorf("after the signals: %v, %s", err, text)
	}
	if err := p.signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if code, err := p.wait(patience); err != nil || code != 0 {
		t.Errorf("after SIGTERM: exit code %d, %v", code, err)
	}
}

func waitFor(t *testing.T, is func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !is(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("nothing happened")
		}
	}
}

// TestBarOfAJob checks that a get draws nothing while it runs in the background of a shell. After
// fg it draws, and erases nothing that the shell printed.
func TestBarOfAJob(t *testing.T) {
	t.Parallel()
	work := terminalWork(t)
	_, primary := startTestServer(t, work, "--role", "primary", "--root", "A")
	url := strings.Replace(primary, "/?", "/f?", 1)
	control, terminal := openPTY(t, 80)
	// The first get is stopped and goes on in the background. The second one is moved to the
	// foreground.
	const script = `kwikcp get --limit-rate 2M --json "$0" out/f >events & p=$!
until grep -q '"bytes":[1-9]' events; do sleep 0.01; done
kill -STOP $p; kill -CONT $p; kill $p; wait; echo background
kwikcp get --limit-rate 2M "$0" out/g & p=$!
until ls out/.kwikcp-* >/dev/null 2>&1; do sleep 0.01; done; sleep 0.5; echo foreground
fg >/dev/null`
	shell := exec.Command("bash", "--norc", "-m", "-c", script, url)
	shell.Dir, shell.Env = work, append(testEnv(work), "TERM=xterm")
	shell.Stdin, shell.Stdout, shell.Stderr = terminal, terminal, terminal
	shell.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	if err := shell.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { shell.Process.Kill() })
	terminal.Close()
	text := readAll(control)
	if err := shell.Wait(); err != nil {
		t.Errorf("%v: %q", err, text)
	}
	before, after, ok := strings.Cut(text, "foreground")
	if !ok || strings.Contains(before, "\x1b[") || strings.Contains(before, "%") {
		t.Errorf("in the background it draws: %q", before)
	}
	drawn, erased := strings.Index(after, "%"), strings.Index(after, "\x1b[J")
	if drawn < 0 || erased >= 0 && erased < drawn {
		t.Errorf("after fg it draws nothing, or erases first: %q", after)
	}
}

// readAll reads from a terminal until no process has it open.
func readAll(control *os.File) string {
	var text bytes.Buffer
	text.ReadFrom(control) // ends with EIO
	return text.String()
}
