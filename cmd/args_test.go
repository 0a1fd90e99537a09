package cmd

import (
	"bytes"
	"context"
	"slices"
	"strings"
	"testing"
)

var reorderTests = []struct{ in, want string }{
	{"kwikcp", "kwikcp"},
	{"kwikcp --version", "kwikcp --version"},
	{"kwikcp bogus x --y", "kwikcp bogus x --y"},
	{"kwikcp get", "kwikcp get --"},
	{"kwikcp get URL", "kwikcp get -- URL"},
	{"kwikcp get URL FILE --json", "kwikcp get --json -- URL FILE"},
	{"kwikcp get URL --json FILE", "kwikcp get --json -- URL FILE"},
	{"kwikcp get -q URL -json FILE", "kwikcp get -q -json -- URL FILE"},
	{"kwikcp get URL --connect-timeout 5s FILE", "kwikcp get --connect-timeout 5s -- URL FILE"},
	{"kwikcp get URL --connect-timeout=5s FILE", "kwikcp get --connect-timeout=5s -- URL FILE"},
	{"kwikcp get URL --connect-timeout -1s FILE", "kwikcp get --connect-timeout -1s -- URL FILE"},
	{"kwikcp get URL --checksum -- FILE", "kwikcp get --checksum -- -- URL FILE"},
	{"kwikcp get URL - -q", "kwikcp get -q -- URL -"},
	{"kwikcp get URL -- -q", "kwikcp get -- URL -q"},
	{"kwikcp get -- URL -- -q", "kwikcp get -- URL -- -q"},
	{"kwikcp get URL --nonsense FILE", "kwikcp get --nonsense -- URL FILE"},
	{"kwikcp get URL --checksum", "kwikcp get --checksum"},
	{"kwikcp get URL -q --checksum", "kwikcp get -q --checksum"},
	{"kwikcp get URL -q --help FILE", "kwikcp get --help"},
	{"kwikcp serve --role primary x --root -", "kwikcp serve --role primary --root - -- x"},
}

func TestReorder(t *testing.T) {
	app := newApp(&terminal{stdout: &bytes.Buffer{}, stderr: &bytes.Buffer{}})
	for _, test := range reorderTests {
		line := parseLine(app, strings.Fields(test.in))
		if got := strings.Join(line.ordered(), " "); got != test.want {
			t.Errorf("%s\nbecame %s\nwant   %s", test.in, got, test.want)
		}
	}
}

// FuzzReorder checks that no word is lost or made up, and that flags and arguments keep their
// order. The "--" may be lost, and an error or a call for help excuses any difference.
func FuzzReorder(f *testing.F) {
	for _, test := range reorderTests {
		f.Add(strings.ReplaceAll(strings.TrimPrefix(test.in, "kwikcp "), " ", "\x00"))
	}
	f.Add("--\x00-\x00get")
	f.Add("--\x00get\x00URL\x00-q")
	f.Add("get\x00URL\x00--checksum\x00--\x00FILE\x00--checksum") // "--" is a value, and the last flag lacks its own
	f.Fuzz(func(t *testing.T, line string) {
		app := newApp(&terminal{stdout: &bytes.Buffer{}, stderr: &bytes.Buffer{}})
		in := append([]string{"kwikcp"}, strings.Split(line, "\x00")...)
		parsed := parseLine(app, slices.Clone(in))
		out := parsed.ordered()
		if out[0] != in[0] {
			t.Fatalf("%q became %q", in, out)
		}
		if slices.ContainsFunc(out, isHelp) || slices.Equal(out, in) {
			return
		}
		if last := out[len(out)-1]; len(out) < len(in) { // arguments were dropped, as they may be if the last flag lacks its value
			at := 1 + slices.IndexFunc(out[1:], func(word string) bool { return !strings.HasPrefix(word, "-") })
			command := app.Command(out[at])
			if command == nil || !takesValue((&commandLine{command: command}).option(last).flag) {
				t.Fatalf("%q became %q: no option lacks its value", in, out)
			}
			if last != in[len(in)-1] || !subsequence(out, in) {
				t.Fatalf("%q became %q: the words changed", in, out)
			}
			return
		}
		count := func(words []string) map[string]int {
			m := make(map[string]int)
			for _, w := range words {
				if w != "--" {
					m[w]++
				}
			}
			return m
		}
		was, is := count(in), count(out)
		for word, n := range was {
			if is[word] != n {
				t.Fatalf("%q became %q: %q is lost", in, out, word)
			}
		}
		if len(is) != len(was) {
			t.Fatalf("%q became %q", in, out)
		}
		inOrder := !slices.Contains(out, "--")
		for i, word := range out { // one of them is reorder's, the others are a flag's value or arguments
			inOrder = inOrder || word == "--" && subsequence(out[i+1:], in)
		}
		if !inOrder {
			t.Fatalf("%q became %q: out of order", in, out)
		}
	})
}

func subsequence(words, of []string) bool {
	for _, w := range of {
		if len(words) > 0 && words[0] == w {
			words = words[1:]
		}
	}
	return len(words) == 0
}

func TestWantsJSON(t *testing.T) {
	for line, want := range map[string]bool{
		"kwikcp get --json":       true,
		"kwikcp get -json URL":    true,
		"kwikcp get --json=true":  true,
		"kwikcp get --json=false": false,
		"kwikcp get --json=what":  true,
		"kwikcp get -- --json":    false,
		"kwikcp get json":         false,
		"kwikcp get":              false,
	} {
		if got := wantsJSON(strings.Fields(line)); got != want {
			t.Errorf("%s: %v", line, got)
		}
	}
	if wantsJSON([]string{"kwikcp", "get", ""}) {
		t.Error("an empty argument")
	}
	t.Setenv("KWIKCP_JSON", "1")
	if !wantsJSON([]string{"kwikcp", "get"}) || wantsJSON([]string{"kwikcp", "get", "--json=0"}) {
		t.Error("KWIKCP_JSON=1")
	}
}

// FuzzRun gives whole command lines to the program: whatever they are, it ends with a usage error
// or help, and with one line on stderr.
func FuzzRun(f *testing.F) {
	f.Add("get", "kwik://h:0/f", "--json")
	f.Add("get", "kwik://h/..", "-q")
	f.Add("get", "--connect-timeout", "x")
	f.Add("serve", "--role", "boss")
	f.Add("serve", "--listen=1", "--role=primary")
	f.Add("bogus", "--help", "\x1b[2J\n")
	f.Fuzz(func(t *testing.T, command, a, b string) {
		if command == "demo" || command == "serve" && strings.Contains(a+b, "role") {
			return // which would start servers
		}
		var stdout, stderr bytes.Buffer
		ctx, cancel := context.WithCancel(context.Background())
		cancel() // nothing that is valid gets far
		code := run(ctx, []string{"kwikcp", command, a, b}, &stdout, &stderr)
		if code == 0 {
			return
		}
		text := stderr.String()
		if strings.Count(text, "\n") != 1 || !strings.HasPrefix(text, "kwikcp: error: ") || strings.ContainsAny(strings.TrimSuffix(text, "\n"), "\x1b\r\n") {
			t.Errorf("stderr has %q", text)
		}
	})
}
