package cmd

import (
	"strings"

	"github.com/urfave/cli/v2"
)

// reorder moves the flags of a command before its arguments, because urfave/cli v2 takes what follows the first argument
// for arguments. So "get URL FILE --json" means what it says. Everything after "--" stays an argument, and so does
// "-" alone.
func reorder(app *cli.App, args []string) []string {
	if len(args) < 2 {
		return args
	}
	at := 1
	for at < len(args) && strings.HasPrefix(args[at], "-") {
		at++ // flags of kwikcp itself, none of which has a value
	}
	if at == len(args) {
		return args
	}
	command := app.Command(args[at])
	if command == nil {
		return args
	}
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
		if takesValue(command, arg) && len(rest) > 1 {
			flags = append(flags, rest[1])
			rest = rest[1:]
		}
	}
	ordered := append([]string{}, args[:at+1]...)
	ordered = append(ordered, flags...)
	return append(append(ordered, "--"), arguments...)
}

// takesValue reports whether a flag's value is the next argument.
func takesValue(command *cli.Command, arg string) bool {
	name := strings.TrimLeft(arg, "-")
	if strings.Contains(name, "=") {
		return false
	}
	for _, flag := range command.Flags {
		for _, n := range flag.Names() {
			if n == name {
				_, boolean := flag.(*cli.BoolFlag)
				return !boolean
			}
		}
	}
	return false // --help, or one that does not exist
}
