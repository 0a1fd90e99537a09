package serve

import (
	"strings"
	"testing"
)

func TestScope(t *testing.T) {
	s := scope{"a/b/", "a.iso", "deep/er/file", "z/"}
	for path, want := range map[string]string{
		"":              "shown",
		"a":             "shown",
		"a/b":           "allowed",
		"a/b/c":         "allowed",
		"a/b/c/d":       "allowed",
		"a/bc":          "hidden",
		"a/b.txt":       "hidden",
		"a/c":           "hidden",
		"a.iso":         "allowed",
		"a.iso/x":       "hidden",
		"a.is":          "hidden",
		"a.iso2":        "hidden",
		"A/b/c":         "hidden",
		"deep":          "shown",
		"deep/er":       "shown",
		"deep/e":        "hidden",
		"deep/er/file":  "allowed",
		"deep/er/file2": "hidden",
		"z":             "allowed",
		"zz":            "hidden",
		"b":             "hidden",
		"/a/b":          "hidden",
		"a/b/../../x":   "allowed", // and no path on the wire: wire.CheckPath refuses it first
	} {
		got := "hidden"
		if s.allows(path) {
			got = "allowed"
		} else if s.shows(path) {
			got = "shown"
		}
		if got != want {
			t.Errorf("%q is %s, want %s", path, got, want)
		}
		if !everything.allows(path) || !everything.shows(path) {
			t.Errorf("%q is not part of everything", path)
		}
		if (scope)(nil).allows(path) || (scope)(nil).shows(path) {
			t.Errorf("%q is part of nothing", path)
		}
	}
}

// Whatever the paths are: what is allowed is below what is shown, and so is everything around it.
func FuzzScope(f *testing.F) {
	f.Add("a/b/", "a.iso", "a/b/c")
	f.Add("", "x", "y/z")
	f.Fuzz(func(t *testing.T, one, two, path string) {
		s := scope{one, two}
		if s.allows(path) && !s.shows(path) {
			t.Errorf("%q: %q is allowed and hidden", s, path)
		}
		for around := path; s.shows(path); {
			i := strings.LastIndexByte(around, '/')
			if i < 0 {
				break
			}
			if around = around[:i]; !s.shows(around) && !strings.HasSuffix(one+"|"+two, "//") {
				t.Errorf("%q: %q is shown, %q around it is not", s, path, around)
			}
		}
		if s.allows(path) && !strings.HasPrefix(path+"/", one) && !strings.HasPrefix(path+"/", two) {
			t.Errorf("%q allows %q", s, path)
		}
	})
}
