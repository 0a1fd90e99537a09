// Package escape makes text from the network, or the names of files, safe to show. No control
// character, no escape sequence and no mark that changes the direction of writing reaches a
// terminal or a log.
package escape

import (
	"fmt"
	"io"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf16"
	"unicode/utf8"
)

// Line returns text as one printable line, for a message. A line break becomes "; ", bytes
// that are not UTF-8 become U+FFFD, and other unprintable characters are written as in Go
// (\x1b). Line is idempotent.
func Line(s string) string {
	var b strings.Builder
	for _, r := range strings.ToValidUTF8(s, "\ufffd") {
		switch {
		case unicode.IsPrint(r):
			b.WriteRune(r)
		case r == '\n':
			b.WriteString("; ")
		default:
			b.WriteString(quoted(r))
		}
	}
	return b.String()
}

// Name returns a name of any bytes as one printable line. Different names stay different: a
// backslash is doubled, and a byte that is not UTF-8 becomes \xff.
func Name(name string) string {
	var b strings.Builder
	for i := 0; i < len(name); {
		r, n := utf8.DecodeRuneInString(name[i:])
		switch {
		case r == utf8.RuneError && n == 1:
			fmt.Fprintf(&b, `\x%02x`, name[i])
		case r == '\\':
			b.WriteString(`\\`)
		case unicode.IsPrint(r):
			b.WriteRune(r)
		default:
			b.WriteString(quoted(r))
		}
		i += n
	}
	return b.String()
}

// quoted returns a character as Go writes it in a literal, without the quotes.
func quoted(r rune) string {
	q := strconv.QuoteRune(r)
	return q[1 : len(q)-1]
}

// Reason returns text of a peer, at most limit bytes of it, with a question mark for each
// character that is not graphic. It is for short texts that are passed on: the length does not
// grow.
func Reason(s string, limit int) string {
	if len(s) > limit {
		s = s[:limit]
	}
	return strings.Map(func(r rune) rune {
		if r == utf8.RuneError || !unicode.IsGraphic(r) {
			return '?'
		}
		return r
	}, s)
}

// JSON returns a writer for JSON text. It writes a \u escape for each character that JSON
// allows in a string and that is not printable. Each Write must hold whole values.
func JSON(w io.Writer) io.Writer { return jsonWriter{w} }

type jsonWriter struct{ w io.Writer }

func (j jsonWriter) Write(b []byte) (int, error) {
	escaped := make([]byte, 0, len(b))
	for _, r := range string(b) {
		switch {
		case r < 0x7f || unicode.IsPrint(r):
			escaped = utf8.AppendRune(escaped, r)
		case r > 0xffff:
			high, low := utf16.EncodeRune(r)
			escaped = fmt.Appendf(escaped, `\u%04x\u%04x`, high, low)
		default:
			escaped = fmt.Appendf(escaped, `\u%04x`, r)
		}
	}
	if _, err := j.w.Write(escaped); err != nil {
		return 0, err
	}
	return len(b), nil
}
