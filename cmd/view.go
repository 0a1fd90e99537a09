package cmd

import (
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/schollz/progressbar/v3"

	"kwikcp/kwik"
	"kwikcp/transfer"
)

const (
	// plainEvery is how often a plain line is printed where there is no terminal.
	plainEvery = 10 * time.Second
	// maxServerLines bounds the lines of the bar, so that it does not scroll a small terminal.
	maxServerLines = 12
)

// A view shows a transfer to people: a bar with a line per server on a terminal, plain lines elsewhere, nothing if
// quiet. The transfer calls it at most ten times a second.
type view struct {
	t     *terminal
	quiet bool
	bar   *progressbar.ProgressBar // nil where stderr is no terminal, and before the manifest or the first bytes
	draws bool                     // stderr is a terminal
	name  string
	addrs map[kwik.ServerID]string // of the servers
	// columns returns the width of the terminal, which may change.
	columns func() int
	above   string    // a line over the bar; empty for none
	widths  []int     // of the lines of the last drawing, in columns
	drew    time.Time // when that was
	barFor  int       // the width of the terminal that the bar was made for
	last    time.Time // of the newest plain line
}

func newView(t *terminal, quiet bool, name string) *view {
	return &view{t: t, quiet: quiet, draws: t.interactive(), columns: t.width, addrs: make(map[kwik.ServerID]string), name: name, last: time.Now()}
}

// Hashing implements transfer.Reporter.
func (v *view) Hashing(bytes, total int64) {
	v.hashed("the server is hashing the file", bytes, total)
}

// hashed says how far something is that comes before the bar.
func (v *view) hashed(what string, bytes, total int64) {
	text := fmt.Sprintf("%s: %s of %s", what, size(bytes), size(total))
	switch {
	case v.quiet:
	case v.bar != nil: // bytes come already
		v.above = text
	case v.draws && v.due():
		v.draw([]string{text})
	case v.draws:
	case time.Since(v.last) >= plainEvery:
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

// begin makes the bar of a transfer of so many bytes, for the terminal as it is now.
func (v *view) begin(total int64) {
	v.barFor = v.columns()
	v.bar = progressbar.NewOptions64(max(total, 1),
		progressbar.OptionSetWriter(io.Discard),                                          // it makes the line; draw puts it on the terminal
		progressbar.OptionSetPredictTime(false), progressbar.OptionSetElapsedTime(false), // ours know what was there before
		progressbar.OptionSetWidth(max(3, min(40, v.barFor-52))),
		progressbar.OptionSetTheme(progressbar.Theme{Saucer: "=", SaucerHead: ">", SaucerPadding: " ", BarStart: "[", BarEnd: "]"}),
	)
	v.bar.RenderBlank()
}

// Checking implements transfer.Reporter.
func (v *view) Checking(bytes, total int64) {
	v.hashed("checking what is here already", bytes, total)
}

// Resume implements transfer.Reporter. On a terminal the bar begins there.
func (v *view) Resume(bytes int64) {
	if !v.quiet && !v.draws {
		v.t.printf("%s are here already", size(bytes))
	}
}

// Retry implements transfer.Reporter.
func (v *view) Retry(r transfer.Retry) {
	if v.quiet {
		return
	}
	v.clear()
	_, message, _ := explain(r.Err)
	v.t.printf("%s; retry %d of %d in %v", oneLine(message), r.Attempt, r.Of, r.Delay)
}

// Server implements transfer.Reporter. On a terminal the server's own line says it.
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
	v.t.printf("%s", oneLine(text))
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
	v.t.warningf("%s sent wrong bytes at offset %d (%d bytes); it is not asked again", oneLine(name), off, length)
}

// Progress implements transfer.Reporter.
func (v *view) Progress(p transfer.Progress) {
	if v.bar == nil && v.draws && !v.quiet {
		v.begin(p.Total) // bytes come before the manifest while the server hashes the file
	}
	switch {
	case v.quiet:
	case v.bar != nil && !v.due():
	case v.bar != nil:
		if v.bar.GetMax64() != max(p.Total, 1) || v.columns() != v.barFor { // of a range it is less than the file
			v.begin(p.Total)
		}
		v.bar.Set64(min(p.Bytes, p.Total-1)) // the bar stops at its maximum; end draws over it
		bar := strings.TrimRight(strings.Trim(v.bar.String(), "\r"), " ")
		lines := []string{strings.TrimPrefix(bar, "  ") + v.figures(p)} // the percentage keeps two columns, so that the bar stands still
		shown := p.Servers[:min(len(p.Servers), maxServerLines)]
		for _, s := range shown {
			lines = append(lines, serverLine(s, p.Total, v.columns(), addressWidth(shown, v.columns())))
		}
		if v.above != "" {
			lines = append([]string{v.above}, lines...)
		}
		v.draw(lines)
	case time.Since(v.last) >= plainEvery:
		v.plain(fmt.Sprintf("%s of %s, %s", size(p.Bytes), size(p.Total), rate(p.Rate)))
	}
}

// figures are what stands behind the bar: how much, how fast, how long, in fewer words where the terminal is narrow.
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

// remaining writes a time in no more units than matter.
func remaining(d time.Duration) string {
	if d >= time.Hour {
		return strings.TrimSuffix(d.Round(time.Minute).String(), "0s")
	}
	return d.Round(time.Second).String()
}

// wideLine is from how many columns on there is room for all that there is to say about a server.
const wideLine = 76

// addressWidth returns how many columns the addresses of servers get.
func addressWidth(servers []transfer.ServerStatus, columns int) int {
	longest := 0
	for _, s := range servers {
		longest = max(longest, len(s.Addr))
	}
	return min(longest, max(21, columns-55))
}

// serverLine says what a server does. Where the terminal is narrow it says less: of a long address the end, no role, no share, and no state
// that is as it should be.
func serverLine(s transfer.ServerStatus, total int64, columns, address int) string {
	if columns >= wideLine {
		return fmt.Sprintf("  %-9s %-*s %9s %3.0f%% %11s  %s", s.Role, address, ending(s.Addr, address), size(s.Bytes), percent(s.Bytes, total), rate(s.Rate), s.State)
	}
	figures := " " + size(s.Bytes) + " "
	if s.State == transfer.ServerJoined {
		figures += rate(s.Rate)
	} else {
		figures += string(s.State)
	}
	return " " + ending(s.Addr, columns-2-len(figures)) + figures
}

// ending returns text, or its end if it is longer than so many columns. At least a few are left of it.
func ending(text string, columns int) string {
	runes := []rune(text)
	if columns = max(columns, 8); len(runes) <= columns {
		return text
	}
	return ".." + string(runes[len(runes)-columns+2:])
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

// redrawEvery is how often there is a new drawing at most.
const redrawEvery = 100 * time.Millisecond

// due reports whether the last drawing is old enough for another. Clocks and timers are not exact, so a little is let pass.
func (v *view) due() bool { return time.Since(v.drew) >= redrawEvery-5*time.Millisecond }

// draw replaces what was drawn before.
func (v *view) draw(lines []string) {
	width := v.columns() - 1
	var b strings.Builder
	b.WriteString(v.eraser())
	v.widths = v.widths[:0]
	for _, line := range lines {
		runes := []rune(oneLine(line))
		runes = runes[:min(len(runes), width)]
		v.widths = append(v.widths, len(runes))
		b.WriteString(string(runes))
		b.WriteString("\n")
	}
	v.drew = time.Now()
	io.WriteString(v.t.stderr, b.String())
}

// clear removes what was drawn, so that a line can be printed.
func (v *view) clear() {
	io.WriteString(v.t.stderr, v.eraser())
	v.widths = v.widths[:0]
}

// eraser returns the sequence that goes up to the first drawn line and erases from there on (ECMA-48 CUU, ED). A terminal that became
// narrower shows a line in several rows.
func (v *view) eraser() string {
	if len(v.widths) == 0 {
		return ""
	}
	rows, columns := 0, max(v.columns(), 1)
	for _, width := range v.widths {
		rows += max(1, (width+columns-1)/columns)
	}
	return fmt.Sprintf("\x1b[%dA\r\x1b[J", rows)
}

// end removes the drawing; the command's last line takes its place.
func (v *view) end() { v.clear() }
