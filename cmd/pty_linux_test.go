package cmd

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// openPTY returns the two ends of a pseudo-terminal of so many columns.
func openPTY(t *testing.T, columns int) (control, terminal *os.File) {
	t.Helper()
	control, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Skip("no pseudo-terminals: ", err)
	}
	t.Cleanup(func() { control.Close() })
	conn, err := control.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	number := 0
	conn.Control(func(fd uintptr) {
		if err = unix.IoctlSetPointerInt(int(fd), unix.TIOCSPTLCK, 0); err == nil {
			number, err = unix.IoctlGetInt(int(fd), unix.TIOCGPTN)
		}
		if err == nil {
			err = unix.IoctlSetWinsize(int(fd), unix.TIOCSWINSZ, &unix.Winsize{Row: 24, Col: uint16(columns)})
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	terminal, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", number), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { terminal.Close() })
	return control, terminal
}

// onTerminal runs kwikcp with a terminal as stderr, and as stdin too. It calls answer with what was written so far, after
// each write, until that returns something to type. It returns the exit code and what was written.
func onTerminal(t *testing.T, work string, columns int, answer func(string) string, args ...string) (int, string) {
	t.Helper()
	return onTerminalWith(t, work, columns, "TERM=xterm", answer, args...)
}

// onTerminalWith is onTerminal with a variable in the environment.
func onTerminalWith(t *testing.T, work string, columns int, variable string, answer func(string) string, args ...string) (int, string) {
	t.Helper()
	control, terminal := openPTY(t, columns)
	p, err := startProcess(work, append(testEnv(work), variable), terminal, args...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.kill)
	terminal.Close() // the process has its own; when it ends, reading ends
	var text strings.Builder
	buf := make([]byte, 4096)
	for {
		n, err := control.Read(buf)
		text.Write(buf[:n])
		if err != nil {
			break
		}
		if typed := answer(text.String()); typed != "" {
			if _, err := control.WriteString(typed); err != nil {
				t.Fatal(err)
			}
			answer = func(string) string { return "" }
		}
	}
	code, err := p.wait(patience)
	if err != nil {
		t.Fatal(err)
	}
	return code, text.String()
}

func silent(string) string { return "" }

// terminalWork makes a work directory with a file to serve.
func terminalWork(t *testing.T) string {
	work := t.TempDir()
	for _, dir := range []string{"A", "out", ".tmp"} {
		if err := os.Mkdir(filepath.Join(work, dir), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if err := fillFile(filepath.Join(work, "A", "f"), 4<<20, 1); err != nil {
		t.Fatal(err)
	}
	return work
}

// TestBar checks that the bar and a line per server are drawn, and are gone at the end.
func TestBar(t *testing.T) {
	t.Parallel()
	work := terminalWork(t)
	_, primary := startTestServer(t, work, "--role", "primary", "--root", "A")
	startTestServer(t, work, "--role", "secondary", "--root", "A", "--primary", primary)
	url := strings.Replace(primary, "/?", "/f?", 1)
	for _, columns := range []int{40, 80} {
		os.Remove(filepath.Join(work, "out", "f")) // or it would be up to date
		code, text := onTerminal(t, work, columns, silent, "get", url, "out/f")
		s := newScreen(columns)
		erased := false
		for i := range len(text) { // text is ASCII
			s.Write([]byte{text[i]})
			if strings.HasSuffix(text[:i+1], "\x1b[J") {
				erased = true
				if s.wrapped {
					t.Errorf("%d columns: the drawing was too wide:\n%q", columns, text)
				}
			}
		}
		if code != 0 || !erased || s.strange != "" {
			t.Errorf("%d columns: exit code %d, strange %q, %q", columns, code, s.strange, text)
		}
		for _, want := range []string{"[", "%", "127.0.0.1:"} {
			if !strings.Contains(text, want) {
				t.Errorf("%d columns: no %q in %q", columns, want, text)
			}
		}
		left := strings.ReplaceAll(s.String(), "\n", "")
		if !strings.HasPrefix(left, `kwikcp: "out/f": 4.0 MiB in `) || strings.Contains(left, "127.0.0.1") {
			t.Errorf("%d columns: left on the screen:\n%s", columns, s)
		}
		code, text = onTerminal(t, work, columns, silent, "get", "-q", url, "out/f")
		if code != 0 || text != "" {
			t.Errorf("quiet: exit code %d, %q", code, text)
		}
	}
}

// TestMirrorBar checks what get -r draws: a bar, how many files, a line per server, nothing too wide, and the last line when it is done.
func TestMirrorBar(t *testing.T) {
	t.Parallel()
	work := terminalWork(t)
	if err := fillFile(filepath.Join(work, "A", "g"), 100<<10, 2); err != nil {
		t.Fatal(err)
	}
	_, primary := startTestServer(t, work, "--role", "primary", "--root", "A")
	for _, columns := range []int{40, 80, 200} {
		target := fmt.Sprint("mirror", columns)
		code, text := onTerminal(t, work, columns, silent, "get", "-r", "--limit-rate", "8M", primary, target)
		s := newScreen(columns)
		drawings := strings.SplitAfter(text, "\x1b[J")
		for _, drawing := range drawings[:len(drawings)-1] { // what is behind the last erasure is the line that stays
			s.Write([]byte(drawing))
		}
		if code != 0 || len(drawings) < 2 || s.wrapped || s.strange != "" || s.String() != "" {
			t.Errorf("%d columns: exit code %d, %d drawings, wrapped %v, strange %q, %q", columns, code, len(drawings)-1, s.wrapped, s.strange, text)
		}
		for _, want := range []string{"% [", " of 2 files", "127.0.0.1:"} {
			if !strings.Contains(text, want) {
				t.Errorf("%d columns: no %q in %q", columns, want, text)
			}
		}
		if left := drawings[len(drawings)-1]; !strings.HasPrefix(left, `kwikcp: "`+target+`" mirrored: 2 files, 4.1 MiB; 2 fetched`) {
			t.Errorf("%d columns: left %q", columns, left)
		}
		code, text = onTerminal(t, work, columns, silent, "get", "-r", "-q", primary, target)
		if code != 0 || text != "" {
			t.Errorf("quiet: exit code %d, %q", code, text)
		}
	}
}

// TestPlainTerminal checks that a terminal that says it is dumb gets plain lines, and that NO_COLOR gets no colours; the bar has none.
func TestPlainTerminal(t *testing.T) {
	t.Parallel()
	work := terminalWork(t)
	_, primary := startTestServer(t, work, "--role", "primary", "--root", "A")
	file := strings.Replace(primary, "/?", "/f?", 1)
	for _, args := range [][]string{
		{"get", "--limit-rate", "8M", file, "out/f"}, {"get", "-r", "--limit-rate", "8M", primary, "mirror"}, {"get", file + "x", "out/x"},
		{"get", "-r", file, "x"}, {"get", "--help"}, {"no-such-command"},
	} {
		_, text := onTerminalWith(t, work, 80, "TERM=dumb", silent, args...)
		for _, r := range strings.ReplaceAll(text, "\r\n", "\n") { // the terminal adds \r
			if r != '\n' && r < ' ' || r >= 0x7f {
				t.Errorf("%q writes %q to a dumb terminal: %q", args, r, text)
				break
			}
		}
		if args[0] == "get" && args[1] != "--help" && !strings.Contains(text, "kwikcp: ") {
			t.Errorf("%q writes nothing: %q", args, text)
		}
	}
	coloured := regexp.MustCompile("\x1b\\[[0-9;:]*m")
	for _, args := range [][]string{{"get", "--limit-rate", "8M", file, "out/g"}, {"get", "-r", "--limit-rate", "8M", primary, "coloured"}, {"get", file + "x", "out/x"}} {
		if _, text := onTerminalWith(t, work, 80, "NO_COLOR=1", silent, args...); coloured.MatchString(text) {
			t.Errorf("%q has colours: %q", args, text)
		}
	}
}

// TestAsked checks the question about a server that is not known: yes is remembered, no is an error.
func TestAsked(t *testing.T) {
	extern := outwardAddress()
	if extern.IsLoopback() {
		t.Skip("this machine has no address but loopback")
	}
	t.Parallel()
	work := terminalWork(t)
	_, primary := startTestServer(t, work, "--role", "primary", "--root", "A", "--listen", extern.String()+":0")
	url, _, _ := strings.Cut(primary, "?")
	asks := 0
	for _, step := range []struct {
		answer string
		asked  bool
		code   int
	}{{"n\n", true, 4}, {"\n", true, 4}, {"Yes\n", true, 0}, {"n\n", false, 0}} {
		answer := func(text string) string {
			if strings.Contains(text, "[y/N] ") {
				asks++
				return step.answer
			}
			return ""
		}
		before := asks
		code, text := onTerminal(t, work, 80, answer, "get", url+"f", "out/f")
		if code != step.code || (asks > before) != step.asked {
			t.Errorf("answer %q: exit code %d, %q", step.answer, code, text)
		}
		if _, err := os.Stat(filepath.Join(work, "out", "f")); (err == nil) != (code == 0) {
			t.Errorf("answer %q: %v", step.answer, err)
		}
	}
}
