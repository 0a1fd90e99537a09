package cmd

import (
	"context"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/dustin/go-humanize"
	"golang.org/x/term"

	"kwikcp/internal/escape"
	"kwikcp/internal/logs"
)

// messageGrace is how long after an interruption the last messages may still be written to stderr.
const messageGrace = 500 * time.Millisecond

// A terminal is the output of a command. The rules:
//
//   - stdout carries results only: a URL, a table, JSON, the bytes of a file.
//   - stderr carries messages only: "kwikcp: " and one line, no capital, no full stop; a hint follows in parentheses.
//   - text from the network and names of files are escaped (package escape).
type terminal struct {
	stdout io.Writer // for text; it gives up soon after an interruption if the reader blocks
	bytes  io.Writer // the same stdout, unwrapped, for the content of a file
	stderr io.Writer
	// screen is stderr as a file, nil if it is none. queue is what stands before it.
	screen *os.File
	queue  *logs.Queue
	// continued gets a value when the process goes on after it was stopped. The shell has then
	// written to the terminal. Nil never does.
	continued <-chan os.Signal
}

// isForeground reports whether the process may draw on stderr. In the background the terminal
// belongs to the shell.
func (t *terminal) isForeground() bool {
	return t.screen == nil || isForeground(t.screen)
}

// queueMessages has messages wait in a queue if stderr is a file, which may be a pipe that is not
// read. finish waits until they are written, and until messageGrace after the end of ctx at most.
func (t *terminal) queueMessages(ctx context.Context) (finish func()) {
	screen, ok := t.stderr.(*os.File)
	if !ok {
		return func() {}
	}
	t.screen = screen
	t.queue = logs.NewQueue(screen, func(lines int) []byte {
		lost := counted(int64(lines), "message was", "messages were")
		return fmt.Appendf(nil, "kwikcp: warning: %s lost, because stderr was blocked or full\n", lost)
	})
	t.stderr = t.queue
	return func() { t.queue.Close(ctx, messageGrace) }
}

// isBlocked reports whether stderr takes nothing at present.
func (t *terminal) isBlocked() bool { return t.queue != nil && t.queue.IsStuck() }

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
	return t.screen != nil && term.IsTerminal(int(t.screen.Fd())) && os.Getenv("TERM") != "dumb"
}

// width returns the columns of the terminal at stderr, 80 if stderr is none.
func (t *terminal) width() int { return columnsOf(t.screen) }

// outputWidth returns the columns of the terminal at stdout, 80 if stdout is none.
func (t *terminal) outputWidth() int {
	f, _ := t.bytes.(*os.File)
	return columnsOf(f)
}

func columnsOf(f *os.File) int {
	if f != nil {
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
