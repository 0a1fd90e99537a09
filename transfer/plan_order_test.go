package transfer

import (
	"kwikcp/transfer/internal/wire"
	"sort"
	"strings"
	"testing"
)

func TestCheckLink(t *testing.T) {
	for at, targets := range map[string][]string{
		"l":     {"a", "a/b", "./a", ".", "a//b", "a/."},
		"d/l":   {"..", "../a", "../d/l", "a"},
		"d/e/l": {"../..", "../../a/b", ".././.."},
	} {
		for _, target := range targets {
			if err := checkLink(at, target); err != nil {
				t.Errorf("%s -> %s: %v", at, target, err)
			}
		}
	}
	for at, targets := range map[string][]string{
		"l":     {"", "/", "/etc/passwd", "..", "../a", "a/..", "a/../..", "./..", "x\x00", strings.Repeat("a", 5000)},
		"d/l":   {"../..", "../../a", "../a/../..", "a/.."},
		"d/e/l": {"../../..", "a/../../../.."},
	} {
		for _, target := range targets {
			if checkLink(at, target) == nil {
				t.Errorf("%s -> %q is taken for one inside", at, target)
			}
		}
	}
}

// TestTreeOrder checks listings that our server never sends.
func TestTreeOrder(t *testing.T) {
	file := func(p string) Entry { return Entry{Path: p, Type: EntryFile} }
	dir := func(p string) Entry { return Entry{Path: p, Type: EntryDir} }
	for name, entries := range map[string][]Entry{
		"twice":                  {file("a"), file("a")},
		"file and directory":     {file("a"), dir("a")},
		"out of order":           {file("b"), file("a")},
		"in no directory":        {file("a/b")},
		"in a file":              {file("a"), file("a/b")},
		"in a left directory":    {dir("a"), file("b"), file("a/b")},
		"directory out of order": {dir("a"), dir("a/c"), file("a/b")},
		"two levels missing":     {dir("a"), file("a/b/c")},
	} {
		var o treeOrder
		var err error
		for _, e := range entries {
			if _, err = o.next(e); err != nil {
				break
			}
		}
		if err == nil {
			t.Errorf("%s: nobody minds", name)
		}
	}
	paths := []string{"a", "a/b", "a/b/c", "a b", "b"}
	sort.Slice(paths, func(i, j int) bool { return wire.CompareTree(paths[i], paths[j]) < 0 })
	var o treeOrder
	for _, p := range paths {
		if skip, err := o.next(dir(p)); skip || err != nil {
			t.Errorf("%q: %v, %v", p, skip, err)
		}
	}
	o = treeOrder{}
	o.next(dir("a"))
	o.hide()
	for p, want := range map[string]bool{"a/b": true} {
		if skip, err := o.next(file(p)); skip != want || err != nil {
			t.Errorf("%q: %v, %v", p, skip, err)
		}
	}
	if skip, err := o.next(file("a b")); skip || err != nil {
		t.Errorf("after what is hidden: %v, %v", skip, err)
	}
}
