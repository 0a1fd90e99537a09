package cmd

import (
	"fmt"
	"strconv"
	"strings"
	"testing"
	"unicode/utf8"
)

// A screen is a terminal that understands what the view uses: line feeds, returns, cursor up, erase to the end.
type screen struct {
	columns  int
	lines    []string // without the end of a line
	row, col int
	wrapped  bool   // something was wider than the screen
	widest   int    // columns of the widest line so far
	most     int    // lines that were in use at most
	strange  string // a sequence that it does not understand
	escape   string // a sequence that has begun
}

func newScreen(columns int) *screen { return &screen{columns: columns, lines: []string{""}} }

func (s *screen) Write(b []byte) (int, error) {
	for _, r := range string(b) {
		s.put(r)
	}
	return len(b), nil
}

func (s *screen) put(r rune) {
	switch {
	case s.escape != "":
		s.escape += string(r)
		if s.escape != "\x1b[" && ('@' <= r && r <= '~' || len(s.escape) > 10) {
			s.perform(s.escape)
			s.escape = ""
		}
	case r == '\x1b':
		s.escape = string(r)
	case r == '\r':
		s.col = 0
	case r == '\n':
		s.row, s.col = s.row+1, 0
	case r < ' ' || r == 0x7f:
		s.strange = strconv.QuoteRune(r)
	default:
		if s.col == s.columns {
			s.row, s.col, s.wrapped = s.row+1, 0, true
		}
		s.grow()
		line := []rune(s.lines[s.row])
		s.lines[s.row] = string(append(line[:s.col:s.col], r))
		s.col++
		s.widest = max(s.widest, s.col)
	}
	s.grow()
}

func (s *screen) grow() {
	for len(s.lines) <= s.row {
		s.lines = append(s.lines, "")
	}
	s.most = max(s.most, len(s.lines))
}

func (s *screen) perform(escape string) {
	body := strings.TrimPrefix(escape, "\x1b[")
	if up, ok := strings.CutSuffix(body, "A"); ok {
		n, err := strconv.Atoi(up)
		if err != nil || n > s.row {
			s.strange = strconv.Quote(escape) + " at row " + strconv.Itoa(s.row)
			return
		}
		s.row -= n
	} else if body == "J" {
		s.lines = append(s.lines[:s.row], string([]rune(s.lines[s.row])[:min(s.col, utf8.RuneCountInString(s.lines[s.row]))]))
	} else {
		s.strange = strconv.Quote(escape)
	}
}

// resize gives the screen another width. Lines that are too wide are shown in several rows, as most terminals do.
func (s *screen) resize(columns int) {
	var lines []string
	row := 0
	for i, line := range s.lines {
		if i == s.row {
			row = len(lines)
		}
		for runes := []rune(line); ; runes = runes[columns:] {
			if len(runes) <= columns {
				lines = append(lines, string(runes))
				break
			}
			lines = append(lines, string(runes[:columns]))
		}
	}
	s.columns, s.lines, s.row = columns, lines, row
}

// String returns what is to be seen.
func (s *screen) String() string { return strings.Trim(strings.Join(s.lines, "\n"), "\n") }

func TestScreen(t *testing.T) {
	s := newScreen(5)
	fmt.Fprint(s, "keep\none\ntwo\n\x1b[2A\r\x1b[JX\n123456\n")
	if got := s.String(); got != "keep\nX\n12345\n6" || !s.wrapped || s.strange != "" {
		t.Errorf("%q, %+v", got, s)
	}
}
