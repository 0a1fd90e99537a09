package cmd

import (
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"unicode"

	"github.com/dustin/go-humanize"
	"golang.org/x/term"
)

// A terminal is where a command talks to. The rules:
//
//   - stdout carries results only: a URL, a table, JSON, the bytes of a file.
//   - stderr carries talk only: "kwikcp: " and one line, no capital, no full stop; a hint stands behind it in parentheses.
//   - whatever came from the network or names a file is made printable first.
type terminal struct {
	stdout io.Writer // for lines: it gives up soon after an interruption, whether they are read or not
	bytes  io.Writer // stdout for a file's content, by whoever can wait
	stderr io.Writer
}

func (t *terminal) printf(format string, args ...any) {
	fmt.Fprintf(t.stderr, "kwikcp: "+format+"\n", args...)
}

func (t *terminal) warningf(format string, args ...any) {
	t.printf("warning: "+format, args...)
}

// errorWithHint prints an error and what to do about it, on one line that a log can hold.
func (t *terminal) errorWithHint(message, hint string) {
	if hint != "" {
		message += " (hint: " + hint + ")"
	}
	t.printf("error: %s", oneLine(message))
}

// interactive reports whether stderr is a terminal that understands cursor movements.
func (t *terminal) interactive() bool {
	f, ok := t.stderr.(*os.File)
	return ok && term.IsTerminal(int(f.Fd())) && os.Getenv("TERM") != "dumb"
}

// width returns the columns of the terminal at stderr, 80 if it has none.
func (t *terminal) width() int {
	if f, ok := t.stderr.(*os.File); ok {
		if w, _, err := term.GetSize(int(f.Fd())); err == nil && w > 0 {
			return w
		}
	}
	return 80
}

// oneLine makes text printable on one line: what is not, such as line breaks, escape sequences and marks that change the
// direction of writing, is shown as Go would write it.
func oneLine(s string) string {
	var b strings.Builder
	for _, r := range strings.ToValidUTF8(s, "\ufffd") {
		if unicode.IsPrint(r) {
			b.WriteRune(r)
		} else if r == '\n' {
			b.WriteString("; ")
		} else {
			quoted := strconv.QuoteRune(r)
			b.WriteString(quoted[1 : len(quoted)-1])
		}
	}
	return b.String()
}

// size writes bytes for people, 1024-based.
func size(n int64) string { return humanize.IBytes(uint64(max(n, 0))) }

// rate writes bytes a second for people.
func rate(r float64) string { return humanize.IBytes(uint64(max(r, 0))) + "/s" }
