package cmd

import (
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/urfave/cli/v2"
)

func testApp() *cli.App { return newApp(&terminal{stdout: io.Discard, stderr: io.Discard}) }

func readDoc(t *testing.T, name string) string {
	t.Helper()
	text, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// Every option can be set in the environment, under the name that follows from its own.
func TestVariablesOfOptions(t *testing.T) {
	for _, c := range testApp().Commands {
		for _, f := range visibleFlags(c) {
			want := "KWIKCP_" + strings.ToUpper(strings.ReplaceAll(strings.TrimPrefix(f.names[0], "--"), "-", "_"))
			if f.env != want {
				t.Errorf("%s %s: %q, want %q", c.Name, f.names[0], f.env, want)
			}
		}
	}
}

// The exit codes that a command's help names are those of the table.
func TestExitHelp(t *testing.T) {
	help := exitHelp(append([]int{exitNotFound}, signalCodes...)...)
	for _, want := range []string{"  0  success", "  2  the command", "  3  no such file", "130  SIGINT"} {
		if !strings.Contains(help, want) {
			t.Errorf("no %q in\n%s", want, help)
		}
	}
	if strings.Contains(help, "integrity") || strings.Contains(help, "no space") {
		t.Error(help)
	}
}

// The lines of help fit the width, and --help names every option.
func TestHelpWidth(t *testing.T) {
	app := testApp()
	for _, width := range []int{minHelpWidth, 60, maxHelpWidth} {
		texts := map[string]string{"": appHelp(app, width)}
		for _, c := range app.Commands {
			texts[c.Name] = commandHelp(c, width)
			for _, f := range visibleFlags(c) {
				if !strings.Contains(texts[c.Name], f.names[0]) {
					t.Errorf("%s: no %s in the help", c.Name, f.names[0])
				}
			}
		}
		for name, text := range texts {
			for line := range strings.Lines(text) {
				line = strings.TrimSuffix(line, "\n")
				oneWord := !strings.Contains(strings.TrimSpace(line), " ") // such as a URL
				if columns := utf8.RuneCountInString(line); columns > width && (width == maxHelpWidth || !oneWord) {
					t.Errorf("%s: %d columns, not %d: %q", name, columns, width, line)
				}
			}
		}
	}
}

// docs/REFERENCE.md is what go generate makes.
func TestReference(t *testing.T) {
	if _, reference := Docs(); reference != readDoc(t, "../docs/REFERENCE.md") {
		t.Error("docs/REFERENCE.md is not up to date: go generate ./cmd")
	}
}

func TestManPage(t *testing.T) {
	page := manPage(testApp())
	if page != readDoc(t, "../docs/kwikcp.1") {
		t.Error("docs/kwikcp.1 is not up to date: go generate ./cmd")
	}
	for line := range strings.Lines(page) {
		if strings.HasPrefix(line, "'") || (strings.HasPrefix(line, ".") && !slices.Contains([]string{`.\"`, ".TH", ".SH", ".SS", ".TP", ".PP", ".nf", ".fi"}, strings.Fields(line)[0])) {
			t.Errorf("an unknown request: %q", line)
		}
	}
	if got, want := roff(`.a\b-c'd`), `\&.a\eb\-c\(aqd`; got != want {
		t.Errorf("%q, want %q", got, want)
	}
	if _, err := exec.LookPath("man"); err != nil {
		t.Skip("there is no man here to read the page")
	}
	man := exec.Command("man", "--warnings", "-l", "../docs/kwikcp.1")
	man.Env = append(os.Environ(), "LC_ALL=C.UTF-8", "MANWIDTH=80")
	var complaints strings.Builder
	man.Stderr = &complaints
	if text, err := man.Output(); err != nil || complaints.Len() > 0 || !strings.Contains(string(text), "EXIT STATUS") {
		t.Errorf("%v, %s", err, complaints.String())
	}
}

// completed returns what bash would offer for the last of the words.
func completed(t *testing.T, script, dir string, words ...string) []string {
	t.Helper()
	const ask = `source "$1"; shift; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _kwikcp; printf '%s\n' "${COMPREPLY[@]}"`
	bash := exec.Command("bash", append([]string{"--norc", "-c", ask, "bash", script}, words...)...)
	bash.Dir = dir
	bash.Stderr = os.Stderr
	text, err := bash.Output()
	if err != nil {
		t.Fatal(err)
	}
	offered := strings.Fields(string(text))
	slices.Sort(offered)
	return offered
}

func TestCompletionOfBash(t *testing.T) {
	if _, err := exec.LookPath("bash"); err != nil {
		t.Skip("there is no bash here")
	}
	dir := t.TempDir()
	script := filepath.Join(dir, "kwikcp.bash")
	if err := os.WriteFile(script, []byte(bashCompletion(testApp())), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(dir, "kdir"), 0o700); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		words []string
		want  string
	}{
		{[]string{"kwikcp", "ver"}, "verify"},
		{[]string{"kwikcp", "--v"}, "--version"},
		{[]string{"kwikcp", "get", "--no-c"}, "--no-clobber"},
		{[]string{"kwikcp", "get", "kwik://h/f", "--max"}, "--max-delete --max-time"},
		{[]string{"kwikcp", "get", "--checksum", ""}, ""},
		{[]string{"kwikcp", "get", "k"}, "kdir kwikcp.bash"},
		{[]string{"kwikcp", "get", "--seed", "kw"}, "kwikcp.bash"},
		{[]string{"kwikcp", "serve", "--role", ""}, "primary secondary"},
		{[]string{"kwikcp", "serve", "--role", "=", "s"}, "secondary"},
		{[]string{"kwikcp", "serve", "--role", "="}, "primary secondary"},
		{[]string{"kwikcp", "serve", "--root", "k"}, "kdir"},
		{[]string{"kwikcp", "completion", "z"}, "zsh"},
		{[]string{"kwikcp", "bogus", ""}, ""},
	} {
		if got := strings.Join(completed(t, script, dir, test.words...), " "); got != test.want {
			t.Errorf("%q: %q, want %q", test.words, got, test.want)
		}
	}
	for _, c := range testApp().Commands {
		offered := completed(t, script, dir, "kwikcp", c.Name, "-")
		for _, f := range visibleFlags(c) {
			for _, name := range f.names {
				if !slices.Contains(offered, name) {
					t.Errorf("%s: %s is not offered", c.Name, name)
				}
			}
		}
	}
}

// Where they are installed, the other shells read their scripts too.
func TestCompletionOfOthers(t *testing.T) {
	for _, shell := range []string{"zsh", "fish"} {
		t.Run(shell, func(t *testing.T) {
			text := shells[shell](testApp())
			for _, c := range testApp().Commands {
				if !strings.Contains(text, c.Name) {
					t.Errorf("no %s in it", c.Name)
				}
			}
			if _, err := exec.LookPath(shell); err != nil {
				t.Skipf("there is no %s here to read it", shell)
			}
			script := filepath.Join(t.TempDir(), "script")
			if err := os.WriteFile(script, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
			if out, err := exec.Command(shell, "-n", script).CombinedOutput(); err != nil || len(out) > 0 {
				t.Errorf("%v: %s", err, out)
			}
			if shell != "fish" {
				return
			}
			out, err := exec.Command("fish", "--no-config", "-c", "source $argv[1]; complete -C 'kwikcp ver'; complete -C 'kwikcp serve --role s'; complete -C 'kwikcp get --no-c'", script).CombinedOutput()
			if err != nil {
				t.Errorf("%v: %s", err, out)
			}
			for _, want := range []string{"\nverify\t", "\nsecondary\t", "\n--no-clobber\t"} {
				if !strings.Contains("\n"+string(out), want) {
					t.Errorf("no %q in %s", want, out)
				}
			}
		})
	}
}
