package cmd

import (
	"context"
	"errors"
	"flag"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// parseSelection parses options of get that select entries.
func parseSelection(t *testing.T, args ...string) (selection, error) {
	t.Helper()
	o := newGetOptions()
	set := flag.NewFlagSet("get", flag.ContinueOnError)
	set.SetOutput(io.Discard)
	for _, f := range o.flags() {
		if err := f.Apply(set); err != nil {
			t.Fatal(err)
		}
	}
	if err := set.Parse(args); err != nil {
		t.Fatal(err)
	}
	return o.rules.parse(t.Context())
}

// TestSelection checks the order of the rules of all options, and that those of the command line
// replace those of the environment.
func TestSelection(t *testing.T) {
	dir := t.TempDir()
	put := func(name, text string) string {
		name = filepath.Join(dir, name)
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return name
	}
	mixed, nuls := put("mixed", "# x\n+ a*\r\n*b\n"), put("nuls", "b\nc\x00;d\x00e")
	for _, c := range []struct {
		args   []string
		env    string // KWIKCP_EXCLUDE_FROM
		wanted string
		not    string
	}{
		{nil, "", "a", ""},
		{[]string{"--exclude-from", mixed, "--include", "b", "--exclude=c"}, "", "ab a x", "b c xb"},
		{[]string{"--include", "b", "--exclude-from", mixed, "--exclude=c"}, "", "ab b", "xb c"},
		{[]string{"--exclude-from", mixed, "--exclude", "!", "--exclude=a"}, "", "b xb", "a"},
		{[]string{"--include-from", nuls, "--exclude", "*", "--from0"}, "", "b\nc e", "b c ;d"},
		{[]string{"-0", "--exclude-from", nuls}, "", "b c ;d", "b\nc e"},
		{[]string{"--include-from", mixed, "--exclude", "*"}, "", "ab b", "c"},
		{nil, mixed, "ab x", "b xb"},
		{[]string{"--exclude", "x"}, mixed, "b xb", "x"},
	} {
		t.Setenv("KWIKCP_EXCLUDE_FROM", c.env)
		s, err := parseSelection(t, c.args...)
		if err != nil || s.paths != nil {
			t.Errorf("%q: %v", c.args, err)
			continue
		}
		for want, names := range map[bool]string{true: c.wanted, false: c.not} {
			for _, name := range strings.Split(names, " ") {
				if name != "" && s.filter.Wants(name, false) != want {
					t.Errorf("%q: %q is wanted: %v", c.args, name, !want)
				}
			}
		}
	}
}

// TestSelectionErrors checks the messages about rules and files, and their exit codes.
func TestSelectionErrors(t *testing.T) {
	bad := filepath.Join(t.TempDir(), "bad")
	if err := os.WriteFile(bad, []byte("a/./b\n[z"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		option, value string
		code          int
		message       string
	}{
		{"--exclude", "a/[b", exitUsage, `--exclude "a/[b": column 3: the set has no end`},
		{"--include", "+ [[:x:]]", exitUsage, `--include "+ [[:x:]]": column 4: unknown character class [:x:]`},
		{"--exclude", ": .rsync-filter", exitUsage, `column 1: rules that merge a file are not supported;`},
		{"--exclude", "-p *.tmp", exitUsage, `column 2: modifiers of rules are not supported`},
		{"--exclude", "", exitUsage, `column 1: the pattern names no entry`},
		{"--exclude-from", bad, exitUsage, `bad": line 2, column 1: the set has no end`},
		{"--files-from", bad, exitUsage, `bad": line 1, column 3: the component "." inside of a path`},
		{"--include-from", bad + "x", exitNotFound, `badx" of --include-from: no such file`},
		{"--files-from", filepath.Dir(bad), exitLocal, `is a directory`},
	} {
		_, err := parseSelection(t, c.option, c.value)
		code, message, _ := explain(err)
		if code != c.code || !strings.Contains(message, c.message) {
			t.Errorf("%s %q: %d, %s", c.option, c.value, code, message)
		}
	}
	stdin := os.Stdin
	defer func() { os.Stdin = stdin }()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	os.Stdin = r
	w.Close()
	_, err = parseSelection(t, "--exclude-from", "-", "--files-from", "-")
	if err == nil || !strings.Contains(err.Error(), "--exclude-from and --files-from both read standard input") {
		t.Error(err)
	}
	// An interruption ends the wait for standard input.
	r2, w2, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r2.Close()
	os.Stdin = r2
	interrupted := errors.New("interrupted")
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(interrupted)
	rules := filterRules{filesFrom: "-"}
	if _, err := rules.parse(ctx); err != interrupted {
		t.Error(err)
	}
	w2.Close()
}
