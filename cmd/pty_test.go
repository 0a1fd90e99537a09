//go:build unix

package cmd

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/creack/pty"
)

// openPTY returns the two ends of a pseudo-terminal of so many columns.
func openPTY(t *testing.T, columns int) (control, terminal *os.File) {
	t.Helper()
	control, terminal, err := pty.Open()
	if err != nil {
		t.Skip("no pseudo-terminals: ", err)
	}
	t.Cleanup(func() {
		control.Close()
		terminal.Close()
	})
	if err := pty.Setsize(control, &pty.Winsize{Rows: screenRows, Cols: uint16(columns)}); err != nil {
		t.Fatal(err)
	}
	return control, terminal
}

// onTerminal runs kwikcp with a terminal as stderr, and as stdin too. It calls answer with what was
// written so far, after each write, until that returns something to type. It returns the exit code
// and what was written.
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

// checkDrawings checks that text draws within the width of a terminal and erases every drawing. It
// returns the text after the last erasure.
func checkDrawings(t *testing.T, columns int, text string) (last string) {
	t.Helper()
	s := newScreen(columns)
	drawings := strings.SplitAfter(text, "\x1b[J")
	last = drawings[len(drawings)-1]
	if len(drawings) < 2 {
		t.Errorf("%d columns: no drawing was erased: %q", columns, text)
	}
	for _, drawing := range drawings[:len(drawings)-1] {
		s.Write([]byte(drawing))
	}
	if left := s.String(); s.full || left != "" {
		t.Errorf("%d columns: full %v, left %q, after %q", columns, s.full, left, text)
	}
	if strange := s.strange(); strange != "" {
		t.Errorf("%d columns: strange %s in %q", columns, strange, text)
	}
	return last
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
		if code != 0 {
			t.Errorf("%d columns: exit code %d", columns, code)
		}
		checkDrawings(t, columns, text)
		for _, want := range []string{"[", "%", "127.0.0.1:"} {
			if !strings.Contains(text, want) {
				t.Errorf("%d columns: no %q in %q", columns, want, text)
			}
		}
		s := newScreen(columns)
		s.Write([]byte(text))
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

// TestMirrorBar checks the display of get -r: a bar, the number of files, a line per server, and
// the last line when it is done. No line is too wide.
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
		if code != 0 {
			t.Errorf("%d columns: exit code %d", columns, code)
		}
		last := checkDrawings(t, columns, text)
		for _, want := range []string{"% [", " of 2 files", "127.0.0.1:"} {
			if !strings.Contains(text, want) {
				t.Errorf("%d columns: no %q in %q", columns, want, text)
			}
		}
		if !strings.HasPrefix(last, `kwikcp: "`+target+`" mirrored: 2 files, 4.1 MiB; 2 fetched`) {
			t.Errorf("%d columns: the last line is %q", columns, last)
		}
		code, text = onTerminal(t, work, columns, silent, "get", "-r", "-q", primary, target)
		if code != 0 || text != "" {
			t.Errorf("quiet: exit code %d, %q", code, text)
		}
	}
}

// TestPlainTerminal checks that a terminal that says it is dumb gets plain lines, and that NO_COLOR
// gets no colours; the bar has none.
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

// TestAsked checks the question about a server that is not known: yes is remembered, no is an
// error.
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
