package logs

import (
	"fmt"
	"strconv"
	"unicode"
	"unicode/utf8"
)

// Cut returns s, or if that is longer than limit bytes as it is written, its start and its end with
// its length between them. In a log a character that is not printable takes up to 12 bytes. A limit
// under minValue counts as minValue.
func Cut(s string, limit int) string {
	limit = max(limit, minValue)
	if isShort(s, limit) {
		return s
	}
	middle := fmt.Sprintf("...(%d bytes)...", len(s))
	left := limit - len(middle)
	head, tail := 0, len(s)
	for used := 0; ; {
		r, n := utf8.DecodeRuneInString(s[head:])
		if used += width(r, n); used > left*2/3 {
			break
		}
		head += n
	}
	for used := 0; ; {
		r, n := utf8.DecodeLastRuneInString(s[head:tail])
		if used += width(r, n); used > left/3 {
			break
		}
		tail -= n
	}
	return s[:head] + middle + s[tail:]
}

// isShort reports whether writtenLen of a text is at most limit. It looks at limit characters at
// most.
func isShort(s string, limit int) bool {
	if len(s) <= limit/maxWidth {
		return true
	}
	for used := 0; len(s) > 0; {
		r, n := utf8.DecodeRuneInString(s)
		if used += width(r, n); used > limit {
			return false
		}
		s = s[n:]
	}
	return true
}

// writtenLen returns a bound of the length of a text in a log, in bytes.
func writtenLen(s string) (n int) {
	for i := 0; i < len(s); {
		r, size := utf8.DecodeRuneInString(s[i:])
		n += width(r, size)
		i += size
	}
	return n
}

// maxWidth is the maximum of width.
const maxWidth = 12

// width returns the bytes that a character of n bytes takes at most in a log, as text or as JSON.
func width(r rune, n int) int {
	switch {
	case r == '"', r == '\\':
		return 2
	case r == utf8.RuneError && n <= 1:
		return len(`\ufffd`)
	case r < utf8.RuneSelf && strconv.IsPrint(r), unicode.IsPrint(r):
		return n
	case r > 0xffff:
		return maxWidth // \udb40\udc01
	}
	return len(`\u0000`)
}
