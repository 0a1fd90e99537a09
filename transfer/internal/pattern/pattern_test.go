package pattern

import (
	"errors"
	"math/rand/v2"
	"strings"
	"testing"
	"time"
)

// TestPatterns has patterns, what they match, and what they do not. A directory ends with a slash.
func TestPatterns(t *testing.T) {
	for _, c := range []struct{ pattern, matches, not string }{
		{"*.o", "a.o .o x/a.o d.o/", "a.c d.o.c o"},
		{"/a", "a a/", "x/a"},
		{"a/", "a/ x/a/", "a x/a"},
		{"x/a", "x/a y/x/a", "a b/a xx/a x/a/b"},
		{"x/*/a", "x/y/a w/x/y/a", "x/a x/y/z/a"},
		{"x/**/a", "x/y/a x/y/z/a w/x/y/a", "x/a"},
		{"/x/**", "x/a x/b/c", "x/ y/x/a"},
		{"/x/***", "x/ x/a x/b/c", "x y/x/a"},
		{"x***", "x x/ xa y/x/a xa/b", "ax"},
		{"x***/", "x/ xa/", "x xa"},
		{"**/a", "a x/a x/y/a", "ba x/ba"},
		{"**a", "a ba x/a x/ba", "ab"},
		{"a**b", "ab a/b x/a/y/b axb", "b a xab"},
		{"*/a", "x/a y/x/a", "a"},
		{"?", "a x/a", "ab é"},
		{"??", "ab é", "a"},
		{"[a-c]", "a b x/c", "d ab"},
		{"[!a-c]", "d x/- /", "a"},
		{"[^]]", "a [", "] ab"},
		{"[]a]", "] a", "b"},
		{"[]-a]", "] ^ a", "b"},
		{"[a-]", "a -", "b"},
		{"[a-c-e]", "a b c - e", "d"},
		{"[z-a]", "z", "a m"},
		{`[a\]]`, "a ]", `b \`},
		{`[a-\]]`, "", "b ]"},
		{`[\\-a]`, "\\ ^ a", "b"},
		{"a[+-9]b", "a+b a-b a9b", "a/b ab"},
		{"a[!x]b", "ayb", "a/b"},
		{"[[:upper:]]*", "A Ab x/B", "a aB"},
		{"[[:upper:][:digit:]_]", "A 1 _", "a"},
		{"[![:alpha:]]", "1 - \xe9", "a Z"},
		{"[[:]", "[ :", "a"},
		{"[[:a]", "[ : a", "b"},
		{"[[:digit:]-z]", "1 - z", "a"},
		{"[[.a.]]", ".] a] []", "a"},
		{`\*`, "*", `a \*`},
		{`a\b`, `a\b`, "ab"},
		{`a\b*`, "ab abc", `a\b`},
		{`a\`, `a\`, "a"},
		{`a\/b*`, "a/b a/bc", "ab"},
		{"a.b", "a.b", "axb"},
		{"{a,b}", "{a,b}", "a b"},
		{"\xff", "\xff x/\xff", "a"},
		{"***", "a a/ x/y", ""},
		{"a//b", "", "a/b"},
	} {
		p, err := Compile(c.pattern, false)
		if err != nil {
			t.Errorf("%q: %v", c.pattern, err)
			continue
		}
		for want, list := range map[bool]string{true: c.matches, false: c.not} {
			for e := range strings.FieldsSeq(list) {
				if e == "/" {
					continue
				}
				if e := entry(e); p.Matches(e.path(), e.isDir()) != want {
					t.Errorf("%q matches %q: %v", c.pattern, e, !want)
				}
				if e := entry(e); referenceMatches(c.pattern, e.path(), e.isDir()) != want {
					t.Errorf("the reference: %q matches %q: %v", c.pattern, e, !want)
				}
			}
		}
	}
}

// TestErrors checks that a rule that is not understood is an error with its position.
func TestErrors(t *testing.T) {
	for text, want := range map[string]struct {
		column int
		text   string
	}{
		"":                        {1, "names no entry"},
		"/":                       {1, "names no entry"},
		"//":                      {1, "names no entry"},
		"- ":                      {3, "names no entry"},
		"[":                       {1, "no end"},
		"ab/x[!a":                 {5, "no end"},
		"/[a-z":                   {2, "no end"},
		"- x[]":                   {4, "no end"},
		`[a\]`:                    {1, "no end"},
		`[a-\`:                    {1, "no end"},
		"a[[:upper:]":             {2, "no end"},
		"a[[:uper:]]":             {3, "class [:uper:]"},
		"[a[:UPPER:]]":            {3, "class [:UPPER:]"},
		"[[::]]":                  {2, "class [::]"},
		`a*\`:                     {3, "backslash"},
		"a\x00b":                  {2, "NUL"},
		strings.Repeat("a", 4096): {4096, "longer than 4095 bytes"},
		": .rsync-filter":         {1, "merge"},
		":- .gitignore":           {1, "merge"},
		":n,w- x":                 {},
		":,n- x":                  {1, "merge"},
		". rules":                 {1, "merge"},
		"merge rules":             {1, "merge"},
		"dir-merge,n .rules":      {1, "merge"},
		"-p *.tmp":                {2, "modifiers"},
		"+,! *.tmp":               {2, "modifiers"},
		"-/ x":                    {2, "modifiers"},
		"._*":                     {},
		"... x":                   {},
		"merge":                   {},
		"risk assessment.xls":     {},
		"-x":                      {},
		"- merge rules":           {},
		"- -p x":                  {},
		"! x":                     {},
		"!x":                      {},
	} {
		var r Rules
		err := r.Add(text, false, false)
		e, isError := errors.AsType[*Error](err)
		switch {
		case !isError:
			if want.column != 0 {
				t.Errorf("%.20q: %v, and not %q", text, err, want.text)
			}
		case e.Column != want.column || !strings.Contains(e.Message, want.text):
			t.Errorf("%.20q: %v, and not %q in column %d", text, err, want.text, want.column)
		}
		if err != nil {
			if _, folded := r.Add(text, false, true).(*Error); !folded {
				t.Errorf("%.20q is no error if case is ignored", text)
			}
		}
	}
}

// TestRules checks prefixes, the order of rules and files of them.
func TestRules(t *testing.T) {
	var r Rules
	wants := func(list string) {
		t.Helper()
		for want, p := range map[bool]string{true: strings.Fields(list)[0], false: strings.Fields(list)[1]} {
			for name := range strings.SplitSeq(p, ",") {
				if r.Wants(entry(name).path(), entry(name).isDir()) != want {
					t.Errorf("%q is wanted: %v", name, !want)
				}
			}
		}
	}
	add := func(text string, include bool) {
		t.Helper()
		if err := r.Add(text, include, false); err != nil {
			t.Fatal(err)
		}
	}
	add("- b", true)
	add("+ c", false)
	add("[ab]", true)
	add("*", false)
	wants("a,c b,d")
	file := "# comment\r\n; another\n\n  a\r+ b\r\n- c\n#\n!x\n/d/\n"
	if err := r.AddFile([]byte("!\n"+file), false, false, false); err != nil {
		t.Fatal(err)
	}
	wants("b,a,d,x   c,!x,d/")
	if r.Len() != 5 {
		t.Errorf("%d rules", r.Len())
	}
	if err := r.AddFile([]byte("!\x00;c\x00a\nb\x00\x00- [c]"), false, false, true); err != nil {
		t.Fatal(err)
	}
	if r.Wants("a\nb", false) || !r.Wants("a", false) || !r.Wants(";c", false) {
		t.Error("rules with NUL bytes at their ends")
	}
	before := r.Len()
	err := r.AddFile([]byte("a\n\n#\r\nb[[:x:]]\nc"), false, false, false)
	if err == nil || err.Error() != "line 4, column 3: unknown character class [:x:]" {
		t.Error(err)
	}
	if r.Len() != before {
		t.Errorf("%d rules, and not %d", r.Len(), before)
	}
}

// TestFold checks that no spelling escapes a pattern that ignores case.
func TestFold(t *testing.T) {
	for pattern, names := range map[string]string{
		"Secret": "secret SECRET x/sEcret", "*.Bak": "a.bak A.BAK", "[[:upper:]]x": "ax AX", "[a-c]": "A b", "é": "É",
		"straße*": "STRAßE1", "k": "\u212a K", "[K]": "\u212a k", "É*": "éa Éb", `\S*`: "s S \u017f",
		"\xff\xfeA": "\xff\xfea",
	} {
		p, err := Compile(pattern, true)
		if err != nil {
			t.Fatal(err)
		}
		for name := range strings.FieldsSeq(names) {
			if !p.Matches(name, false) {
				t.Errorf("%q does not match %q", pattern, name)
			}
		}
	}
	p, err := Compile("[!a-c]\xff", true)
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]bool{"A\xff": false, "d\xfe": false, "D\xff": true} {
		if p.Matches(name, false) != want {
			t.Errorf("a negated set matches %q: %v", name, !want)
		}
	}
}

// TestReference compares with rsync's algorithm on random trees.
func TestReference(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	tree := randomTree(r, 120)
	compared, matches, refused := 0, 0, 0
	for range 3000 {
		text := randomPattern(r, tree)
		p, err := Compile(text, false)
		if err != nil {
			refused++
		}
		for _, e := range tree {
			want := referenceMatches(text, e.path(), e.isDir())
			if got := err == nil && p.Matches(e.path(), e.isDir()); got != want {
				t.Fatalf("%q matches %q: %v (%v)", text, e, got, err)
			}
			compared++
			if want {
				matches++
			}
		}
	}
	t.Logf("%d comparisons, %d matches, %d patterns refused", compared, matches, refused)
	if matches < compared/50 || refused > 1000 {
		t.Error("the random patterns are not worth much")
	}
}

// TestAttackPattern checks that the time of a comparison is bounded by the product of both
// lengths. It has patterns whose ways double with each star, and long ones.
func TestAttackPattern(t *testing.T) {
	long := strings.Repeat("a", 250)
	path := strings.Repeat(long+"/", 15) + long
	for _, text := range []string{
		strings.Repeat("a*", 60) + "[b]", strings.Repeat("*a", 60) + "[b]*c*", strings.Repeat("**a", 60) + "[b]",
		strings.Repeat("a**/", 30) + "**[b]", strings.Repeat("*?", 2000) + "[b]", strings.Repeat("?*", 2047),
		"**" + strings.Repeat("[ab]**", 600) + "[b]", strings.Repeat("*/", 12) + strings.Repeat("a*", 500) + "[b]",
		"a" + strings.Repeat("*[a]", 1000) + "**[b]",
	} {
		p, err := Compile(text, false)
		if err != nil {
			t.Fatal(err)
		}
		start := time.Now()
		for _, name := range []string{long, path, path + "/"} {
			p.Matches(name, true)
		}
		const bound = 2 * time.Second // some 50 ms are usual
		if took := time.Since(start); took > bound {
			t.Errorf("%.20q takes %v", text, took)
		} else {
			t.Logf("%.20q: %v", text, took)
		}
	}
}

// FuzzPattern checks that a pattern matches as rsync's algorithm does, and that a refused one never
// would.
func FuzzPattern(f *testing.F) {
	f.Add("a[!b]**/\\*?", "x/y", false)
	f.Add("/x/***", "x", true)
	f.Add("[[:upper:]]*.[a-\\]]", "A.b", false)
	f.Add("**[+-9]b/", "a/b", true)
	f.Fuzz(func(t *testing.T, text, path string, isDir bool) {
		isPath := path != "" && !strings.Contains("/"+path+"/", "//") && !strings.Contains(path, "\x00")
		if !isPath || len(text) > 100 || len(path) > 200 {
			t.Skip()
		}
		p, err := Compile(text, false)
		want := text != "" && referenceMatches(text, path, isDir)
		if got := err == nil && p.Matches(path, isDir); got != want {
			t.Fatalf("%q matches %q: %v, and not %v (%v)", text, path, got, want, err)
		}
		folded, err2 := Compile(text, true)
		if (err == nil) != (err2 == nil) {
			t.Fatalf("%v, but %v if case is ignored", err, err2)
		}
		if err == nil && folded.Matches(path, isDir) != folded.Matches(strings.ToUpper(path), isDir) && isASCII(path) {
			t.Fatalf("%q tells %q from its capitals", text, path)
		}
	})
}

// FuzzRules checks that a file of rules is parsed the same way as its lines.
func FuzzRules(f *testing.F) {
	f.Add([]byte("# x\n+ a\r\n- b*\n!\n;\nc/"), false, "a/c")
	f.Add([]byte("x\x00+ [y]\x00"), true, "y")
	f.Add([]byte("\xef\xbb\xbfx"), false, "x")
	f.Add([]byte("\xff\xfex\x00"), false, "x")
	f.Add([]byte("\xff\xfex\x00"), true, "x")
	f.Fuzz(func(t *testing.T, file []byte, nul bool, path string) {
		if path == "" {
			t.Skip()
		}
		var whole, lines Rules
		err := whole.AddFile(file, false, false, nul)
		text, lineErr := CutMark(file, nul)
		for _, line := range Lines(text, nul) {
			if lineErr = lines.Add(line, false, false); lineErr != nil {
				break
			}
		}
		if (err == nil) != (lineErr == nil) {
			t.Fatalf("%v, and %v", err, lineErr)
		}
		if err == nil && (whole.Wants(path, true) != lines.Wants(path, true) || whole.Len() != lines.Len()) {
			t.Fatal("they differ")
		}
	})
}
