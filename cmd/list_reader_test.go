package cmd

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"kwikcp/transfer"
	"kwikcp/transfer/disk"
)

// readLines returns what a listReader makes of a text: a word for each line, and the error.
func readLines(text string) (lines []string, err error) {
	r := newListReader(strings.NewReader(text), destination{})
	for {
		line, err := r.next()
		switch {
		case err == io.EOF:
			return lines, nil
		case err != nil:
			return lines, err
		case line.repeats > 0:
			lines = append(lines, fmt.Sprintf("%d=%d", line.number, line.repeats))
		case line.err != nil:
			lines = append(lines, fmt.Sprintf("%d!", line.number))
		default:
			lines = append(lines, fmt.Sprintf("%d", line.number))
		}
	}
}

func TestListReader(t *testing.T) {
	const a, b = "kwik://h/a", "kwik://h/b"
	long := strings.Repeat("x", maxListLine+1)
	for _, c := range []struct{ text, lines, err string }{
		{"", "", ""},
		{"\n\r\n  \n# c\n  # c\n", "", ""},
		{a, "1", ""},
		{"\ufeff" + a + "\r\n" + b + "\r\n", "1 2", ""},
		{"\ufeff# c\n" + a, "2", ""},
		{"\xff\xfek\x00w\x00", "", "UTF-16"},
		{"\xfe\xff\x00k\x00w", "", "UTF-16"},
		{a + "\n" + a + "\n" + b + "\ta\n" + a + "\tb\n", "1 2=1 3! 4", ""},
		{a + "\t./x\n" + a + "\tx\n", "1 2=1", ""},
		{a + "\t-\n" + a + "\t\n", "1! 2!", ""},
		{"\x1f\x8b\x08abc\n" + a, "", "line 1 is not text"},
		{"no url\nabc\x00\n", "", "line 1 is not text"},
		{a + "\n" + strings.Repeat("# c\n", maxListLine/4) + "\x00\n", "1", "is not text"},
		{a + "\tna\x01me\n", "1", ""},
		{a + "\tb\thttps://m/b\thttps://n/{path}\n" + a + "\t\thttps://m/a\n" + a + "\ta\n", "1 2 3=2", ""},
		{a + "\tb\t\n" + a + "\tb\thttp://m/b\n" + a + "\tb\thttps://u:p@m/\n" + a + "\tb\tc\n", "1! 2! 3! 4!", ""},
		{a + "\tb" + strings.Repeat("\thttps://m/b", 9), "1!", ""},
		{a + "\n" + long, "1", "line 2 is longer than"},
		{long + "\n" + a, "", "line 1 is longer than"},
	} {
		lines, err := readLines(c.text)
		got := strings.Join(lines, " ")
		isWanted := (err == nil) == (c.err == "") && strings.Contains(fmt.Sprint(err), c.err)
		if got != c.lines || !isWanted {
			t.Errorf("%.60q: lines %q, error %v; want %q, %q", c.text, got, err, c.lines, c.err)
		}
	}
}

// Lines that write to names that are the same to the file system are errors, after the first.
func TestListSpellings(t *testing.T) {
	const text = "kwik://h/a\tfoo\nkwik://h/b\tFOO\nkwik://h/c\t\u00e9\nkwik://h/d\te\u0301\nkwik://h/e\t\u00c9\n" +
		"kwik://h/f\tE\u0301\nkwik://h/g\tno/x\nkwik://h/h\tNo/x\nkwik://h/i\tother\n"
	for folding, want := range map[disk.Folding]string{
		{}:                       "1 2 3 4 5 6 7 8 9",
		{Case: true}:             "1 2! 3 4 5! 6! 7 8! 9",
		{Form: true}:             "1 2 3 4! 5 6! 7 8 9",
		{Case: true, Form: true}: "1 2! 3 4! 5! 6! 7 8! 9",
	} {
		asked := 0
		r := newListReader(strings.NewReader(text), destination{})
		r.foldingIn = func(dir string) (disk.Folding, error) {
			asked++
			return folding, nil
		}
		var lines []string
		for {
			line, err := r.next()
			if err != nil {
				break
			}
			word := fmt.Sprint(line.number)
			if line.err != nil {
				word += "!"
				if code := exitCodeOf(line.err); code != exitExists {
					t.Errorf("line %d: exit status %d: %v", line.number, code, line.err)
				}
			}
			lines = append(lines, word)
		}
		if got := strings.Join(lines, " "); got != want {
			t.Errorf("%+v: %s, want %s", folding, got, want)
		}
		if asked > 2 {
			t.Errorf("%+v: the file system was asked %d times", folding, asked)
		}
	}
	folding, err := foldingIn(t.TempDir())
	t.Logf("names are the same here: %+v, %v", folding, err)
	if err != nil {
		t.Error(err)
	}
}

// Errors of a line name the column, and no password.
func TestListLineErrors(t *testing.T) {
	for text, want := range map[string]string{
		"kwik://h/a\t-":                                   "column 2",
		"kwik://h/a\tb\thttps://m/\tftp://m/":             "column 4",
		"kwik://h/a\tb\t":                                 "column 3",
		"kwik://h/a\tb\thttp://m/":                        "not https",
		"kwik://h/a\tb\thttps://user:secret@m/":           "column 3",
		"kwik://h/a" + strings.Repeat("\thttps://m/", 12): "11 web mirrors",
	} {
		err := parseListLine(1, text, false).err
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "secret") {
			t.Errorf("%q: %v", text, err)
		}
	}
}

// A list costs a bounded amount of memory for each file.
func TestListMemory(t *testing.T) {
	const lines, most = 100_000, 100 // bytes for each line
	var text strings.Builder
	for i := range lines {
		fmt.Fprintf(&text, "kwik://files.example.org/some/directory/file-%d?pin=T64FRuT3GFJBy7g3QdgkgJ0E0VKnRDmyE0GUtpw-S5k\n", i)
	}
	source := strings.NewReader(text.String())
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	r := newListReader(source, destination{})
	for {
		line, err := r.next()
		if err == io.EOF {
			break
		}
		if err != nil || line.err != nil {
			t.Fatal(err, line.err)
		}
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	if held := (int64(after.HeapAlloc) - int64(before.HeapAlloc)) / lines; held > most {
		t.Errorf("%d bytes for each line, at most %d are allowed", held, most)
	}
	runtime.KeepAlive(r)
	runtime.KeepAlive(source)
}

func FuzzListReader(f *testing.F) {
	f.Add("\ufeffkwik://h/a\tb\r\n# c\n\nkwik://h/a\t./b")
	f.Add("\xff\xfek\x00")
	f.Add("kwik://h/a\t\thttps://m/a\thttps://n/{path}\nkwik://h/b\tb\thttp://m/\t")
	f.Add("kwik://[::1]:1/%00#b3=00\t\x01")
	f.Fuzz(func(t *testing.T, text string) {
		r := newListReader(strings.NewReader(text), destination{prefix: "d"})
		for last := 0; ; {
			line, err := r.next()
			if err != nil {
				return
			}
			isText := !strings.ContainsAny(line.url+line.target, "\x00\n")
			for _, m := range line.mirrors {
				if err := m.Check(false); err != nil || len(line.mirrors) > transfer.MaxWebMirrors {
					t.Fatalf("%d mirrors, %q: %v", len(line.mirrors), m.Template, err)
				}
			}
			if line.number <= last || line.repeats >= line.number || !isText {
				t.Fatalf("line %+v after line %d", line, last)
			}
			last = line.number
		}
	})
}

func TestMadeDirs(t *testing.T) {
	t.Chdir(t.TempDir())
	exists := func(dir string) bool {
		_, err := os.Stat(dir)
		return err == nil
	}
	var m madeDirs
	check := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	// Two gets need a directory. It goes with the last of them, unless there is a file in it.
	check(os.Mkdir("old", 0o777))
	check(m.make("old/a/b"))
	check(m.make("old/a"))
	m.release("old/a/b", false)
	if exists("old/a/b") || !exists("old/a") {
		t.Error("the wrong directories are left")
	}
	m.release("old/a", false)
	if exists("old/a") || !exists("old") {
		t.Error("the wrong directories are left")
	}
	check(m.make("old/a/b/"))
	check(m.make("old/a"))
	check(os.WriteFile("old/a/f", nil, 0o666))
	m.release("old/a", true)
	m.release("old/a/b/", false)
	if exists("old/a/b") || !exists("old/a/f") {
		t.Error("the wrong directories are left")
	}
	if err := m.make("old/a/f/g"); err == nil || !exists("old/a/f") {
		t.Errorf("a directory below a file: %v", err)
	}
	if len(m.made) != 0 {
		t.Errorf("it remembers %v", m.made)
	}
}

func TestDirOf(t *testing.T) {
	for name, want := range map[string]string{"f": ".", "a/f": "a/", "a/b/": "a/", "link/../f": "link/../", "/f": "/"} {
		if got := dirOf(filepath.FromSlash(name)); got != filepath.FromSlash(want) {
			t.Errorf("%q is in %q, want %q", name, got, want)
		}
	}
}
