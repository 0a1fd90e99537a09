package cmd

import (
	"os"
	"strconv"
	"strings"

	"github.com/urfave/cli/v2"
)

// A commandLine is a command line in its parts. Options may stand before and after arguments.
type commandLine struct {
	head      []string     // kwikcp, its own options, and the name of the command
	command   *cli.Command // nil if there is none
	options   []givenOption
	arguments []string
	// asIs is the whole line if it has no such parts.
	asIs []string
	// isIncomplete is set if the line ends with an option that lacks its value.
	isIncomplete bool
}

// A givenOption is an option on a command line.
type givenOption struct {
	words []string // as given: one, or two if the value is the second
	flag  cli.Flag // nil if it is unknown
	value string   // empty for an option without one
	// hasValue is set if there is a value, even an empty one.
	hasValue bool
}

// parseLine splits a command line. Everything after "--" is an argument, and so is "-". It drops
// arguments in two cases: after --help, and if the last option lacks its value, which is an error
// anyway.
func parseLine(app *cli.App, args []string) (line commandLine) {
	at := 1
	for at < len(args) && strings.HasPrefix(args[at], "-") && args[at] != "--" {
		at++ // an option of kwikcp itself; none of them takes a value
	}
	if at >= len(args) || args[at] == "--" || app.Command(args[at]) == nil {
		return commandLine{asIs: args}
	}
	line.head, line.command = args[:at+1], app.Command(args[at])
	for rest := args[at+1:]; len(rest) > 0; {
		arg := rest[0]
		rest = rest[1:]
		switch {
		case arg == "--":
			line.arguments = append(line.arguments, rest...)
			return line
		case arg == "-" || !strings.HasPrefix(arg, "-"):
			line.arguments = append(line.arguments, arg)
			continue
		case isHelp(arg):
			return commandLine{asIs: append(append([]string{}, line.head...), arg)}
		}
		option := line.option(arg)
		if takesValue(option.flag) && !option.hasValue {
			if len(rest) == 0 {
				line.isIncomplete = true
			} else {
				option.words = append(option.words, rest[0])
				option.value, option.hasValue = rest[0], true
				rest = rest[1:]
			}
		}
		line.options = append(line.options, option)
	}
	return line
}

// option returns an option of the line without a value in the next word.
func (l *commandLine) option(word string) givenOption {
	name, value, hasValue := strings.Cut(strings.TrimLeft(word, "-"), "=")
	option := givenOption{words: []string{word}, value: value, hasValue: hasValue}
	for _, flag := range l.command.Flags {
		for _, n := range flag.Names() {
			if n == name {
				option.flag = flag
			}
		}
	}
	return option
}

// ordered returns the line with the options before the arguments, because urfave/cli v2 takes
// everything after the first argument for arguments.
func (l *commandLine) ordered() []string {
	if l.asIs != nil {
		return l.asIs
	}
	ordered := append([]string{}, l.head...)
	for _, option := range l.options {
		ordered = append(ordered, option.words...)
	}
	if l.isIncomplete {
		return ordered
	}
	return append(append(ordered, "--"), l.arguments...)
}

func isHelp(arg string) bool {
	name := strings.TrimLeft(arg, "-")
	return name == "help" || name == "h"
}

// wantsJSON reports whether a command line asks for JSON, even if it cannot be parsed.
func wantsJSON(args []string) bool {
	for _, arg := range args {
		if arg == "--" {
			break
		}
		name, value, given := strings.Cut(strings.TrimLeft(arg, "-"), "=")
		if name == "json" && arg[0] == '-' {
			yes, err := strconv.ParseBool(value)
			return !given || err != nil || yes
		}
	}
	yes, err := strconv.ParseBool(os.Getenv("KWIKCP_JSON"))
	return err == nil && yes
}

// takesValue reports whether an option has a value, such as that in the next word. Nil, an unknown
// option, has none.
func takesValue(flag cli.Flag) bool {
	documented, ok := flag.(cli.DocGenerationFlag)
	return ok && documented.TakesValue()
}
