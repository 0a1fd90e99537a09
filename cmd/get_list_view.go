package cmd

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/rivo/uniseg"

	"kwikcp/internal/escape"
	"kwikcp/kwik"
	"kwikcp/transfer"
)

// A listFile shows one file of a list while it is fetched: a separate line on a terminal, and its
// part of the total. It is the Reporter of its transfer.
type listFile struct {
	transfer.NoReport
	list *listGet
	name string
	at   transfer.Progress
	// waits is set while nothing arrives. Only the reporter's methods use it.
	waits bool
}

// begin adds a file to those that are being fetched.
func (l *listGet) begin(name string) *listFile {
	f := &listFile{list: l, name: name}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.active = append(l.active, f)
	return f
}

// end removes it. The caller holds the lock.
func (f *listFile) end() {
	if i := slices.Index(f.list.active, f); i >= 0 {
		f.list.active = slices.Delete(f.list.active, i, i+1)
	}
}

// Progress implements transfer.Reporter.
func (f *listFile) Progress(p transfer.Progress) {
	f.list.mu.Lock()
	defer f.list.mu.Unlock()
	f.at = p
	f.list.show()
}

// Retry implements transfer.Reporter.
func (f *listFile) Retry(r transfer.Retry) {
	f.print(fmt.Sprintf("%q: %s; retry %d of %d in %v", f.name, messageOf(r.Err), r.Attempt, r.Of, r.Delay))
}

// Waiting implements transfer.Reporter. It prints a line for each silence.
func (f *listFile) Waiting(w transfer.Waiting) {
	if wasWaiting := f.waits; !wasWaiting && w.Silent > 0 {
		f.print(fmt.Sprintf("%q: %s", f.name, waitingText(w)))
	}
	f.waits = w.Silent > 0
}

// BadBlock implements transfer.Reporter.
func (f *listFile) BadBlock(server kwik.ServerID, off, length int64) {
	f.print(fmt.Sprintf("%q: %s", f.name, badBlock(string(server), off, length)))
}

func (f *listFile) print(text string) {
	f.list.mu.Lock()
	defer f.list.mu.Unlock()
	if v := f.list.view; v != nil {
		v.clear()
		v.t.printf("%s", escape.Line(text))
	}
}

// show draws the progress of the list if it is due. On a terminal it draws a line for the list
// and one for each file, elsewhere the line for the list. The caller holds the lock.
func (l *listGet) show() {
	v := l.view
	switch {
	case v == nil:
		return
	case v.draws && !v.due():
		return
	case !v.draws && time.Since(v.last) < plainInterval:
		return
	}
	bytes, speed := l.bytes, 0.0
	for _, f := range l.active {
		bytes, speed = bytes+f.at.Bytes, speed+f.at.Rate
	}
	files := counted(int64(l.complete), "file complete", "files complete")
	total := fmt.Sprintf("%s, %s, %s", files, size(bytes), rate(speed))
	if failed := l.lines - l.complete; failed > 0 {
		total += fmt.Sprintf(", %d failed", failed)
	}
	if !v.draws {
		v.plain(total)
		return
	}
	lines := []string{total}
	for _, f := range l.active[:min(len(l.active), maxServerLines)] {
		lines = append(lines, f.line(v.columns()))
	}
	v.draw(lines)
}

// line shows the name of a file, or its end, and its progress; a narrow terminal gets fewer
// figures.
func (f *listFile) line(columns int) string {
	figures := fmt.Sprintf("%3.0f%%", percent(f.at.Bytes, f.at.Total))
	if columns >= wideLine {
		figures = fmt.Sprintf("%9s %s %11s", size(f.at.Bytes), figures, rate(f.at.Rate))
	}
	width := columns - 4 - len(figures)
	name := shortened(escape.Line(f.name), width)
	return "  " + name + strings.Repeat(" ", max(0, width-uniseg.StringWidth(name))) + " " + figures
}
