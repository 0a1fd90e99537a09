package cmd

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"kwikcp/kwik"
	"kwikcp/transfer"
)

// A listFile shows people one file of a list while it is fetched: a line of its own on a terminal, and its part of the total. It is its
// transfer's Reporter.
type listFile struct {
	transfer.NoReport
	list *listRun
	name string
	at   transfer.Progress
}

// begin takes note that a file is being fetched.
func (l *listRun) begin(name string) *listFile {
	f := &listFile{list: l, name: name}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.active = append(l.active, f)
	return f
}

// end takes note that it is not any more. Called with the lock held.
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
	_, message, _ := explain(r.Err)
	f.say(fmt.Sprintf("%q: %s; retry %d of %d in %v", f.name, message, r.Attempt, r.Of, r.Delay))
}

// BadBlock implements transfer.Reporter.
func (f *listFile) BadBlock(server kwik.ServerID, off, length int64) {
	f.say(fmt.Sprintf("%q: %s sent wrong bytes at offset %d (%d bytes); it is not asked again", f.name, server, off, length))
}

func (f *listFile) say(text string) {
	f.list.mu.Lock()
	defer f.list.mu.Unlock()
	if v := f.list.view; v != nil {
		v.clear()
		v.t.printf("%s", oneLine(text))
	}
}

// show draws how far the list is, if that is due: a line for all of it and one for each file on a terminal, the first of them
// elsewhere. Called with the lock held.
func (l *listRun) show() {
	v := l.view
	if v == nil || v.draws && !v.due() || !v.draws && time.Since(v.last) < plainEvery {
		return
	}
	bytes, speed := l.bytes, 0.0
	for _, f := range l.active {
		bytes, speed = bytes+f.at.Bytes, speed+f.at.Rate
	}
	total := fmt.Sprintf("%s, %s, %s", files(l.here), size(bytes), rate(speed))
	if failed := l.lines - l.here; failed > 0 {
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

// line says how far a file is: its name, or the end of it, and figures, fewer where the terminal is narrow.
func (f *listFile) line(columns int) string {
	figures := fmt.Sprintf("%3.0f%%", percent(f.at.Bytes, f.at.Total))
	if columns >= wideLine {
		figures = fmt.Sprintf("%9s %s %11s", size(f.at.Bytes), figures, rate(f.at.Rate))
	}
	width := columns - 4 - len(figures)
	name := ending(oneLine(f.name), width)
	return "  " + name + strings.Repeat(" ", max(0, width-len([]rune(name)))) + " " + figures
}

func files(n int) string {
	if n == 1 {
		return "1 file is here"
	}
	return fmt.Sprintf("%d files are here", n)
}
