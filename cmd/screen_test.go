package cmd

import (
	"bytes"
	"io"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"unicode"

	"github.com/charmbracelet/x/ansi"
	"github.com/charmbracelet/x/vt"
)

// screenRows is the height of a screen, as that of the smallest usual terminal.
const screenRows = 24

// A screen is an emulated terminal that a view draws on. It records what no drawing of a view may
// do.
type screen struct {
	emulator *vt.Emulator
	columns  int
	full     bool // a line reached the last column, where terminals differ in when they wrap
	tallest  int  // the most rows in use, the cursor's included
	above    bool // the cursor was moved above the first row
	written  bytes.Buffer
}

func newScreen(columns int) *screen {
	s := &screen{emulator: vt.NewEmulator(columns, screenRows), columns: columns}
	s.emulator.RegisterCsiHandler('A', func(params ansi.Params) bool {
		n, _, _ := params.Param(0, 1)
		s.above = s.above || n > s.emulator.CursorPosition().Y
		return false // the emulator moves the cursor
	})
	return s
}

// Write implements io.Writer. Like the driver of a terminal it adds a carriage return to each line
// feed.
func (s *screen) Write(b []byte) (int, error) {
	s.written.Write(b)
	for line := range bytes.Lines(b) {
		if text, ended := bytes.CutSuffix(line, []byte("\n")); ended {
			s.emulator.Write(text)
			s.look()
			s.emulator.WriteString("\r\n")
		} else {
			s.emulator.Write(line)
		}
		s.look()
	}
	return len(b), nil
}

// look records how wide and how tall the content is.
func (s *screen) look() {
	s.tallest = max(s.tallest, s.emulator.CursorPosition().Y+1)
	for y := range screenRows {
		cell := s.emulator.CellAt(s.columns-1, y)
		s.full = s.full || !cell.IsZero() && cell.Content != " "
	}
}

// drawn matches the sequences that a view may write: cursor up, erase to the end, carriage return
// and line feed.
var drawn = regexp.MustCompile(`\x1b\[\d+A|\x1b\[J|[\r\n]`)

// strange returns the first thing that no view may write, quoted; empty if there is none.
func (s *screen) strange() string {
	if s.above {
		return "cursor above the first row"
	}
	rest := drawn.ReplaceAllString(s.written.String(), "")
	if i := strings.IndexFunc(rest, unicode.IsControl); i >= 0 {
		return strconv.Quote(rest[i:min(i+10, len(rest))])
	}
	return ""
}

// resize gives the screen another width. Like most terminals it shows a line that is too wide in
// several rows. The cursor must be at the start of a row.
func (s *screen) resize(columns int) {
	resized := newScreen(columns)
	io.WriteString(resized, s.String()+"\n")
	s.emulator, s.columns = resized.emulator, columns
}

// String returns the lines that scrolled off and those on the screen, without empty ones at the
// start and end.
func (s *screen) String() string {
	var lines []string
	for _, line := range s.emulator.Scrollback().Lines() {
		lines = append(lines, strings.TrimRight(line.String(), " "))
	}
	for line := range strings.Lines(s.emulator.String()) {
		lines = append(lines, strings.TrimRight(line, " \n"))
	}
	return strings.Trim(strings.Join(lines, "\n"), "\n")
}

func TestScreen(t *testing.T) {
	s := newScreen(5)
	io.WriteString(s, "keep\none\ntwo\n\x1b[2A\r\x1b[JX\n1234\n")
	if got, want := s.String(), "keep\nX\n1234"; got != want || s.strange() != "" {
		t.Errorf("%q, want %q; strange %s", got, want, s.strange())
	}
	if s.full || s.tallest != 4 {
		t.Errorf("full %v, %d rows; want 4 rows that are not full", s.full, s.tallest)
	}
	io.WriteString(s, "123456\n")
	if got, want := s.String(), "keep\nX\n1234\n12345\n6"; got != want || !s.full {
		t.Errorf("%q, want %q; full %v", got, want, s.full)
	}
	io.WriteString(s, strings.Repeat("more\n", screenRows))
	if got := s.String(); !strings.HasPrefix(got, "keep\nX\n") || strings.Count(got, "more") != screenRows {
		t.Errorf("lines that scrolled off are not in %q", got)
	}
	for _, text := range []string{"\a", "\x1b[31m", "\x1b]0;title\a", "\x1b[99A"} {
		s := newScreen(5)
		if io.WriteString(s, text); s.strange() == "" {
			t.Errorf("%q is not strange", text)
		}
	}
}
