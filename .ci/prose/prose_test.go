package main

import (
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"
)

func TestSplit(t *testing.T) {
	for _, c := range []struct {
		text string
		want []string
	}{
		{"", nil},
		{"One.", []string{"1 One."}},
		{"One. Two! Three?", []string{"1 One.", "1 Two!", "1 Three?"}},
		{"Lower case may follow. kwikcp does so.", []string{"1 Lower case may follow.", "1 kwikcp does so."}},
		{"A line\nbreak. The next\nsentence.", []string{"1 A line break.", "2 The next sentence."}},
		{"First.\nSecond.", []string{"1 First.", "2 Second."}},
		{"Abbreviations, e.g. this one, i.e. that (cf. RFC 9000), end none.",
			[]string{"1 Abbreviations, e.g. this one, i.e. that (cf. RFC 9000), end none."}},
		{"Version 1.2.3 of file.go is at example.org.", []string{"1 Version 1.2.3 of file.go is at example.org."}},
		{"A range 1..5, and so on ... to the end.", []string{"1 A range 1..5, and so on ... to the end."}},
		{"It waits... Then it stops.", []string{"1 It waits...", "1 Then it stops."}},
		{"(In parentheses.) Outside.", []string{"1 (In parentheses.)", "1 Outside."}},
		{`He wrote "so." And left.`, []string{`1 He wrote "so."`, "1 And left."}},
		{"Code `a. B` is one word.", []string{"1 Code CODE is one word."}},
		{"A [link. Text](x.md) and **bold.** End.", []string{"1 A link.", "1 Text and bold.", "1 End."}},
	} {
		var got []string
		for _, s := range split(block{line: 1, text: c.text}) {
			got = append(got, fmt.Sprint(s.line, " ", s.text))
		}
		if !slices.Equal(got, c.want) {
			t.Errorf("%q: got %q, want %q", c.text, got, c.want)
		}
	}
}

func TestWords(t *testing.T) {
	for text, want := range map[string]int{
		"":                          0,
		"one two  three":            3,
		"a - dash -> and = a sign":  5,
		"v1.2 has a 64-bit counter": 5,
	} {
		if got := words(text); got != want {
			t.Errorf("%q: %d words, want %d", text, got, want)
		}
	}
}

// found scans one file and returns "line category" for each finding but those of the given
// categories.
func found(t *testing.T, name, content string, without ...string) []string {
	t.Helper()
	r := newReport()
	if err := scanFile(r, name, []byte(content)); err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, f := range r.findings {
		if !slices.Contains(without, f.category) {
			out = append(out, fmt.Sprint(f.line, " ", f.category))
		}
	}
	slices.Sort(out)
	return out
}

func TestRules(t *testing.T) {
	long := strings.TrimSpace(strings.Repeat("word ", maxWords+1))
	for _, c := range []struct {
		text string
		want []string
	}{
		{"Nothing is wrong here.", nil},
		{"What is wrong is said here.", []string{"1 opening", "1 word"}},
		{"All is well. Who knows the token may dial.", []string{"1 opening"}},
		{"Whoever knows the token may dial.", []string{"1 opening"}},
		{"What is wrong? Who knows?", nil},
		{"It tells what is wrong.", nil},
		{"Whatever the length, it fits.", nil},
		{"what is left", []string{"1 fragment"}},
		{"Nobody waits, and nobody reads.", []string{"1 word", "1 word"}},
		{"It starts anew.", []string{"1 word"}},
		{"The header says that it comes and brings bytes.", []string{"1 word", "1 word", "1 word"}},
		{"It came, and bytes come.", []string{"1 come", "1 come"}},
		{"The outcome, the income and the welcome.", nil},
		{"All the same it was in vain.", []string{"1 idiom", "1 idiom"}},
		{long, []string{"1 long"}},
		{strings.TrimPrefix(long, "word "), nil},
		{"word. " + strings.TrimPrefix(long, "word "), nil},
	} {
		if got := found(t, "x.md", c.text, "width"); !slices.Equal(got, c.want) {
			t.Errorf("%q: got %q, want %q", c.text, got, c.want)
		}
	}
}

func TestGoComments(t *testing.T) {
	long := strings.Repeat("word ", maxWords+1)
	for _, c := range []struct {
		name, content string
		want          []string
	}{
		{"a sentence over two lines", "// " + long[:60] + "\n// " + long[60:], []string{"1 long"}},
		{"paragraphs", "// " + long[:60] + "\n//\n// " + long[60:], nil},
		{"a code block", "// Use:\n//\n//\tWhat nobody\n//\tcomes anew\n//\n// Done.", nil},
		{"a list", "// List:\n//   - what is here\n//   - What is there.\n//     It comes.\n// End.", []string{"2 fragment", "3 opening", "4 word"}},
		{"a heading", "// # What comes\n//\n// Text.", nil},
		{"directives", "//go:generate nobody comes\n//nolint:nobody anew", nil},
		{"a block comment", "/*\nText.\nNobody comes.\n*/", []string{"3 word", "3 word"}},
		{"behind code", "var x int // what comes", []string{"1 fragment", "1 word"}},
		{"two behind code", "var x int // one\nvar y int // what is", []string{"2 fragment"}},
		{"a message", `var x = "nobody is here " + "anew"`, []string{"1 word", "1 word"}},
		{"a string of data", `var x = "nobody"`, nil},
		{"a help text", "var x = `Text of help.\n   Nobody comes here.`", []string{"2 word", "2 word"}},
		{"a table in a help text", "var x = `Text of help.\n" + strings.Repeat("  a     "+strings.Repeat("word ", 20)+"\n", 2) +
			"  b     " + strings.Repeat("word ", 30) + "`", []string{"4 long"}},
		{"a tag", "var x struct { Y int `nobody comes here anew` }", nil},
		{"generated code", "// Code generated by protoc-gen-go. DO NOT EDIT.\n\n// Nobody comes.", nil},
	} {
		content := c.content + "\n\npackage p\n"
		if strings.HasPrefix(c.content, "var") {
			content = "package p; " + c.content + "\n"
		}
		if got := found(t, "x.go", content, "width", "name"); !slices.Equal(got, c.want) {
			t.Errorf("%s: got %q, want %q", c.name, got, c.want)
		}
	}
}

func TestGoMessagesInTests(t *testing.T) {
	const content = `package p

func TestX(t *testing.T) {
	use("data in which nobody looks")
	t.Errorf("nobody looks here: %v", f("nobody comes too"))
	t.Logf("all" + " that comes")
}
`
	want := []string{"5 word", "5 word", "5 word", "6 word"}
	if got := found(t, "x_test.go", content); !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestGoExampleOutput(t *testing.T) {
	const content = "package p\n\nfunc ExampleX() {\n\tX()\n\t// Nobody.\n\t// Output:\n\t// nobody comes\n}\n"
	if got, want := found(t, "x_test.go", content), []string{"5 word"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestDocNames(t *testing.T) {
	const content = `// Package p needs no name of its kind.
package p

// Good does it.
func Good() {}

// A Kind is one.
type Kind int

// The Kind's string.
func (Kind) String() string { return "" }

// String returns it.
func (Kind) GoString() string { return "" }

// Does it.
func bad() {}

// Some types.
type (
	A int
)
`
	want := []string{"10 name", "13 name", "16 name"}
	if got := found(t, "x.go", content, "idiom"); !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	if got := found(t, "x_test.go", "package p\n\n// Every one.\nfunc TestAll() {}\n\n// Every one.\nfunc Testing() {}\n"); !slices.Equal(got, []string{"6 name"}) {
		t.Errorf("tests: got %q", got)
	}
}

func TestAssertions(t *testing.T) {
	const content = `package p

func TestX(t *testing.T) {
	if a || b || c || d {
		t.Errorf("four")
	}
	if a || b || c {
		t.Errorf("three")
	}
	if a && (b || c) && d {
		tb.Fatal("four")
	} else if a && b && c && d && e {
		use()
		t.Error("five")
	}
	if a || b || c || d {
		use()
	}
	if f(func() bool { return a || b || c || d }) {
		t.Error("one")
	}
	switch {
	case a || b || c || d:
		t.Fatalf("four")
	}
	if a || b || c || d {
		fmt.Errorf("no assertion")
	}
}
`
	want := []string{"10 assertion", "12 assertion", "23 assertion", "4 assertion"}
	if got := found(t, "x_test.go", content); !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestWidths(t *testing.T) {
	x := func(n int) string { return strings.Repeat("x", n) }
	for _, c := range []struct {
		name, file, content string
		want                []string
	}{
		{"code", "x.go", "package p\n\nvar a = " + x(113) + "\nvar a = " + x(112), []string{"3 width"}},
		{"a tab is four columns", "x.go", "package p\n\nfunc f() {\n\t" + x(117) + "()\n\t" + x(114) + "()\n}", []string{"4 width"}},
		{"comment", "x.go", "package p\n\n// " + x(98) + "\n\n// " + x(97), []string{"3 width"}},
		{"comment behind code", "x.go", "package p\n\nvar a int // " + x(100), nil},
		{"comment with a code block", "x.go", "package p\n\n//\t" + x(200), nil},
		{"block comment", "x.go", "package p\n\n/* a\n" + x(101) + "\n*/", []string{"4 width"}},
		{"directive", "x.go", "package p\n\n//go:generate " + x(200), nil},
		{"URL", "x.go", "package p\n\n// https://" + x(200), nil},
		{"raw string", "x.go", "package p\n\nvar a = `\n" + x(200) + "\n`", nil},
		{"runes are counted", "x.go", "package p\n\n// " + strings.Repeat("ü", 97), nil},
		{"Markdown", "x.md", x(101) + "\n\n" + x(100) + "\n\n| " + x(200) + " |\n\n```\n" + x(200) + "\n```\n\n    " + x(200), []string{"1 width"}},
		{"Markdown list", "x.md", "- " + x(50) + "\n\n    " + x(100), []string{"3 width"}},
		{"script", "x", "#!/bin/sh\n# " + x(99) + "\n" + x(101) + "\n" + x(121), []string{"2 width", "4 width"}},
		{"proto", "x.proto", "// " + x(98) + "\nmessage X {} // " + x(100), []string{"1 width"}},
	} {
		if got := found(t, c.file, c.content); !slices.Equal(got, c.want) {
			t.Errorf("%s: got %q, want %q", c.name, got, c.want)
		}
	}
}

func TestHelpText(t *testing.T) {
	r := newReport()
	scanHelpText(r, "help/x", []byte("short\n"+strings.Repeat("x", 81)+"\n"+strings.Repeat("x", 80)+"\n"))
	if len(r.findings) != 1 || r.findings[0].line != 2 {
		t.Errorf("findings %v, want one in line 2", r.findings)
	}
	if r.lines["help"] != 3 {
		t.Errorf("%d lines, want 3", r.lines["help"])
	}
}

func TestCommandsOf(t *testing.T) {
	const help = `NAME:
   tool - does it

COMMANDS:
   get       fetch
             and more
   serve, s  offer
   help, h   help

OPTIONS:
   --version  print
`
	if got, want := commandsOf([]byte(help)), []string{"get", "serve"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestOtherFiles(t *testing.T) {
	for _, c := range []struct {
		name, file, content string
		want                []string
	}{
		{"a script's code", "x", "#!/bin/bash\necho nobody comes # what is printed\n# Nobody.\necho '# nobody'\n", []string{"2 fragment", "3 word"}},
		{"a file of another kind", "x", "nobody comes", nil},
		{"a generated file", "docs/REFERENCE.md", "Nobody comes.", nil},
		{"a test script", "x.txtar", "# Nobody.\nexec x\n\n-- nobody --\n# Nobody.\n", []string{"1 word"}},
		{"a schema", "x.schema.json", "{\n\"description\": \"Nobody.\",\n\"title\": \"nobody\"}", []string{"2 word"}},
		{"a Markdown table", "x.md", "| a | b |\n|---|---|\n| nobody | what is |\n", []string{"3 fragment", "3 word"}},
		{"Markdown code", "x.md", "Text:\n\n    nobody comes\n\n```\nnobody comes\n```\n\nNobody.\n", []string{"9 word"}},
		{"a Markdown heading", "x.md", "# What comes\n\nText\nwith nobody.\n", []string{"3 word"}},
		{"a Markdown list", "x.md", "- What is.\n  Nobody.\n- what is\n", []string{"1 opening", "2 word", "3 fragment"}},
	} {
		if got := found(t, c.file, c.content); !slices.Equal(got, c.want) {
			t.Errorf("%s: got %q, want %q", c.name, got, c.want)
		}
	}
}

func TestPlaces(t *testing.T) {
	for file, want := range map[string]string{
		"transfer/disk/dir.go": "transfer", "README.md": "docs", "docs/DESIGN.md": "docs", "main.go": "root", ".ci/run": ".ci",
	} {
		if got := areaOf(file); got != want {
			t.Errorf("areaOf(%q) = %q, want %q", file, got, want)
		}
	}
	if got := placeOf(finding{file: "transfer/disk/dir_test.go", category: "assertion"}); got != "transfer/disk" {
		t.Errorf("an assertion is counted under %q", got)
	}
}

func TestLimits(t *testing.T) {
	counts := map[key]int{{"kwik", "long"}: 3, {"kwik", "word"}: 1, {"transfer/disk", "assertion"}: 2}
	limits, err := parseLimits(formatLimits(counts))
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(limits, counts) {
		t.Errorf("read back %v, want %v", limits, counts)
	}
	if above, below := compare(counts, limits); len(above) != 0 || below != 0 {
		t.Errorf("equal counts: %q above, %d below", above, below)
	}
	above, below := compare(map[key]int{{"kwik", "long"}: 4, {"new", "word"}: 1, {"transfer/disk", "assertion"}: 2}, limits)
	if want := []string{"kwik long: 4, the limit is 3", "new word: 1, the limit is 0"}; !slices.Equal(above, want) {
		t.Errorf("above: %q, want %q", above, want)
	}
	if below != 1 {
		t.Errorf("%d below, want 1: kwik word", below)
	}
	for _, bad := range []string{"kwik long", "kwik nonsense 3", "kwik long x"} {
		if _, err := parseLimits([]byte(bad)); err == nil {
			t.Errorf("no error for %q", bad)
		}
	}
}
