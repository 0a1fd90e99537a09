package attack

import (
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// patience bounds each wait for something that should happen soon.
const patience = 30 * time.Second

// isLong selects the long form of the attacks.
var isLong = os.Getenv("KWIKCP_ATTACK") == "long"

// scale returns the size of an attack in its short or its long form.
func scale(short, long int) int {
	if isLong {
		return long
	}
	return short
}

// binary is the program under test.
var binary string

func TestMain(m *testing.M) { os.Exit(buildAndRun(m)) }

func buildAndRun(m *testing.M) int {
	dir, err := os.MkdirTemp("", "attack")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	binary = filepath.Join(dir, "kwikcp")
	build := exec.Command("go", "build", "-o", binary, "../../..")
	build.Stderr = os.Stderr
	if err := build.Run(); err != nil {
		fmt.Fprintln(os.Stderr, "build the program:", err)
		return 1
	}
	return m.Run()
}

// A server is a process of the program that serves a directory.
type server struct {
	t     *testing.T
	cmd   *exec.Cmd
	dir   string // holds root and the state of server and clients
	root  string
	url   string // of the root directory
	addr  netip.AddrPort
	log   logBuffer
	ended chan struct{} // closed when the process has ended
}

// A logBuffer is a process's stderr.
type logBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}

// newServer returns a server that has not been started. Its root is an empty directory.
func newServer(t *testing.T) *server {
	dir := t.TempDir()
	s := &server{t: t, dir: dir, root: filepath.Join(dir, "root"), ended: make(chan struct{})}
	if err := os.Mkdir(s.root, 0o755); err != nil {
		t.Fatal(err)
	}
	return s
}

// fill makes a file with random bytes in the root.
func (s *server) fill(name string, size int64) {
	s.t.Helper()
	f, err := os.Create(filepath.Join(s.root, name))
	if err != nil {
		s.t.Fatal(err)
	}
	defer f.Close()
	if _, err := io.CopyN(f, rand.NewChaCha8([32]byte{1}), size); err != nil {
		s.t.Fatal(err)
	}
}

// start starts the process with further arguments, and kills it at the end of the test. The shell
// sets limits before it becomes the process; they may be "".
func (s *server) start(limits string, args ...string) {
	s.t.Helper()
	words := append([]string{"-c", limits + "\nexec \"$0\" \"$@\"", binary, "serve", "--role", "primary",
		"--root", s.root, "--listen", "127.0.0.1:0"}, args...)
	s.cmd = exec.Command("sh", words...)
	s.cmd.Env = s.environment("server")
	s.cmd.Stderr = &s.log
	stdout, err := s.cmd.StdoutPipe()
	if err != nil {
		s.t.Fatal(err)
	}
	if err := s.cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	line := make(chan string, 1)
	go func() { // ends with the process, which the cleanup kills and waits for
		defer close(s.ended)
		buf := make([]byte, 4096)
		n, _ := stdout.Read(buf)
		line <- string(buf[:n])
		io.Copy(io.Discard, stdout)
		s.cmd.Wait()
	}()
	s.t.Cleanup(func() {
		s.cmd.Process.Kill()
		<-s.ended
	})
	select {
	case s.url = <-line:
	case <-time.After(patience):
	}
	s.url = strings.TrimSpace(s.url)
	host, _, _ := strings.Cut(strings.TrimPrefix(s.url, "kwik://"), "/")
	if s.addr, err = netip.ParseAddrPort(host); err != nil {
		s.t.Fatalf("the server printed %q and logged:\n%s", s.url, &s.log)
	}
}

// environment returns the environment of a process with its own state.
func (s *server) environment(name string) []string {
	home := filepath.Join(s.dir, name)
	return []string{"PATH=" + os.Getenv("PATH"), "HOME=" + home, "XDG_STATE_HOME=" + home}
}

// urlOf returns the URL of a path below the root.
func (s *server) urlOf(path string) string { return strings.Replace(s.url, "/?", "/"+path+"?", 1) }

// A result is the end of an honest client.
type result struct {
	took time.Duration
	code int
	text string // its stderr
}

// get runs an honest get of a file.
func (s *server) get(path string, args ...string) result {
	s.t.Helper()
	out := filepath.Join(s.t.TempDir(), "out")
	cmd := exec.Command(binary, append([]string{"get", "-q", s.urlOf(path), out}, args...)...)
	cmd.Env = s.environment("client")
	start := time.Now()
	text, err := cmd.CombinedOutput()
	if _, isExit := err.(*exec.ExitError); err != nil && !isExit {
		s.t.Fatal(err)
	}
	os.Remove(out)
	return result{took: time.Since(start), code: cmd.ProcessState.ExitCode(), text: string(text)}
}

// mustGet is get for a client that must succeed.
func (s *server) mustGet(path string, args ...string) time.Duration {
	s.t.Helper()
	r := s.get(path, args...)
	if r.code != 0 {
		s.t.Fatalf("an honest get of %q ended with exit code %d after %v: %s", path, r.code, r.took, r.text)
	}
	return r.took
}

// startGet starts an honest get of a file into dir, slowly, and waits until its part file has
// a size. The client then knows which version it fetches.
func (s *server) startGet(path, dir string) *exec.Cmd {
	s.t.Helper()
	cmd := exec.Command(binary, "get", "-q", "--limit-rate", "2M", s.urlOf(path), filepath.Join(dir, path))
	cmd.Env = s.environment("client")
	if err := cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { cmd.Process.Kill() })
	for start := time.Now(); ; time.Sleep(5 * time.Millisecond) {
		parts, _ := filepath.Glob(filepath.Join(dir, ".kwikcp-*"))
		if len(parts) > 0 {
			if info, err := os.Stat(parts[0]); err == nil && info.Size() > 0 {
				return cmd
			}
		}
		if time.Since(start) > patience {
			s.t.Fatal("the get has no part file")
		}
	}
}

// isAlive reports whether the process runs.
func (s *server) isAlive() bool {
	select {
	case <-s.ended:
		return false
	default:
		return true
	}
}

// A usage is what a process uses.
type usage struct {
	rss, peak   int64 // bytes of memory
	cpu         time.Duration
	descriptors int
}

func (u usage) String() string {
	return fmt.Sprintf("RSS %d MiB, at most %d MiB; CPU %.2f s; %d descriptors",
		u.rss>>20, u.peak>>20, u.cpu.Seconds(), u.descriptors)
}

// usage measures the server's process.
func (s *server) usage() (u usage) {
	s.t.Helper()
	if !s.isAlive() {
		s.t.Fatalf("the server has ended:\n%s", s.tailOfLog())
	}
	proc := fmt.Sprintf("/proc/%d/", s.cmd.Process.Pid)
	status, err := os.ReadFile(proc + "status")
	if err != nil {
		s.t.Fatal(err)
	}
	for line := range strings.Lines(string(status)) {
		key, value, _ := strings.Cut(line, ":")
		kib, _ := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(value), " kB"), 10, 64)
		switch key {
		case "VmRSS":
			u.rss = kib << 10
		case "VmHWM":
			u.peak = kib << 10
		}
	}
	stat, err := os.ReadFile(proc + "stat")
	if err != nil {
		s.t.Fatal(err)
	}
	_, after, _ := strings.Cut(string(stat), ") ") // the name of the program may have blanks
	fields := strings.Fields(after)
	const utime, stime, tick = 11, 12, 10 * time.Millisecond // proc_pid_stat(5), counted from the state
	user, _ := strconv.Atoi(fields[utime])
	system, _ := strconv.Atoi(fields[stime])
	u.cpu = time.Duration(user+system) * tick
	descriptors, err := os.ReadDir(proc + "fd")
	if err != nil {
		s.t.Fatal(err)
	}
	u.descriptors = len(descriptors)
	return u
}

// watch logs the server's usage at an interval until the test calls the returned function, which
// returns the last usage.
func (s *server) watch(what string, interval time.Duration) (stop func() usage) {
	done := make(chan struct{})
	var wg sync.WaitGroup
	start := time.Now()
	wg.Go(func() {
		ticker := time.NewTicker(interval)
		defer ticker.Stop()
		for {
			select {
			case <-done:
				return
			case <-ticker.C:
				if s.isAlive() {
					s.t.Logf("%s: %4.1f s: %v", what, time.Since(start).Seconds(), s.usage())
				}
			}
		}
	})
	return sync.OnceValue(func() usage {
		close(done)
		wg.Wait()
		u := s.usage()
		s.t.Logf("%s: %4.1f s, end: %v", what, time.Since(start).Seconds(), u)
		return u
	})
}

// tailOfLog returns the last lines of the server's log.
func (s *server) tailOfLog() string {
	text := s.log.String()
	return text[max(0, len(text)-4000):]
}

// countLog returns how many lines of the server's log contain a text.
func (s *server) countLog(text string) (lines int) {
	for line := range strings.Lines(s.log.String()) {
		if strings.Contains(line, text) {
			lines++
		}
	}
	return lines
}

// awaitLog waits until a text is in the server's log.
func (s *server) awaitLog(text string) {
	s.t.Helper()
	for start := time.Now(); s.countLog(text) == 0; time.Sleep(5 * time.Millisecond) {
		if time.Since(start) > patience {
			s.t.Fatalf("the server does not log %q:\n%s", text, s.tailOfLog())
		}
	}
}
