package pattern

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
)

// This file makes random trees and patterns that fit them often.

// An entry is one of a tree; a directory ends with a slash.
type entry string

func (e entry) path() string { return strings.TrimSuffix(string(e), "/") }
func (e entry) isDir() bool  { return strings.HasSuffix(string(e), "/") }

// components are the names of the entries of a tree. All special characters are among them.
var components = []string{
	"a", "b", "ab", "ba", "aab", "A", "B1", "foo", "foo.o", "bar.c", "x.tmp", "1", "22", "a-b", "a b", "-", "- a",
	"+ b", "!", "!a", "^a", "#c", ";d", "[", "]", "[a]", "a]", "*", "a*b", "**", "?", `\`, `a\b`, `\*`, "é", "\xe9",
	"_", ".", "a.", ".a", "a,b", "{a}", "z", "Z", "0", "~", ":", "a:", "=a=", "$", "'", "\"", "&", "|", "<", "(",
	")", "%", "@", ".kwikcp-0.part", "lost+found",
}

// randomTree returns a tree with n entries, each directory before its entries.
func randomTree(r *rand.Rand, n int) []entry {
	tree, taken := []entry{"d/", "d/e/", "d/e/f/"}, map[string]bool{"d": true, "d/e": true, "d/e/f": true}
	dirs := []string{"", "", "d/", "d/e/", "d/e/f/"}
	for len(tree) < n {
		name := components[r.IntN(len(components))]
		if name == "." || r.IntN(4) == 0 {
			name += components[r.IntN(len(components))]
		}
		at := dirs[r.IntN(len(dirs))] + name
		if name == ".." || taken[at] || strings.Count(at, "/") > 4 {
			continue
		}
		taken[at] = true
		if r.IntN(3) == 0 {
			at += "/"
			dirs = append(dirs, at)
		}
		tree = append(tree, entry(at))
	}
	return tree
}

// randomPattern returns a pattern, often one that matches an entry of the tree.
func randomPattern(r *rand.Rand, tree []entry) string {
	path := tree[r.IntN(len(tree))].path()
	parts := strings.Split(path, "/")
	parts = parts[r.IntN(len(parts)):]
	if len(parts) > 1 && r.IntN(3) == 0 {
		parts = parts[:1+r.IntN(len(parts)-1)]
	}
	for i, part := range parts {
		parts[i] = blur(r, part)
	}
	text := strings.Join(parts, "/")
	pick := func(n int, s string) string {
		if r.IntN(n) == 0 {
			return s
		}
		return ""
	}
	text = pick(4, "/") + pick(12, "**") + pick(12, "**/") + pick(15, "*/") + text
	text += pick(12, "*") + pick(12, "**") + pick(15, "/*") + pick(12, "/**") + pick(10, "/***") + pick(30, "***")
	return text + pick(6, "/")
}

// blur replaces some bytes of a name by wildcards that match them, and by some that may not.
func blur(r *rand.Rand, name string) string {
	var b strings.Builder
	for i := 0; i < len(name); i++ {
		c := name[i]
		switch r.IntN(16) {
		case 0, 1:
			b.WriteByte('?')
		case 2:
			b.WriteByte('*')
		case 3:
			b.WriteString("*")
			i = len(name)
		case 4, 5, 6:
			b.WriteString(randomSet(r, c))
		case 7:
			b.WriteString(`\` + string(rune(c&0x7f)))
		case 8:
			b.WriteString(snippets[r.IntN(len(snippets))])
		default:
			if strings.IndexByte(`*?[\`, c) >= 0 && r.IntN(2) == 0 {
				b.WriteByte('\\')
			}
			b.WriteByte(c)
		}
	}
	return b.String()
}

var (
	snippets   = []string{"**", "***", "[", "]", "*?", "?*", `\`, "/", "**/", "a", "[!]", "[]", "-", " "}
	inSets     = []string{"[:", "-", "--", "[", "[.a.]", "[=a=]", "+-9", "a-c-e", `\]`, "[:upper]", "]"}
	classNames = append(slices.Sorted(maps.Keys(classes)), "word", "")
)

// randomSet returns a set that often has a byte.
func randomSet(r *rand.Rand, c byte) string {
	var b strings.Builder
	b.WriteString("[" + []string{"", "", "", "!", "^"}[r.IntN(5)])
	any := func() byte { return "abzAZ019-]![^\\:*?/., \xc3\xa9"[r.IntN(22)] }
	for range 1 + r.IntN(4) {
		switch r.IntN(12) {
		case 0, 1:
			b.WriteByte(any())
		case 2, 3, 4, 5:
			b.WriteByte(c)
		case 6:
			fmt.Fprintf(&b, "%c-%c", c&0x7f, any()&0x7f)
		case 7:
			fmt.Fprintf(&b, "%c-%c", max(c&0x7f, 2)-1, c&0x7f)
		case 8, 9:
			fmt.Fprintf(&b, "[:%s:]", classNames[r.IntN(len(classNames))])
		case 10:
			fmt.Fprintf(&b, `\%c`, any()&0x7f)
		case 11:
			b.WriteString(inSets[r.IntN(len(inSets))])
		}
	}
	return b.String() + "]"
}
