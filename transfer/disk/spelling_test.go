package disk_test

import (
	"os"
	"path/filepath"
	"testing"

	"kwikcp/transfer/disk"
	"kwikcp/transfer/internal/transfertest"
)

func TestSpelling(t *testing.T) {
	const accented, decomposed = "\u00e9tude", "e\u0301tude"
	byCase, byForm := disk.Folding{Case: true}, disk.Folding{Form: true}
	for _, test := range []struct {
		folding          disk.Folding
		has, asked, want string
	}{
		{byCase, "foo", "FOO", "foo"},
		{byCase, "foo", "foo", "foo"},
		{byCase, "foo", "bar", "bar"},
		{byCase, "\u00e4.TXT", "\u00c4.txt", "\u00e4.TXT"},
		{byCase, accented, decomposed, decomposed},
		{byForm, accented, decomposed, accented},
		{byForm, decomposed, accented, decomposed},
		{byForm, "foo", "FOO", "FOO"},
		{disk.Folding{Case: true, Form: true}, "\u00c9TUDE", decomposed, "\u00c9TUDE"},
		{disk.Folding{}, "foo", "FOO", "FOO"},
	} {
		root := t.TempDir()
		if err := os.WriteFile(filepath.Join(root, test.has), nil, 0o600); err != nil {
			t.Fatal(err)
		}
		tree, err := disk.OpenTree(root, false)
		if err != nil {
			t.Fatal(err)
		}
		d := transfertest.FoldingDir{TreeDir: tree, Folding: test.folding}
		if got := disk.Spelling(d, test.asked); got != test.want {
			t.Errorf("%v: %q has the spelling %q, want %q", test.folding, test.asked, got, test.want)
		}
		if got, err := disk.FoldingOf(d); err != nil || got != test.folding {
			t.Errorf("%v: %v, %v", test.folding, got, err)
		}
		if names, _ := tree.Names(9); len(names) != 1 {
			t.Errorf("the directory has %q", names)
		}
		tree.Close()
	}
}

// Two files whose names differ in case are on a file system to which they differ.
func TestSpellingOfTwins(t *testing.T) {
	root := t.TempDir()
	for _, name := range []string{"foo", "FOO"} {
		if err := os.WriteFile(filepath.Join(root, name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	tree, err := disk.OpenTree(root, false)
	if err != nil {
		t.Fatal(err)
	}
	defer tree.Close()
	if names, _ := tree.Names(9); len(names) != 2 {
		t.Skip("the names are the same here")
	}
	if got := disk.Spelling(tree, "FOO"); got != "FOO" {
		t.Error(got)
	}
}
