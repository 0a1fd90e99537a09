package cmd

import (
	"bytes"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"kwikcp/transfer"
)

// A list has a line for all of it and one for each file under way. None reaches the last column,
// and at the end nothing of them is left.
func TestListView(t *testing.T) {
	for columns, want := range map[int][]string{
		20:  {"2 files complete, 1", "a 25%", awkwardEnd + " 100%"},
		80:  {"2 files complete, 110 MiB, 3.0 MiB/s, 1 failed\n  a ", " 10 MiB  25%   2.0 MiB/s\n", "100 MiB 100%   1.0 MiB/s"},
		200: {"2 files complete, 110 MiB, 3.0 MiB/s, 1 failed\n", awkwardEnd + " "},
	} {
		synctest.Test(t, func(t *testing.T) {
			s := newScreen(columns)
			l := &listGet{view: newView(&terminal{stderr: s}, false, ""), lines: 3, complete: 2}
			l.view.draws, l.view.columns = true, func() int { return columns }
			a, b := l.begin("a"), l.begin(strings.Repeat(awkward, 3)+awkwardEnd)
			b.Progress(transfer.Progress{Bytes: 100 << 20, Total: 100 << 20, Rate: 1 << 20})
			time.Sleep(redrawInterval)
			a.Progress(transfer.Progress{Bytes: 10 << 20, Total: 40 << 20, Rate: 2 << 20})
			a.Progress(transfer.Progress{Bytes: 11 << 20, Total: 40 << 20, Rate: 2 << 20}) // too soon
			got := s.String() + "\n"
			for _, want := range want {
				if !strings.Contains(strings.Join(strings.Fields(got), " "), strings.Join(strings.Fields(want), " ")) {
					t.Errorf("%d columns: no %q in\n%s", columns, want, got)
				}
			}
			if s.full || s.strange() != "" {
				t.Errorf("%d columns: full %v, strange %s:\n%s", columns, s.full, s.strange(), got)
			}
			l.view.clear()
			if got := s.String(); got != "" {
				t.Errorf("%d columns: left %q", columns, got)
			}
			a.Retry(transfer.Retry{Attempt: 1, Of: 3, Delay: time.Second, Err: errors.New("lost")})
			if got := strings.ReplaceAll(s.String(), "\n", ""); got != `kwikcp: "a": lost; retry 1 of 3 in 1s` {
				t.Errorf("%d columns: %q", columns, got)
			}
		})
	}
}

const awkwardEnd = "…end🙂"

// Elsewhere there is a line for all of it now and then, and there is none for who wants none.
func TestListViewPlain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var stderr bytes.Buffer
		l := &listGet{view: newView(&terminal{stderr: &stderr}, false, ""), lines: 1, complete: 1, bytes: 1 << 20}
		f := l.begin("f")
		for range 25 {
			f.Progress(transfer.Progress{Bytes: 1 << 20, Total: 4 << 20, Rate: 1 << 20})
			time.Sleep(time.Second)
		}
		if want := strings.Repeat("kwikcp: 1 file complete, 2.0 MiB, 1.0 MiB/s\n", 2); stderr.String() != want {
			t.Errorf("%q", stderr.String())
		}
		quiet := &listGet{quiet: true}
		q := quiet.begin("f")
		q.Progress(transfer.Progress{})
		q.Retry(transfer.Retry{Err: errors.New("lost")})
		q.end()
		if len(quiet.active) > 0 {
			t.Error("it has not ended")
		}
	})
}
