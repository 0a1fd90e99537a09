package cmd

import (
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/urfave/cli/v2"

	"kwikcp/transfer"
)

//go:generate sh -c "go run .. man > ../docs/kwikcp.1"

// A variable of the environment that means something besides those of the options.
type variable struct{ name, meaning string }

var environment = []variable{
	{"KWIKCP_<OPTION>", "every option, in capitals and with _ for -: KWIKCP_MAX_TIME is --max-time. The command line wins."},
	{"KWIKCP_JOIN_TOKEN", "the secret that secondaries prove to know when they join, instead of --join-token-file."},
	{"NO_COLOR", "kwikcp prints no colours anyway."},
	{"TERM", "where it is dumb, plain lines take the place of the bar."},
	{"XDG_STATE_HOME", "the server's key, its index and the known hosts are in the directory kwikcp there, unless --state-dir says otherwise."},
	{"SSLKEYLOGFILE", "append the keys of the connections to this file, for reading captured traffic."},
	{"QLOGDIR", "write a trace of each connection (qlog) into this directory."},
	{"GOMAXPROCS", "run on that many threads; otherwise a server uses one while that is enough for a single client, and as many as there are cores when not."},
}

func manCommand(t *terminal) *cli.Command {
	return &cli.Command{
		Name:        "man",
		Usage:       "print the manual page",
		UsageText:   "kwikcp man | man -l -",
		Description: "It is what --help says of all commands, for man: kwikcp man > /usr/local/share/man/man1/kwikcp.1",
		Action: func(c *cli.Context) error {
			if c.Args().Present() {
				return usageError{fmt.Errorf("man takes no argument such as %q", c.Args().First()), "kwikcp man | man -l -"}
			}
			if _, err := io.WriteString(t.stdout, manPage(c.App)); err != nil {
				return transfer.LocalError("print the manual page", err)
			}
			return nil
		},
	}
}

// manPage returns the manual page, in the macros of man(7).
func manPage(app *cli.App) string {
	m := &manWriter{}
	m.line(`.\" Made by kwikcp man (go generate ./cmd). Not to be edited.`)
	m.line(`.TH KWIKCP 1 "" "kwikcp" "User Commands"`)
	m.section("NAME")
	m.text("kwikcp - " + app.Usage)
	m.section("SYNOPSIS")
	for _, c := range app.Commands {
		m.usage(c.UsageText)
	}
	m.section("DESCRIPTION")
	m.text("Options may stand before and after arguments; what follows -- is an argument. Sizes and rates are in bytes and bytes a second; K, M and G " +
		"stand for 1024, its square and its cube. A time is a number of seconds, such as 10 or 1.5, or has units, such as 90s, 5m or 1h30m.")
	for _, c := range app.Commands {
		m.line(".SS " + roff("kwikcp "+c.Name))
		m.usage(c.UsageText)
		m.line(".PP")
		m.text(strings.ToUpper(c.Usage[:1]) + c.Usage[1:] + ".")
		description, _, _ := strings.Cut(c.Description, "Exit status:")
		if description = strings.TrimSpace(description); description != "" {
			m.line(".PP")
			m.text(description)
		}
		for _, flag := range visibleFlags(c) {
			m.line(".TP")
			m.line(`\fB` + roff(flag.synopsis()) + `\fR`)
			m.text(flag.usage + flag.defaultText())
		}
	}
	m.section("EXIT STATUS")
	for _, row := range exitStatuses {
		m.line(".TP")
		m.line(fmt.Sprintf(`\fB%d\fR`, row.code))
		text := row.meaning
		if row.word != "" {
			text += " (error_code " + row.word + ")"
		}
		m.text(text)
	}
	m.section("ENVIRONMENT")
	for _, v := range environment {
		m.line(".TP")
		m.line(`\fB` + roff(v.name) + `\fR`)
		m.text(v.meaning)
	}
	return m.b.String()
}

// A manWriter writes a page of man(7).
type manWriter struct{ b strings.Builder }

func (m *manWriter) line(s string) { m.b.WriteString(s + "\n") }

func (m *manWriter) section(name string) { m.line(".SH " + name) }

// usage writes the forms of a command, as they are.
func (m *manWriter) usage(forms string) {
	m.line(".nf")
	for form := range strings.SplitSeq(forms, "\n") {
		m.line(roff(form))
	}
	m.line(".fi")
}

// text writes paragraphs; lines that are indented stay as they are.
func (m *manWriter) text(s string) {
	verbatim := false
	for line := range strings.SplitSeq(s, "\n") {
		if indented := strings.HasPrefix(line, "    "); indented != verbatim && line != "" {
			verbatim = indented
			m.line(map[bool]string{true: ".nf", false: ".fi"}[verbatim])
		}
		if line == "" {
			m.line(".PP")
			continue
		}
		m.line(roff(line))
	}
	if verbatim {
		m.line(".fi")
	}
}

// roff writes text so that roff prints it as it is.
func roff(s string) string {
	s = strings.NewReplacer(`\`, `\e`, "-", `\-`, "'", `\(aq`).Replace(s)
	if strings.HasPrefix(s, ".") {
		s = `\&` + s
	}
	return s
}

// A flagDoc is what there is to say about an option.
type flagDoc struct {
	names       []string // as they are typed, the long one first
	placeholder string   // of its value; empty if it takes none
	usage       string
	value       string // the default; empty for none
	env         string
}

// visibleFlags returns the options of a command in the order in which --help has them.
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

// dashed returns the name of an option as it is typed.
func dashed(name string) string {
	if len(name) == 1 {
		return "-" + name
	}
	return "--" + name
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
