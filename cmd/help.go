package cmd

import (
	"fmt"
	"strings"
	"unicode/utf8"

	"github.com/urfave/cli/v2"
)

// This file renders --help from the command definitions, in 80 columns or the terminal's width if that is smaller.
// urfave/cli's own printer does not wrap.

const (
	// maxHelpWidth bounds the lines of help, in columns.
	maxHelpWidth = 80
	// minHelpWidth is the width that help keeps on a narrower terminal.
	minHelpWidth = 40
	// helpIndent is the column at which help of an option or command begins.
	helpIndent = 26
)

// literal returns a text as a template of urfave/cli that prints it.
func literal(text string) string { return strings.ReplaceAll(text, "{{", `{{"{{"}}`) }

// appHelp returns the help of kwikcp itself.
func appHelp(app *cli.App, width int) string {
	h := newHelpWriter(width)
	h.section("NAME")
	h.wrapped(3, 3, "kwikcp - "+app.Usage)
	h.section("USAGE")
	h.wrapped(3, 7, app.UsageText)
	h.section("COMMANDS")
	for _, c := range app.Commands {
		h.entry(c.Name, c.Usage)
	}
	h.section("OPTIONS")
	h.entry("--help, -h", "show help")
	h.entry("--version, -v", "print the version")
	h.blank()
	h.wrapped(0, 0, "kwikcp COMMAND --help describes a command. kwikcp demo shows a transfer on this machine.")
	return h.b.String()
}

// commandHelp returns the help of a command.
func commandHelp(c *cli.Command, width int) string {
	h := newHelpWriter(width)
	h.section("NAME")
	h.wrapped(3, 3, "kwikcp "+c.Name+" - "+c.Usage)
	h.section("USAGE")
	for form := range strings.Lines(c.UsageText) {
		h.wrapped(3, 7, strings.TrimSuffix(form, "\n"))
	}
	if c.Description != "" {
		h.section("DESCRIPTION")
		h.text(3, c.Description)
	}
	h.section("OPTIONS")
	for _, f := range visibleFlags(c) {
		h.entry(f.synopsis(), f.usage+f.defaultText())
	}
	h.entry("--help, -h", "show help")
	if len(visibleFlags(c)) > 0 {
		h.blank()
		h.wrapped(3, 3, "Every option can also be set in the environment: --state-dir as KWIKCP_STATE_DIR. The command "+
			"line takes precedence.")
	}
	return h.b.String()
}

// A helpWriter writes text of a width.
type helpWriter struct {
	b     strings.Builder
	width int
}

func newHelpWriter(width int) *helpWriter { return &helpWriter{width: max(width, minHelpWidth)} }

func (h *helpWriter) blank() { h.b.WriteString("\n") }

func (h *helpWriter) section(name string) {
	if h.b.Len() > 0 {
		h.blank()
	}
	h.b.WriteString(name + ":\n")
}

// entry writes an option or a command, and the text about it in the next column.
func (h *helpWriter) entry(name, about string) {
	indent := min(helpIndent, h.width/3)
	if utf8.RuneCountInString(name) > indent-5 { // 3 columns before it and 2 behind
		h.wrapped(3, 7, name)
		h.wrapped(indent, indent, about)
		return
	}
	lines := wrap(about, h.width-indent)
	for i, line := range lines {
		if i > 0 {
			name = ""
		}
		fmt.Fprintf(&h.b, "   %-*s%s\n", indent-3, name, line)
	}
}

// text writes a description: paragraphs are wrapped; indented lines keep their beginning and are wrapped below it.
func (h *helpWriter) text(indent int, text string) {
	for _, p := range paragraphs(text) {
		if p.gap {
			h.blank()
		}
		h.wrapped(indent+p.indent, indent+p.hang, p.text)
	}
}

// wrapped writes text with one indentation for the first line and another for the rest.
func (h *helpWriter) wrapped(first, rest int, text string) {
	room := max(h.width-rest, 10)
	for i, line := range wrapHanging(text, max(h.width-first, 10), room) {
		indent := rest
		if i == 0 {
			indent = first
		}
		h.b.WriteString(strings.Repeat(" ", indent) + line + "\n")
	}
}

// wrap breaks text between words into lines of at most so many columns; a longer word has a line of its own.
func wrap(text string, columns int) []string { return wrapHanging(text, columns, columns) }

// wrapHanging is wrap with another width for the first line. Runs of spaces inside a line are kept.
func wrapHanging(text string, first, rest int) (lines []string) {
	room := first
	for {
		if utf8.RuneCountInString(text) <= room {
			return append(lines, text)
		}
		runes := []rune(text)
		at := room
		for at > 0 && runes[at] != ' ' {
			at--
		}
		if strings.TrimSpace(string(runes[:at])) == "" { // a word that is too long
			for at = room; at < len(runes) && runes[at] != ' '; at++ {
			}
		}
		lines = append(lines, strings.TrimRight(string(runes[:at]), " "))
		if text = strings.TrimLeft(string(runes[at:]), " "); text == "" {
			return lines
		}
		room = rest
	}
}

// A paragraph is a part of a description.
type paragraph struct {
	text   string
	indent int  // of its first line, in columns
	hang   int  // of its other lines
	gap    bool // an empty line stands before it
}

// verbatim reports whether the paragraph is an indented line, which keeps its form where a page is not wrapped.
func (p paragraph) verbatim() bool { return p.indent > 0 }

// paragraphs splits a description. Lines without indentation make a paragraph up to an empty line; an indented line is a
// paragraph of its own, and the part of it behind a run of two spaces or more hangs in its column.
func paragraphs(text string) (all []paragraph) {
	gap, open := false, false
	for line := range strings.SplitSeq(strings.TrimSpace(text), "\n") {
		trimmed := strings.TrimLeft(line, " ")
		indent := len(line) - len(trimmed)
		switch {
		case trimmed == "":
			gap, open = len(all) > 0, false
			continue
		case indent > 0:
			hang := indent
			if at := strings.LastIndex(trimmed, "  "); at >= 0 {
				hang = indent + at + 2
			}
			all = append(all, paragraph{trimmed, indent, hang, gap})
			open = false
		case open:
			all[len(all)-1].text += " " + trimmed
		default:
			all = append(all, paragraph{text: trimmed, gap: gap})
			open = true
		}
		gap = false
	}
	return all
}
