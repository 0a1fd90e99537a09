package cmd

import (
	"fmt"
	"io"
	"strings"

	"github.com/urfave/cli/v2"
)

// Docs returns the manual page (docs/kwikcp.1) and the reference (docs/REFERENCE.md), made from the command definitions.
func Docs() (man, reference string) {
	app := newApp(&terminal{stdout: io.Discard, stderr: io.Discard})
	return manPage(app), referencePage(app)
}

// referencePage returns docs/REFERENCE.md.
func referencePage(app *cli.App) string {
	m := &markdownWriter{}
	m.line("<!-- Made by go generate ./cmd. Do not edit. -->\n")
	m.line("# Reference\n")
	m.text(commandLineText)
	m.line("## Contents\n")
	for _, c := range app.Commands {
		m.line("- [kwikcp " + c.Name + "](#" + anchor("kwikcp "+c.Name) + ")")
	}
	for _, c := range chapters {
		m.line("- [" + c.title + "](#" + anchor(c.title) + ")")
	}
	m.line("- [Exit status](#exit-status)\n- [Environment](#environment)\n")
	for _, c := range app.Commands {
		m.command(c)
	}
	for _, c := range chapters {
		m.line("## " + c.title + "\n")
		m.text(c.text)
	}
	m.line("## Exit status\n")
	m.line("| code | `error_code` | meaning |\n|---|---|---|")
	for _, row := range exitStatuses {
		word := ""
		if row.word != "" {
			word = "`" + row.word + "`"
		}
		m.line(fmt.Sprintf("| %d | %s | %s |", row.code, word, row.meaning))
	}
	m.line("\n## Environment\n")
	m.line("| variable | meaning |\n|---|---|")
	for _, v := range environment {
		m.line(fmt.Sprintf("| `%s` | %s |", v.name, cell(v.meaning)))
	}
	return m.b.String()
}

// anchor returns the anchor of a heading.
func anchor(title string) string { return strings.ReplaceAll(strings.ToLower(title), " ", "-") }

// cell escapes text for a cell of a table.
func cell(text string) string { return strings.ReplaceAll(text, "|", `\|`) }

// A markdownWriter writes Markdown.
type markdownWriter struct{ b strings.Builder }

func (m *markdownWriter) line(s string) { m.b.WriteString(s + "\n") }

func (m *markdownWriter) command(c *cli.Command) {
	m.line("## kwikcp " + c.Name + "\n")
	for form := range strings.SplitSeq(c.UsageText, "\n") {
		m.line("    " + form)
	}
	m.line("")
	m.text(sentence(c.Usage))
	if description := withoutExitStatus(c); description != "" {
		m.text(description)
	}
	flags := visibleFlags(c)
	if len(flags) == 0 {
		return
	}
	m.line("| option | meaning | default | variable |\n|---|---|---|---|")
	for _, f := range flags {
		value := ""
		if f.value != "" {
			value = "`" + f.value + "`"
		}
		m.line(fmt.Sprintf("| `%s` | %s | %s | `%s` |", cell(f.synopsis()), cell(escapeMarkdown(f.usage)), value, f.env))
	}
	m.line("")
}

// text writes paragraphs, wrapped; indented lines become a block of code.
func (m *markdownWriter) text(s string) {
	verbatim := false
	for _, p := range paragraphs(s) {
		if verbatim && !p.verbatim() {
			m.line("")
		}
		if verbatim = p.verbatim(); verbatim {
			m.line(strings.Repeat(" ", max(p.indent, 4)) + p.text)
			continue
		}
		for _, line := range wrap(escapeMarkdown(p.text), 100) {
			m.line(line)
		}
		m.line("")
	}
	if verbatim {
		m.line("")
	}
}

// escapeMarkdown escapes what Markdown would take for markup.
func escapeMarkdown(text string) string {
	return strings.NewReplacer(`\`, `\\`, "*", `\*`, "<", `\<`, "[", `\[`, "]", `\]`, "_", `\_`, "#", `\#`).Replace(text)
}
