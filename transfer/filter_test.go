package transfer

import (
	"strings"
	"testing"
)

// TestFilter checks that a Filter passes its rules on; package pattern has the tests of patterns.
func TestFilter(t *testing.T) {
	f := Filter{IgnoreCase: true}
	if err := f.Add(true, "*/"); err != nil {
		t.Fatal(err)
	}
	if err := f.AddFile(false, []byte("# the pictures\r\n+ *.[jJ]pg\n*\n"), false); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]bool{"x.JPG": true, "d/x.jpg": true, "d/": true, "d": false} {
		if path, isDir := strings.CutSuffix(name, "/"); f.Wants(path, isDir) != want {
			t.Errorf("%q is wanted: %v", name, !want)
		}
	}
	for want, err := range map[string]error{
		"column 5: the set has no end: a ] is missing":          f.Add(false, "- a/[b"),
		"line 2, column 2: unknown character class [:capital:]": f.AddFile(true, []byte("a\n[[:capital:]]*"), false),
		"line 1, column 2: unknown character class [:x:]":       f.AddFile(true, []byte("[[:x:]]\x00b"), true),
	} {
		if err == nil || err.Error() != want {
			t.Errorf("%v, and not %q", err, want)
		}
	}
	if !f.Wants("a.jpg", false) || f.Wants("a", false) {
		t.Error("rules with an error left something")
	}
}
