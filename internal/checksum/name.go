package checksum

import "strings"

var (
	escaper   = strings.NewReplacer(`\`, `\\`, "\n", `\n`, "\r", `\r`)
	unescaper = strings.NewReplacer(`\\`, `\`, `\n`, "\n", `\r`, "\r")
)

// Escape returns a name as sha256sum writes it, and the mark at the start of its line. The
// mark is a backslash if the name has escapes, otherwise empty.
func Escape(name string) (mark, escaped string) {
	if escaped = escaper.Replace(name); escaped != name {
		mark = `\`
	}
	return mark, escaped
}

// Unescape returns the name of a line with the mark. It reports false if an escape is unknown.
func Unescape(escaped string) (name string, ok bool) {
	for rest := escaped; ; {
		_, after, found := strings.Cut(rest, `\`)
		if !found {
			return unescaper.Replace(escaped), true
		}
		if after == "" || !strings.ContainsRune(`\nr`, rune(after[0])) {
			return "", false
		}
		rest = after[1:]
	}
}
