package cmd

import (
	"os"
	"strconv"
	"strings"

	"github.com/urfave/cli/v2"
)

// reorder moves the options of a command before its arguments, because urfave/cli v2 takes everything after the first
// argument for arguments. So "get URL FILE --json" works. Everything after "--" stays an argument, and so does "-".
//
// Arguments are dropped in two cases: after --help, and where the last option lacks its value, which is an error anyway.
func reorder(app *cli.App, args []string) []string {
	if len(args) < 2 {
		return args
	}
	at := 1
	for at < len(args) && strings.HasPrefix(args[at], "-") {
		if args[at] == "--" {
			return args // nothing after it is an option
		}
		at++ // an option of kwikcp itself; none of them takes a value
	}
	if at == len(args) {
		return args
	}
	command := app.Command(args[at])
	if command == nil {
		return args
	}
	ordered := append([]string{}, args[:at+1]...)
	var flags, arguments []string
	for rest := args[at+1:]; len(rest) > 0; rest = rest[1:] {
		arg := rest[0]
		if arg == "--" {
			arguments = append(arguments, rest[1:]...)
			break
		}
		if arg == "-" || !strings.HasPrefix(arg, "-") {
			arguments = append(arguments, arg)
			continue
		}
		flags = append(flags, arg)
		switch {
		case isHelp(arg):
			return append(ordered, arg)
		case takesValue(command, arg) && len(rest) == 1:
			return append(ordered, flags...)
		case takesValue(command, arg):
			flags = append(flags, rest[1])
			rest = rest[1:]
		}
	}
	ordered = append(ordered, flags...)
	return append(append(ordered, "--"), arguments...)
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

// takesValue reports whether the value of an option is the next argument.
func takesValue(command *cli.Command, arg string) bool {
	name := strings.TrimLeft(arg, "-")
	if strings.Contains(name, "=") {
		return false
	}
	for _, flag := range command.Flags {
		for _, n := range flag.Names() {
			if n == name {
				documented, ok := flag.(cli.DocGenerationFlag)
				return ok && documented.TakesValue()
			}
		}
	}
	return false // --help, or an unknown option
}
