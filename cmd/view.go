package cmd

import (
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/rivo/uniseg"
	"github.com/schollz/progressbar/v3"

	"kwikcp/internal/escape"
	"kwikcp/kwik"
	"kwikcp/transfer"
)

const (
	// plainInterval is the time between two lines of progress where stderr is no terminal.
	plainInterval = 10 * time.Second
	// maxServerLines bounds the lines below the bar, so that a small terminal does not scroll.
	maxServerLines = 12
)

// A view shows a transfer to people. On a terminal it draws a bar and a line for each server,
// elsewhere a line now and then, and nothing if quiet. Its methods must be called by one
// goroutine at a time.
type view struct {
	t     *terminal
	quiet bool
	bar   *progressbar.ProgressBar // nil where stderr is no terminal, and before the manifest or the first bytes
	draws bool                     // stderr is a terminal
	name  string
	addrs map[kwik.ServerID]string // of the servers
	// columns returns the width of the terminal, which may change.
	columns  func() int
	above    string    // a line above the bar; empty for none
	waiting  string    // a line on what the transfer waits for; empty for nothing
	widths   []int     // of the lines of the last drawing, in columns
	drew     time.Time // when that was
	barWidth int       // the width of the terminal for which the bar was made, in columns
	last     time.Time // of the newest plain line
}

func newView(t *terminal, quiet bool, name string) *view {
	return &view{
		t: t, quiet: quiet, draws: t.interactive(), columns: t.width, addrs: make(map[kwik.ServerID]string), name: name,
		last: time.Now(),
	}
}

// Hashing implements transfer.Reporter.
func (v *view) Hashing(bytes, total int64) {
	v.preparing("the server is hashing the file", bytes, total)
}

// Checking implements transfer.Reporter.
func (v *view) Checking(bytes, total int64) {
	v.preparing("checking existing data", bytes, total)
}

// preparing shows the progress of a step before the bar.
func (v *view) preparing(step string, bytes, total int64) {
	text := fmt.Sprintf("%s: %s of %s", step, size(bytes), size(total))
	switch {
	case v.quiet:
	case v.bar != nil: // bytes arrive during the step
		v.above = text
	case v.draws && v.due():
		v.draw([]string{text})
	case v.draws:
	case time.Since(v.last) >= plainInterval:
		v.plain(text)
	}
}

// Manifest implements transfer.Reporter.
func (v *view) Manifest(m transfer.Manifest) {
	if v.quiet {
		return
	}
	v.above = ""
	if !v.draws {
		v.t.printf("%q: %s, blake3 %v", v.name, size(m.Size), m.Root)
		return
	}
	v.begin(m.Size)
}

// begin makes the bar of a transfer of total bytes, for the current width of the terminal.
func (v *view) begin(total int64) {
	v.barWidth = v.columns()
	v.bar = progressbar.NewOptions64(max(total, 1),
		progressbar.OptionSetWriter(io.Discard), // the library renders the line; draw writes it to the terminal
		// Its estimates would count resumed bytes; figures has our own.
		progressbar.OptionSetPredictTime(false), progressbar.OptionSetElapsedTime(false),
		progressbar.OptionSetWidth(max(3, min(40, v.barWidth-52))),
		progressbar.OptionSetTheme(progressbar.Theme{
			Saucer: "=", SaucerHead: ">", SaucerPadding: " ", BarStart: "[", BarEnd: "]",
		}),
	)
	v.bar.RenderBlank()
}

// Resume implements transfer.Reporter. On a terminal the bar starts there.
func (v *view) Resume(bytes int64) {
	if !v.quiet && !v.draws {
		v.t.printf("%s are already here", size(bytes))
	}
}

// Retry implements transfer.Reporter.
func (v *view) Retry(r transfer.Retry) {
	if v.quiet {
		return
	}
	v.clear()
	v.t.printf("%s; retry %d of %d in %v", escape.Line(messageOf(r.Err)), r.Attempt, r.Of, r.Delay)
}

// Waiting implements transfer.Reporter. On a terminal a line counts the seconds. Elsewhere there
// is one line for each silence, and one for its end.
func (v *view) Waiting(w transfer.Waiting) {
	wasWaiting := v.waiting != ""
	if v.waiting = waitingText(w); v.quiet {
		return
	}
	switch {
	case v.draws && v.bar == nil && w.Silent > 0:
		v.draw([]string{v.waiting})
	case v.draws:
	case w.Silent == 0:
		v.plain(w.Host + " answers again")
	case !wasWaiting:
		v.plain(v.waiting)
	}
}

// waitingText describes a silence; it is empty without one.
func waitingText(w transfer.Waiting) string {
	switch {
	case w.Silent == 0:
		return ""
	case w.Limit == 0:
		return fmt.Sprintf("waiting for an answer of %s, for %v", w.Host, w.Silent.Round(time.Second))
	}
	return fmt.Sprintf("waiting for %s: nothing has arrived for %v of %v (--stall-timeout)",
		w.Host, w.Silent.Round(time.Second), w.Limit)
}

// Server implements transfer.Reporter. On a terminal the line of the server shows its state.
func (v *view) Server(s transfer.ServerStatus) {
	v.addrs[s.ID] = s.Addr
	if v.quiet || (v.draws && s.State != transfer.ServerBanned) {
		return
	}
	text := fmt.Sprintf("%s %s: %s", s.Role, s.Addr, s.State)
	if s.Reason != "" {
		text += ", " + s.Reason
	}
	v.clear()
	v.t.printf("%s", escape.Line(text))
}

// BadBlock implements transfer.Reporter.
func (v *view) BadBlock(server kwik.ServerID, off, length int64) {
	if v.quiet {
		return
	}
	name, ok := v.addrs[server]
	if !ok {
		name = string(server)
	}
	v.clear()
	v.t.warningf("%s", escape.Line(badBlock(name, off, length)))
}

// badBlock describes bytes that failed verification.
func badBlock(server string, off, length int64) string {
	return fmt.Sprintf("%s sent wrong bytes at offset %d (%d bytes); it is banned from this transfer", server, off, length)
}

// Progress implements transfer.Reporter.
func (v *view) Progress(p transfer.Progress) {
	if v.bar == nil && v.draws && !v.quiet {
		v.begin(p.Total) // bytes arrive before the manifest while the server hashes the file
	}
	switch {
	case v.quiet:
	case v.bar != nil && !v.due():
	case v.bar != nil:
		v.drawProgress(p)
	case time.Since(v.last) >= plainInterval:
		v.plain(fmt.Sprintf("%s of %s, %s", size(p.Bytes), size(p.Total), rate(p.Rate)))
	}
}

// drawProgress draws the bar and the lines of the servers.
func (v *view) drawProgress(p transfer.Progress) {
	if v.bar.GetMax64() != max(p.Total, 1) || v.columns() != v.barWidth { // the total of a range is less than the file
		v.begin(p.Total)
	}
	v.bar.Set64(min(p.Bytes, p.Total-1)) // at its maximum the bar would stop; end erases it
	bar := strings.TrimRight(strings.Trim(v.bar.String(), "\r"), " ")
	var lines []string
	if v.above != "" {
		lines = append(lines, v.above)
	}
	if v.waiting != "" {
		lines = append(lines, v.waiting)
	}
	// The percentage keeps two columns, so that the bar stands still.
	lines = append(lines, strings.TrimPrefix(bar, "  ")+v.figures(p))
	shown := p.Servers[:min(len(p.Servers), maxServerLines)]
	for _, s := range shown {
		lines = append(lines, serverLine(s, p.Total, v.columns(), addressWidth(shown, v.columns())))
	}
	v.draw(lines)
}

// figures are the bytes, the rate and the time left, behind the bar; a narrow terminal gets fewer
// words.
func (v *view) figures(p transfer.Progress) string {
	text := " " + size(p.Bytes)
	if v.columns() >= 60 {
		text += " of " + size(p.Total)
	}
	text += ", " + rate(p.Rate)
	if p.ETA >= 0 && p.Bytes < p.Total {
		text += ", " + remaining(p.ETA)
		if v.columns() >= 60 {
			text += " left"
		}
	}
	return text
}

// remaining formats a time without units that are too small to matter.
func remaining(d time.Duration) string {
	if d >= time.Hour {
		return strings.TrimSuffix(d.Round(time.Minute).String(), "0s")
	}
	return d.Round(time.Second).String()
}

// wideLine is the least width of a terminal with room for a full line of a server, in columns.
const wideLine = 76

// addressWidth returns the columns for the addresses of servers.
func addressWidth(servers []transfer.ServerStatus, columns int) int {
	longest := 0
	for _, s := range servers {
		longest = max(longest, len(s.Addr))
	}
	return min(longest, max(21, columns-55))
}

// serverLine shows a server. On a narrow terminal it omits the role and the share, and shortens a
// long address to its end. The state replaces the rate unless the server works.
func serverLine(s transfer.ServerStatus, total int64, columns, address int) string {
	if columns >= wideLine {
		return fmt.Sprintf("  %-9s %-*s %9s %3.0f%% %11s  %s", s.Role, address, shortened(s.Addr, address), size(s.Bytes),
			percent(s.Bytes, total), rate(s.Rate), s.State)
	}
	figures := " " + size(s.Bytes) + " "
	if s.State == transfer.ServerJoined {
		figures += rate(s.Rate)
	} else {
		figures += string(s.State)
	}
	return " " + shortened(s.Addr, columns-2-len(figures)) + figures
}

// shortened returns text, or its end if it is longer than so many columns; at least 8 columns of
// it.
func shortened(text string, columns int) string {
	columns = max(columns, 8)
	excess := uniseg.StringWidth(text) - columns
	if excess <= 0 {
		return text
	}
	for clusters := uniseg.NewGraphemes(text); clusters.Next(); {
		if excess -= clusters.Width(); excess <= -len("..") {
			_, end := clusters.Positions()
			return ".." + text[end:]
		}
	}
	return ".."
}

// cut returns the start of text that fits into so many columns, and its width. Characters such as
// emoji have two.
func cut(text string, columns int) (string, int) {
	width := 0
	for clusters := uniseg.NewGraphemes(text); clusters.Next(); width += clusters.Width() {
		if start, _ := clusters.Positions(); width+clusters.Width() > columns {
			return text[:start], width
		}
	}
	return text, width
}

func percent(part, total int64) float64 {
	if total <= 0 {
		return 0
	}
	return 100 * float64(part) / float64(total)
}

func (v *view) plain(text string) {
	v.last = time.Now()
	v.t.printf("%s", text)
}

// redrawInterval is the least time between two drawings.
const redrawInterval = 100 * time.Millisecond

// due reports whether the last drawing is old enough for another. Reports are as far apart as
// drawings, so clock error gets 5 ms.
func (v *view) due() bool { return time.Since(v.drew) >= redrawInterval-5*time.Millisecond }

// draw replaces the last drawing. A terminal that was stopped (Ctrl-S) keeps it.
func (v *view) draw(lines []string) {
	v.drew = time.Now()
	if v.t.isBlocked() {
		return
	}
	width := v.columns() - 1
	var b strings.Builder
	b.WriteString(v.eraser())
	v.widths = v.widths[:0]
	if !v.t.isForeground() {
		return
	}
	for _, line := range lines {
		text, used := cut(escape.Line(line), width)
		v.widths = append(v.widths, used)
		b.WriteString(text + "\n")
	}
	io.WriteString(v.t.stderr, b.String())
}

// clear erases the drawing, so that a line can be printed.
func (v *view) clear() {
	io.WriteString(v.t.stderr, v.eraser())
	v.widths = v.widths[:0]
}

// eraser returns the sequence that moves to the first drawn line and erases from there on (ECMA-48
// CUU, ED). A terminal that became narrower shows a line in several rows. Nothing is erased where a
// shell has written since, because the process was stopped or is in the background.
func (v *view) eraser() string {
	if len(v.widths) == 0 || v.t.wasStopped() || !v.t.isForeground() {
		return ""
	}
	rows, columns := 0, max(v.columns(), 1)
	for _, width := range v.widths {
		rows += max(1, (width+columns-1)/columns)
	}
	return fmt.Sprintf("\x1b[%dA\r\x1b[J", rows)
}

// end erases the drawing; the command's last line replaces it.
func (v *view) end() { v.clear() }
