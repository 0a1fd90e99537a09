package serve

import (
	"errors"
	"io/fs"
	"kwikcp/transfer/disk"
	"kwikcp/transfer/internal/transfertest"
	"kwikcp/transfer/source"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// A long name that does not exist costs the exclusions little: they are not matched against each of
// its prefixes.
func TestAttackLongNamesUnderExclusions(t *testing.T) {
	root := t.TempDir()
	if err := os.MkdirAll(filepath.Join(root, "a/a"), 0o755); err != nil {
		t.Fatal(err)
	}
	transfertest.Put(t, filepath.Join(root, "a/a/file"), "content")
	tree, err := disk.OpenTree(root, false)
	if err != nil {
		t.Fatal(err)
	}
	defer tree.Close()
	long := strings.Repeat("a/", 16<<10-1) + "a"
	matched := 0
	rules := &visibility{excluded: func(path string, _ bool) bool {
		matched += len(path)
		return path == "secret"
	}}
	visible := newVisible(source.Local(tree), rules)
	isAbsent := func(err error) bool {
		return errors.Is(err, fs.ErrNotExist) || disk.ClassOf(err) == disk.CauseAbsent
	}
	for _, name := range []string{long, "a/a/file/" + long, "x" + long, "secret/" + long} {
		if _, err := visible.Open(t.Context(), name); !isAbsent(err) {
			t.Errorf("open: %v", err)
		}
		if _, err := visible.Stat(t.Context(), name); !isAbsent(err) {
			t.Errorf("stat: %v", err)
		}
	}
	t.Logf("%d bytes matched", matched)
	if matched > 1000 {
		t.Errorf("%d bytes were matched for 8 names of %d bytes", matched, len(long))
	}
}

// A foldingTree is a directory that ignores case: its names are in lower case.
type foldingTree struct {
	disk.TreeDir
	caseOnly bool // it does not ignore case
}

func (d foldingTree) fold(name string) string {
	if d.caseOnly {
		return name
	}
	return strings.ToLower(name)
}

func (d foldingTree) Open(name string) (disk.File, error)     { return d.TreeDir.Open(d.fold(name)) }
func (d foldingTree) Stat(name string) (fs.FileInfo, error)   { return d.TreeDir.Stat(d.fold(name)) }
func (d foldingTree) Lstat(name string) (fs.FileInfo, error)  { return d.TreeDir.Lstat(d.fold(name)) }
func (d foldingTree) At(name string) (disk.TreeDir, error)    { return d.TreeDir.At(d.fold(name)) }
func (d foldingTree) Readlink(name string) (string, error)    { return d.TreeDir.Readlink(d.fold(name)) }
func (d foldingTree) OpenPart(name string) (disk.File, error) { return nil, fs.ErrInvalid }
func (d foldingTree) Sub(name string) (disk.TreeDir, error)   { return d.TreeDir.Sub(d.fold(name)) }

// Another spelling of an excluded name leads nowhere, in a directory that ignores case. In others
// it is another name.
func TestAttackSpellingsOfExcludedNames(t *testing.T) {
	root := t.TempDir()
	if err := os.Mkdir(filepath.Join(root, "private"), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"private/secret", "note.bak", "file"} {
		transfertest.Put(t, filepath.Join(root, name), "content")
	}
	for link, to := range map[string]string{"link": "PRIVATE/secret", "tobak": "Note.bak"} {
		if err := os.Symlink(to, filepath.Join(root, link)); err != nil {
			t.Fatal(err)
		}
	}
	tree, err := disk.OpenTree(root, false)
	if err != nil {
		t.Fatal(err)
	}
	defer tree.Close()
	rules := &visibility{excluded: excludes, folded: func(path string, isDir bool) bool {
		return excludes(strings.ToLower(path), isDir)
	}}
	visible := newVisible(source.Local(foldingTree{TreeDir: tree}), rules)
	for _, name := range []string{
		"private/secret", "PRIVATE/secret", "Private/Secret", "note.bak", "NOTE.bak", "Note.BAK", "link", "tobak",
	} {
		if f, err := visible.Open(t.Context(), name); err == nil {
			f.Close()
			t.Errorf("%q opens", name)
		}
		if _, err := visible.Stat(t.Context(), name); err == nil {
			t.Errorf("%q has a description", name)
		}
	}
	if sub, err := visible.At(t.Context(), "PRIVATE"); err == nil {
		sub.Close()
		t.Error("the directory opens under another spelling")
	}
	if f, err := visible.Open(t.Context(), "FILE"); err != nil {
		t.Error(err)
	} else {
		f.Close()
	}
	transfertest.Put(t, filepath.Join(root, "Private"), "content")
	transfertest.Put(t, filepath.Join(root, "NOTE.BAK"), "content")
	visible = newVisible(source.Local(foldingTree{tree, true}), rules)
	for _, name := range []string{"Private", "NOTE.BAK"} {
		if f, err := visible.Open(t.Context(), name); err != nil {
			t.Errorf("where case counts: %v", err)
		} else {
			f.Close()
		}
	}
}
