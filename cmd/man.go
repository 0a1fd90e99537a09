package cmd

import (
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/urfave/cli/v2"

	"kwikcp/transfer"
)

//go:generate go run generate.go

func manCommand(t *terminal) *cli.Command {
	return &cli.Command{
		Name:      "man",
		Usage:     "print the manual page",
		UsageText: "kwikcp man | man -l -",
		Description: `Prints all that --help prints and more, in the format of man(7). To install the page:
kwikcp man > /usr/local/share/man/man1/kwikcp.1`,
		Action: func(c *cli.Context) error { return runMan(t, c.App, c.Args().Slice()) },
	}
}

func runMan(t *terminal, app *cli.App, args []string) error {
	if len(args) > 0 {
		return usagef(adviseMan, "man takes no argument such as %q", args[0])
	}
	if _, err := io.WriteString(t.stdout, manPage(app)); err != nil {
		return transfer.LocalError("print the manual page", err)
	}
	return nil
}

// manPage returns the manual page, in the macros of man(7).
func manPage(app *cli.App) string {
	m := &manWriter{}
	m.line(`.\" Made by go generate ./cmd. Do not edit.`)
	m.line(`.TH KWIKCP 1 "" "kwikcp" "User Commands"`)
	m.section("NAME")
	m.text("kwikcp - " + app.Usage)
	m.section("SYNOPSIS")
	for _, c := range app.Commands {
		m.usage(c.UsageText)
	}
	m.section("DESCRIPTION")
	m.text(commandLineText)
	for _, c := range app.Commands {
		m.line(".SS " + roff("kwikcp "+c.Name))
		m.usage(c.UsageText)
		m.line(".PP")
		m.text(sentence(c.Usage))
		if description := withoutExitStatus(c); description != "" {
			m.line(".PP")
			m.text(description)
		}
		for _, flag := range visibleFlags(c) {
			m.entry(flag.synopsis(), flag.usage+flag.defaultText())
		}
	}
	for _, c := range chapters {
		m.section(strings.ToUpper(c.title))
		m.text(c.text)
	}
	m.section("EXIT STATUS")
	for _, row := range exitStatuses {
		text := row.meaning
		if row.word != "" {
			text += " (error_code " + row.word + ")"
		}
		m.entry(fmt.Sprint(row.code), text)
	}
	m.section("ENVIRONMENT")
	for _, v := range environment {
		m.entry(v.name, v.meaning)
	}
	return m.b.String()
}

// sentence returns the usage of a command as a sentence.
func sentence(usage string) string { return strings.ToUpper(usage[:1]) + usage[1:] + "." }

// withoutExitStatus returns the description of a command without the list of its exit codes.
func withoutExitStatus(c *cli.Command) string {
	description, _, _ := strings.Cut(c.Description, exitTitle)
	return strings.TrimSpace(description)
}

// A manWriter writes a page of man(7).
type manWriter struct{ b strings.Builder }

func (m *manWriter) line(s string) { m.b.WriteString(s + "\n") }

func (m *manWriter) section(name string) { m.line(".SH " + name) }

// entry writes a term and the text about it.
func (m *manWriter) entry(term, text string) {
	m.line(".TP")
	m.line(`\fB` + roff(term) + `\fR`)
	m.text(text)
}

// usage writes the forms of a command without wrapping.
func (m *manWriter) usage(forms string) {
	m.line(".nf")
	for form := range strings.SplitSeq(forms, "\n") {
		m.line(roff(form))
	}
	m.line(".fi")
}

// text writes paragraphs; indented lines are not wrapped.
func (m *manWriter) text(s string) {
	verbatim := false
	for _, p := range paragraphs(s) {
		if p.verbatim() != verbatim {
			verbatim = p.verbatim()
			m.line(map[bool]string{true: ".nf", false: ".fi"}[verbatim])
		}
		if p.gap {
			m.line(".PP")
		}
		m.line(roff(strings.Repeat(" ", p.indent) + p.text))
	}
	if verbatim {
		m.line(".fi")
	}
}

// roff escapes text for roff.
func roff(s string) string {
	s = strings.NewReplacer(`\`, `\e`, "-", `\-`, "'", `\(aq`).Replace(s)
	if strings.HasPrefix(s, ".") {
		s = `\&` + s
	}
	return s
}

// A flagDoc documents an option.
type flagDoc struct {
	names       []string // as they are typed, the long one first
	placeholder string   // of its value; empty if it takes none
	usage       string
	value       string // the default; empty for none
	env         string
}

// visibleFlags returns the options of a command in the order of --help.
func visibleFlags(c *cli.Command) (docs []flagDoc) {
	for _, flag := range c.Flags {
		f, ok := flag.(cli.DocGenerationFlag)
		if !ok || flag.Names()[0] == "help" { // which urfave/cli adds
			continue
		}
		d := flagDoc{usage: f.GetUsage(), env: strings.Join(f.GetEnvVars(), " ")}
		for _, name := range flag.Names() {
			d.names = append(d.names, dashed(name))
		}
		slices.SortStableFunc(d.names, func(a, b string) int { return len(b) - len(a) })
		if before, rest, ok := strings.Cut(d.usage, "`"); ok {
			placeholder, after, _ := strings.Cut(rest, "`")
			d.placeholder, d.usage = placeholder, before+placeholder+after
		}
		if f.TakesValue() && d.placeholder == "" {
			d.placeholder = "VALUE"
		}
		if f.TakesValue() && f.GetDefaultText() != "" {
			d.value = strings.Trim(f.GetDefaultText(), `"`)
		}
		docs = append(docs, d)
	}
	return docs
}

func (d flagDoc) synopsis() string {
	text := strings.Join(d.names, ", ")
	if d.placeholder != "" {
		text += " " + d.placeholder
	}
	return text
}

func (d flagDoc) defaultText() string {
	if d.value == "" {
		return ""
	}
	return " (default: " + d.value + ")"
}
