package transfer

import (
	"errors"
	"kwikcp/kwik"
	"kwikcp/transfer/disk"
	"kwikcp/transfer/internal/pattern"
	"kwikcp/transfer/internal/transfertest"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func TestPathList(t *testing.T) {
	for _, c := range []struct{ file, wants, not string }{
		{"a\nd/e/f\n", "a a/ a/x d/ d/e/ d/e/f d/e/f/ d/e/f/g", "d b d/e d/x ab"},
		{"# x\n;y\r\n/a//b/\r./c\n", "a/ a/b a/b/c c", "a x # ;y"},
		{"d/../a/..\n", "a x d/ x/y/z", ""},
		{"../../a\n", "a", "b"},
		{"a/.\n./b/./", "a/x b/x", "c"},
		{".", "a x/y", ""},
		{" a", "\u00a0", ""},
		{"", "", "a a/"},
		{"a b\n# \n", "", "a"},
	} {
		l, err := ParsePathList([]byte(c.file), false)
		if err != nil {
			t.Errorf("%q: %v", c.file, err)
			continue
		}
		for want, list := range map[bool]string{true: c.wants, false: c.not} {
			for e := range strings.SplitSeq(list, " ") {
				if path, isDir := strings.CutSuffix(e, "/"); e != "" && e != "\u00a0" && l.Wants(path, isDir) != want {
					t.Errorf("%q wants %q: %v", c.file, e, !want)
				}
			}
		}
	}
	l, err := ParsePathList([]byte("a\nb\x00#c\x00\x00d\r"), true)
	if err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]bool{"a\nb": true, "d\r": true, "#c": false, "a": false} {
		if l.Wants(path, false) != want {
			t.Errorf("with NUL bytes at the ends of lines, %q is wanted: %v", path, !want)
		}
	}
	var all *PathList
	if !all.Wants("x", false) || !all.covers("") {
		t.Error("no list selects nothing")
	}
	for file, want := range map[string]pattern.Error{
		"a\nb\x00": {Line: 2, Column: 2}, "a\n\nb/./c": {Line: 3, Column: 3}, "//x/y/./z": {Line: 1, Column: 7},
		"#\n" + strings.Repeat("x", 256): {Line: 2, Column: 1}, strings.Repeat("x/", 20000): {Line: 1, Column: 1},
	} {
		_, err := ParsePathList([]byte(file), false)
		if e, ok := errors.AsType[*pattern.Error](err); !ok || e.Line != want.Line || e.Column != want.Column {
			t.Errorf("%.20q: %v", file, err)
		}
	}
}

// TestPathListOfRsync compares the entries that a list of paths selects with those of rsync.
func TestPathListOfRsync(t *testing.T) {
	if _, err := exec.LookPath("rsync"); err != nil {
		t.Skip("SKIPPED: the comparison with rsync needs the program rsync in the PATH")
	}
	dir := t.TempDir()
	tree := []string{"a", "b", "d/", "d/e/", "d/e/f", "d/e/g", "d/x", "é", "s p", "#c", "q/", "q/r/", "q/r/s"}
	os.Mkdir(filepath.Join(dir, "source"), 0o755)
	for _, e := range tree {
		if name := filepath.Join(dir, "source", e); strings.HasSuffix(e, "/") {
			os.Mkdir(name, 0o755)
		} else {
			transfertest.Put(t, name, "")
		}
	}
	os.Mkdir(filepath.Join(dir, "empty"), 0o755)
	for _, file := range []string{
		"a\r\n#c\n/d//e/\n", "d/x/../e/f\n../s p\r;\n./q\n", "./\n", "é\x00d/e\x00#c\x00\x00",
	} {
		nul := strings.Contains(file, "\x00")
		args := []string{"-r", "--dry-run", "--8-bit-output", "--out-format=%n", "--files-from=-", "source/", "empty/"}
		if nul {
			args = append(args, "--from0")
		}
		c := exec.Command("rsync", args...)
		c.Dir, c.Stdin = dir, strings.NewReader(file)
		out, err := c.CombinedOutput()
		if err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		got := slices.DeleteFunc(strings.Split(string(out), "\n"), func(s string) bool { return s == "" || s == "./" })
		l, err := ParsePathList([]byte(file), nul)
		if err != nil {
			t.Fatal(err)
		}
		var want []string
		for _, e := range tree {
			if path, isDir := strings.CutSuffix(e, "/"); l.Wants(path, isDir) {
				want = append(want, e)
			}
		}
		slices.Sort(want)
		if slices.Sort(got); !slices.Equal(got, want) {
			t.Errorf("%q: rsync sends %q, not %q", file, got, want)
		}
	}
}

// TestSelectorOfRsync compares the entries that patterns and a list of paths select together with
// those of rsync, on random trees, lists and patterns.
func TestSelectorOfRsync(t *testing.T) {
	if _, err := exec.LookPath("rsync"); err != nil {
		t.Skip("SKIPPED: the comparison with rsync needs the program rsync in the PATH")
	}
	cases := 16
	if os.Getenv("KWIKCP_ATTACK") == "long" {
		cases = 500
	}
	r := rand.New(rand.NewPCG(14, 5))
	name := func() string { return string("abcd"[r.IntN(4)]) }
	for n := range cases {
		dir := t.TempDir()
		tree := []Entry{}
		var grow func(at string, depth int)
		grow = func(at string, depth int) {
			for _, base := range []string{"a", "b", "c", "d"} {
				path := disk.JoinPath(at, base)
				switch r.IntN(4) {
				case 0:
					tree = append(tree, Entry{Path: path, Type: EntryFile})
					transfertest.Put(t, filepath.Join(dir, "source", path), "")
				case 1, 2:
					if depth == 0 {
						continue
					}
					os.Mkdir(filepath.Join(dir, "source", path), 0o755)
					tree = append(tree, Entry{Path: path, Type: EntryDir})
					grow(path, depth-1)
				}
			}
		}
		os.Mkdir(filepath.Join(dir, "source"), 0o755)
		os.Mkdir(filepath.Join(dir, "empty"), 0o755)
		grow("", 3)
		var paths []string
		for range 1 + r.IntN(4) {
			if r.IntN(5) > 0 && len(tree) > 0 {
				paths = append(paths, tree[r.IntN(len(tree))].Path)
			} else {
				paths = append(paths, name()+"/"+name())
			}
		}
		args := []string{"-r", "--dry-run", "--out-format=%n", "--files-from=-"}
		var filter Filter
		for range r.IntN(4) {
			pattern := []string{"%", "/%", "%/", "%/%", "/%/%/", "*", "*/", "%/**", "%/***"}[r.IntN(9)]
			for strings.Contains(pattern, "%") {
				pattern = strings.Replace(pattern, "%", name(), 1)
			}
			isIncluded := r.IntN(3) == 0
			option := "--exclude="
			if isIncluded {
				option = "--include="
			}
			args = append(args, option+pattern)
			if err := filter.Add(isIncluded, pattern); err != nil {
				t.Fatal(err)
			}
		}
		c := exec.Command("rsync", append(args, "source/", "empty/")...)
		c.Dir, c.Stdin = dir, strings.NewReader(strings.Join(paths, "\n")+"\n")
		out, _ := c.Output() // it fails for paths that are missing
		var want, got []string
		for line := range strings.Lines(string(out)) {
			if line = strings.Trim(line, "/\n"); line != "." && line != "" {
				want = append(want, line)
			}
		}
		list, err := ParsePathList([]byte(strings.Join(paths, "\n")), false)
		if err != nil {
			t.Fatal(err)
		}
		s, hidden := newSelector(filter, list), "/"
		for _, e := range tree {
			if strings.HasPrefix(e.Path, hidden) {
				continue
			}
			above, decision := s.next(e)
			isWhole := decision == selectionWhole
			for _, dir := range above {
				got = append(got, dir.Path)
			}
			if isWhole {
				got = append(got, e.Path)
			}
			if decision == selectionNone { // as the plan does
				hidden = e.Path + "/"
			}
			if e.Type == EntryFile && list.Selects(filter, e.Path, false) != isWhole {
				t.Errorf("case %d: %v, %q: the decision about %q is %v", n, args[4:], paths, e.Path, decision)
			}
		}
		slices.Sort(want)
		if slices.Sort(got); !slices.Equal(got, want) {
			t.Errorf("case %d: %v, %q of %v: rsync sends %q, not %q", n, args[4:], paths, tree, want, got)
		}
	}
}

// TestMirrorPaths checks that a mirror of some paths fetches them and what is below, deletes
// nothing beside them, and names those that are not there.
func TestMirrorPaths(t *testing.T) {
	source, target := t.TempDir(), t.TempDir()
	for _, name := range []string{"a", "b", "d/a", "d/e/f", "d/e/g.tmp", "d/h/i", "x/y/z", "file/"} {
		os.MkdirAll(filepath.Dir(filepath.Join(source, name)), 0o755)
		if name != "file/" {
			transfertest.Put(t, filepath.Join(source, name), name)
		}
	}
	for _, name := range []string{"mine", "b", "d/mine", "d/e/extra", "d/e/sub/extra", "d/e/keep.tmp", "x/mine"} {
		os.MkdirAll(filepath.Dir(filepath.Join(target, name)), 0o755)
		transfertest.Put(t, filepath.Join(target, name), "mine")
	}
	s := ServeTree(t, kwik.ServerRolePrimary, source, nil)
	choose := func(file string) func(*MirrorOptions) {
		return func(o *MirrorOptions) {
			o.Filter.Add(false, "*.tmp")
			o.Filter.Add(false, "/x")
			var err error
			if o.Paths, err = ParsePathList([]byte(file), false); err != nil {
				t.Fatal(err)
			}
		}
	}
	result, reports, err := s.mirror(t.Context(), target, deleting, choose("a\nd/e/\nx/y/z\n"))
	if err != nil || result.Fetched != 3 || result.Deleted != 3 { // the pattern /x does not exclude x/y/z, as in rsync
		t.Errorf("%+v, %v, %+v", result, err, reports.files)
	}
	if got, want := namesBelow(t, target), "a b d/e/f d/e/keep.tmp d/mine mine x/mine x/y/z"; got != want {
		t.Errorf("the target has %s, not %s", got, want)
	}
	some := choose("a\nnone\nd/none\nd/e/none\na/none\nx/none\nd/h\nx\n")
	result, reports, err = s.mirror(t.Context(), target, deleting, some)
	wantKind(t, err, KindNotFound, "no such file or directory on the server")
	if result.Failed != 5 || result.Fetched != 1 || result.Deleted != 0 {
		t.Errorf("%+v, %v, %+v", result, err, reports.files)
	}
	if reports.action("x") == FileFailed {
		t.Error("an excluded path failed")
	}
	result, reports, err = s.mirror(t.Context(), target, deleting, choose(""))
	if err != nil || len(reports.files) > 0 {
		t.Errorf("%+v, %v, %+v", result, err, reports.files)
	}
	result, reports, err = s.mirror(t.Context(), target, deleting, choose("/"))
	if err != nil || result.Deleted != 2 {
		t.Errorf("%+v, %v, %+v", result, err, reports.files)
	}
}

// namesBelow returns the paths of the files in a directory.
func namesBelow(t *testing.T, dir string) string {
	t.Helper()
	var names []string
	err := filepath.WalkDir(dir, func(path string, e os.DirEntry, err error) error {
		if err == nil && !e.IsDir() {
			path, err = filepath.Rel(dir, path)
			names = append(names, filepath.ToSlash(path))
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return strings.Join(names, " ")
}

// TestMirrorKeepsExcluded checks that a mirror with Delete removes nothing that the filter
// excludes. It has classes, ranges and sets, entries in the place of a directory, and entries below
// a directory that goes.
func TestMirrorKeepsExcluded(t *testing.T) {
	for _, c := range []struct {
		rules  string // of a file of --exclude-from
		source string
		target string
		kept   string // the entries of the target that stay
		failed int64
	}{
		{"[[:upper:]]*", "a", "Mine mine X/a", "Mine X/a", 0},
		{"/a[+-9]b", "a", "a+b a5b a/b", "a+b a5b", 0},
		{"a[!x]b\n/c", "a/c", "ayb a/b c", "ayb c", 0},
		{"x/***", "a", "x/y/z y/x/a xx", "x/y/z y/x/a", 0},
		{`\[a\]` + "\na\\b", "a", `[a] a\b b`, `[a] a\b`, 0},
		{"+ d/\nd", "d/a", "d", "d", 1}, // the file d is excluded, the directory is not
		{"d/", "d", "d/x e", "d/x", 1},
		{"*.keep\n", "a", "gone/x gone/y/z.keep gone/y/w", "gone/y/z.keep", 0},
		{"keep/", "a", "gone/keep/x gone/keep/y gone/z", "gone/keep/x gone/keep/y", 0},
		{"+ *.jpg\n+ */\n*", "a.jpg", "b.jpg c.png d/e.png d/f.jpg g/h.jpg", "c.png d/e.png", 0},
	} {
		source, target := t.TempDir(), t.TempDir()
		for dir, names := range map[string]string{source: c.source, target: c.target} {
			for name := range strings.FieldsSeq(names) {
				os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o755)
				transfertest.Put(t, filepath.Join(dir, name), "content")
			}
		}
		s := ServeTree(t, kwik.ServerRolePrimary, source, nil)
		filter := func(o *MirrorOptions) {
			if err := o.Filter.AddFile(false, []byte(c.rules), false); err != nil {
				t.Fatal(err)
			}
		}
		for range 2 {
			result, reports, err := s.mirror(t.Context(), target, deleting, filter)
			if (err != nil) != (c.failed > 0) || result.Failed != c.failed {
				t.Errorf("%q: %+v, %v, %+v", c.rules, result, err, reports.files)
			}
			left := namesBelow(t, target)
			for name := range strings.FieldsSeq(c.kept) {
				if !slices.Contains(strings.Fields(left), name) {
					t.Errorf("%q: %q was deleted; left: %s", c.rules, name, left)
				}
			}
			if c.failed == 0 {
				want := strings.Fields(c.source + " " + c.kept)
				if slices.Sort(want); left != strings.Join(want, " ") {
					t.Errorf("%q: left: %s", c.rules, left)
				}
			}
		}
	}
}

// FuzzPathList checks that every path of a list is selected, and the directories above it.
func FuzzPathList(f *testing.F) {
	f.Add([]byte("a/b\n../c/./\n#d\r\n/"), false)
	f.Add([]byte("a\nb\x00c"), true)
	f.Fuzz(func(t *testing.T, file []byte, nul bool) {
		l, err := ParsePathList(file, nul)
		if err != nil {
			return
		}
		for path := range l.selected {
			if !l.Wants(path, false) || !l.covers(path) || !l.Wants(path+"/x", false) {
				t.Fatalf("%q is not selected", path)
			}
			for at := path; strings.Contains(at, "/"); {
				at = at[:strings.LastIndexByte(at, '/')]
				if !l.Wants(at, true) {
					t.Fatalf("%q is not selected, but is above %q", at, path)
				}
			}
		}
	})
}

// Files of editors on Windows have a byte order mark, which is no part of the first line.
func TestByteOrderMarks(t *testing.T) {
	const text = "\ufeffa\r\n"
	list, err := ParsePathList([]byte(text), false)
	if err != nil || !list.Wants("a", false) {
		t.Errorf("the list does not want its first path: %v", err)
	}
	var f Filter
	if err := f.AddFile(false, []byte(text), false); err != nil || f.Wants("a", false) {
		t.Errorf("the filter does not exclude its first name: %v", err)
	}
	const wide = "\xff\xfea\x00\n\x00"
	if _, err := ParsePathList([]byte(wide), false); err == nil || !strings.Contains(err.Error(), "UTF-16") {
		t.Errorf("a list in UTF-16: %v", err)
	}
	if err := f.AddFile(false, []byte(wide), false); err == nil || !strings.Contains(err.Error(), "UTF-16") {
		t.Errorf("a filter in UTF-16: %v", err)
	}
	if list, err = ParsePathList([]byte(text), true); err != nil || !list.Wants("\ufeffa\r\n", false) {
		t.Errorf("with NUL bytes at the ends of lines: %v", err)
	}
}
