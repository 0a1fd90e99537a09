//go:build unix

package cmd

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"regexp"
	"sync"
	"syscall"
	"testing"
	"time"
)

// patience bounds every wait of a test for something that should happen soon.
const patience = 30 * time.Second

// A process is a kwikcp that runs in the background.
type process struct {
	cmd            *exec.Cmd
	stdout, stderr *output
	done           chan struct{} // closed when the process has ended
	signalled      time.Time     // when it was last sent a signal
	ended          time.Time     // valid when done is closed
}

// startProcess starts kwikcp. Where pty is set it is stdin and stderr.
func startProcess(dir string, env []string, pty *os.File, args ...string) (*process, error) {
	p := newProcess(dir, env, args...)
	if pty != nil {
		p.cmd.Stdin, p.cmd.Stderr = pty, pty
	}
	return p, p.start()
}

// newProcess returns a process that is not started yet.
func newProcess(dir string, env []string, args ...string) *process {
	return newCommand(dir, env, exec.Command("kwikcp", args...))
}

// newCommand is newProcess with a command that runs kwikcp.
func newCommand(dir string, env []string, cmd *exec.Cmd) *process {
	p := &process{cmd: cmd, stdout: newOutput(), stderr: newOutput(), done: make(chan struct{})}
	p.cmd.Dir, p.cmd.Env, p.cmd.Stdout, p.cmd.Stderr = dir, env, p.stdout, p.stderr
	return p
}

func (p *process) start() error {
	if err := p.cmd.Start(); err != nil {
		return err
	}
	go func() { // ends with the process, which every user of start kills
		p.cmd.Wait()
		p.ended = time.Now()
		close(p.done)
	}()
	return nil
}

// kill ends the process for certain.
func (p *process) kill() {
	p.cmd.Process.Kill()
	<-p.done
}

func (p *process) signal(s syscall.Signal) error {
	p.signalled = time.Now()
	return p.cmd.Process.Signal(s)
}

// wait waits for the end and returns the exit code, 128 plus the signal if one killed the process.
func (p *process) wait(limit time.Duration) (int, error) {
	select {
	case <-p.done:
	case <-time.After(limit):
		return 0, fmt.Errorf("still running after %v", limit)
	}
	if status, ok := p.cmd.ProcessState.Sys().(syscall.WaitStatus); ok && status.Signaled() {
		return 128 + int(status.Signal()), nil
	}
	return p.cmd.ProcessState.ExitCode(), nil
}

// await waits until stdout or stderr matches, and returns the first group of the match.
func (p *process) await(pattern string) (string, error) {
	re, err := regexp.Compile("(?m)" + pattern)
	if err != nil {
		return "", err
	}
	deadline := time.After(patience)
	for over := false; ; {
		outText, outGrown := p.stdout.look()
		errText, errGrown := p.stderr.look()
		for _, text := range []string{outText, errText} {
			if m := re.FindStringSubmatch(text); m != nil {
				return m[len(m)-1], nil
			}
		}
		if over {
			return "", fmt.Errorf("no %q in\n%s%s", pattern, outText, errText)
		}
		select {
		case <-outGrown:
		case <-errGrown:
		case <-p.done:
			over = true // after one more look
		case <-deadline:
			over = true
		}
	}
}

// An output is what a process has written so far.
type output struct {
	mu    sync.Mutex
	buf   bytes.Buffer
	grown chan struct{} // closed and replaced at each write
}

func newOutput() *output { return &output{grown: make(chan struct{})} }

func (o *output) Write(b []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	close(o.grown)
	o.grown = make(chan struct{})
	return o.buf.Write(b)
}

func (o *output) look() (text string, grown <-chan struct{}) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.String(), o.grown
}

func (o *output) String() string {
	text, _ := o.look()
	return text
}

// fillFile makes a file of pseudo-random bytes, the same for the same seed.
func fillFile(name string, size int64, seed byte) error {
	f, err := os.Create(name)
	if err != nil {
		return err
	}
	_, err = io.CopyN(f, newNoise(seed), size)
	return errors.Join(err, f.Close())
}

// testEnv is the environment of a kwikcp under test, whose home is below dir.
func testEnv(dir string) []string {
	return []string{
		"PATH=" + os.Getenv("PATH"), "HOME=" + dir + "/.home", "XDG_STATE_HOME=" + dir + "/.state", "TMPDIR=" + dir + "/.tmp",
		"TERM=xterm", schemaVariable + "=" + schemaPath(), noRaceDelay, "GOCOVERDIR=" + os.Getenv("GOCOVERDIR"),
	}
}

// noRaceDelay keeps the race detector from sleeping for a second at the end of each process.
const noRaceDelay = "GORACE=atexit_sleep_ms=0"

// startTestServer starts a server of dir for a test, and returns it with its URL.
func startTestServer(t *testing.T, work string, args ...string) (*process, string) {
	t.Helper()
	args = append([]string{"serve", "--listen", "127.0.0.1:0"}, args...)
	p, err := startProcess(work, testEnv(work), nil, args...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.kill)
	url, err := p.await(`^(kwik://\S+)\n`)
	if err != nil {
		t.Fatal(err)
	}
	return p, url
}
