package cmd

import (
	"fmt"
	"io"
	"os"

	"github.com/dustin/go-humanize"
	"golang.org/x/term"

	"kwikcp/internal/escape"
)

// A terminal is the output of a command. The rules:
//
//   - stdout carries results only: a URL, a table, JSON, the bytes of a file.
//   - stderr carries messages only: "kwikcp: " and one line, no capital, no full stop; a hint follows in parentheses.
//   - text from the network and names of files are escaped (package escape).
type terminal struct {
	stdout io.Writer // for text; it gives up soon after an interruption if the reader blocks
	bytes  io.Writer // the same stdout, unwrapped, for the content of a file
	stderr io.Writer
	// continued gets a value when the process goes on after it was stopped. The shell has then
	// written to the terminal. Nil never does.
	continued <-chan os.Signal
}

// isForeground reports whether the process may draw on stderr. In the background the terminal
// belongs to the shell.
func (t *terminal) isForeground() bool {
	f, ok := t.stderr.(*os.File)
	return !ok || isForeground(f)
}

// wasStopped reports whether the process was stopped since the last call.
func (t *terminal) wasStopped() bool {
	select {
	case <-t.continued:
		return true
	default:
		return false
	}
}

func (t *terminal) printf(format string, args ...any) {
	fmt.Fprintf(t.stderr, "kwikcp: "+format+"\n", args...)
}

func (t *terminal) warningf(format string, args ...any) {
	t.printf("warning: "+format, args...)
}

// errorWithHint prints an error and its hint on one line.
func (t *terminal) errorWithHint(message, hint string) {
	if hint != "" {
		message += " (hint: " + hint + ")"
	}
	t.printf("error: %s", escape.Line(message))
}

// interactive reports whether stderr is a terminal that understands cursor movements.
func (t *terminal) interactive() bool {
	f, ok := t.stderr.(*os.File)
	return ok && term.IsTerminal(int(f.Fd())) && os.Getenv("TERM") != "dumb"
}

// width returns the columns of the terminal at stderr, 80 if stderr is none.
func (t *terminal) width() int { return columnsOf(t.stderr) }

// outputWidth returns the columns of the terminal at stdout, 80 if stdout is none.
func (t *terminal) outputWidth() int { return columnsOf(t.bytes) }

func columnsOf(w io.Writer) int {
	if f, ok := w.(*os.File); ok {
		if columns, _, err := term.GetSize(int(f.Fd())); err == nil && columns > 0 {
			return columns
		}
	}
	return 80
}

// size formats a number of bytes for people, in powers of 1024.
func size(n int64) string { return humanize.IBytes(uint64(max(n, 0))) }

// rate formats bytes per second for people.
func rate(r float64) string { return humanize.IBytes(uint64(max(r, 0))) + "/s" }

// counted formats a number of things.
func counted(n int64, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, many)
}
