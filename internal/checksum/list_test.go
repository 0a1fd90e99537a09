package checksum

import (
	"fmt"
	"strings"
	"testing"
)

// hexOf returns a hash whose digits are those of n.
func hexOf(n int) string { return fmt.Sprintf("%064x", n) }

func readList(t *testing.T, lines ...string) *List {
	t.Helper()
	l, err := ReadList(strings.NewReader(strings.Join(lines, "\n")))
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func TestListOfFile(t *testing.T) {
	l := readList(t, hexOf(1)+"  ./a.iso", hexOf(2)+"  b/a.iso", hexOf(3)+"  c/d.iso", hexOf(4)+"  x/e",
		hexOf(5)+"  y/e", hexOf(6)+"  x/same", hexOf(6)+"  y/same",
		"MD5 (two) = "+hexOf(7)[32:], "SHA256 (two) = "+hexOf(7), hexOf(8)+"  both", hexOf(9)+"  both",
		"SHA256 (bad) = "+hexOf(8), "SHA256 (bad) = "+hexOf(9), hexOf(10)+"  /abs/f")
	for at, want := range map[string]string{
		"a.iso":       hexOf(1),
		"z/a.iso":     hexOf(1),
		"b/a.iso":     hexOf(2),
		"z/b/a.iso":   hexOf(2),
		"d.iso":       hexOf(3),
		"z/d.iso":     hexOf(3),
		"x/e":         hexOf(4),
		"y/e":         hexOf(5),
		"e":           `it names several files "e", such as "x/e" and "y/e"`,
		"z/e":         `it names several files "e", such as "x/e" and "y/e"`,
		"same":        hexOf(6),
		"two":         "md5=" + hexOf(7)[32:] + " sha256=" + hexOf(7),
		"both":        hexOf(8) + " " + hexOf(9), // one of SHA-256, one of BLAKE3
		"bad":         `it has different hashes for "bad"`,
		"abs/f":       hexOf(10),
		"none":        "",
		"aa.iso":      "",
		"a.iso/other": "",
	} {
		sums, err := l.OfFile(at)
		got := strings.Trim(fmt.Sprint(sums), "[]")
		if err != nil {
			got = err.Error()
		}
		if got != want {
			t.Errorf("%s: %s, want %s", at, got, want)
		}
	}
	if err := l.Check(); err == nil || !strings.Contains(err.Error(), `"bad"`) {
		t.Error(err)
	}
}

func TestListInTree(t *testing.T) {
	l := readList(t, hexOf(1)+"  ./a", hexOf(2)+"  sub/a", hexOf(3)+"  photos/b", hexOf(4)+"  srv/photos/c")
	for _, x := range []struct{ above, at, name string }{
		{"", "a", "a"}, {"", "sub/a", "sub/a"}, {"", "other/a", ""}, {"photos", "a", "a"}, {"photos", "sub/a", "sub/a"},
		{"photos", "b", "photos/b"}, {"srv/photos", "b", "photos/b"}, {"srv/photos", "c", "srv/photos/c"},
		{"photos", "c", ""}, {"", "b", ""},
		{"sub", "a", "a"}, // a name relative to the tree wins
	} {
		if name, sums := l.InTree(x.above, x.at); name != x.name || (sums == nil) != (name == "") {
			t.Errorf("%+v: %q, %v", x, name, sums)
		}
	}
	if err := l.Check(); err != nil {
		t.Error(err)
	}
}

func TestReadListRefuses(t *testing.T) {
	for _, text := range []string{"", "# only a comment\n", "<html>\n", hexOf(1)} {
		if _, err := ReadList(strings.NewReader(text)); err == nil {
			t.Errorf("%q is a list", text)
		}
	}
}
