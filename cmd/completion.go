package cmd

import (
	"fmt"
	"io"
	"strings"

	"github.com/urfave/cli/v2"

	"kwikcp/transfer"
)

// flagChoices are the values of options with few possible ones.
var flagChoices = map[string][]string{
	"--role":                   {"primary", "secondary"},
	"--log-format":             {"text", "json"},
	"--log-level":              {"debug", "info", "warn", "error"},
	"--connections-per-server": {"auto", "1", "2", "4", "8", "16"},
}

var shells = map[string]func(*cli.App) string{"bash": bashCompletion, "zsh": zshCompletion, "fish": fishCompletion}

func completionCommand(t *terminal) *cli.Command {
	return &cli.Command{
		Name:      "completion",
		Usage:     "print a shell script that completes commands, options and files",
		UsageText: "kwikcp completion bash|zsh|fish",
		Description: `To install the script:

    bash  kwikcp completion bash > ~/.local/share/bash-completion/completions/kwikcp
    zsh   kwikcp completion zsh > DIR/_kwikcp, where DIR is in $fpath
    fish  kwikcp completion fish > ~/.config/fish/completions/kwikcp.fish

In the current shell: source <(kwikcp completion bash), likewise for zsh; kwikcp completion fish | source.`,
		Action: func(c *cli.Context) error { return runCompletion(t, c.App, c.Args().Slice()) },
	}
}

func runCompletion(t *terminal, app *cli.App, args []string) error {
	if len(args) != 1 {
		return usagef(adviseCompletion, "completion takes the name of one shell, not %d", len(args))
	}
	script, ok := shells[args[0]]
	if !ok {
		return usagef(adviseCompletion, "there is no completion for %q", args[0])
	}
	if _, err := io.WriteString(t.stdout, script(app)); err != nil {
		return transfer.LocalError("print the script", err)
	}
	return nil
}

// choices returns the possible arguments of a command; nil if they are files or arbitrary.
func choices(c *cli.Command) []string {
	if c.Name == "completion" {
		return []string{"bash", "zsh", "fish"}
	}
	return nil
}

// namesFile reports whether the value of an option is the name of a file.
func (d flagDoc) namesFile() bool {
	return d.placeholder == "FILE" || d.placeholder == "OLD" || d.placeholder == "LIST"
}

func (d flagDoc) namesDir() bool { return d.placeholder == "DIR" }

const bashHead = `# Completes kwikcp in bash. Made by kwikcp completion bash.
_kwikcp() {
	local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD-1]} command= i IFS=$'\n'
	# Bash splits --option=value into three words.
	if [[ $cur == = ]]; then
		cur=
	elif [[ $prev == = ]]; then
		prev=${COMP_WORDS[COMP_CWORD-2]}
	fi
	for ((i = 1; i < COMP_CWORD; i++)); do
		if [[ ${COMP_WORDS[i]} != -* ]]; then
			command=${COMP_WORDS[i]}
			break
		fi
	done
	COMPREPLY=()
	_kwikcp_words() { COMPREPLY=($(compgen -W "${*// /$'\n'}" -- "$cur")); }
	_kwikcp_files() { compopt -o filenames 2>/dev/null; COMPREPLY=($(compgen "$1" -- "$cur")); }
`

// bashCompletion returns the script for bash, version 3.2 and up.
func bashCompletion(app *cli.App) string {
	var b strings.Builder
	b.WriteString(bashHead)
	b.WriteString("\tcase $command in\n")
	fmt.Fprintf(&b, "\t'') _kwikcp_words '%s' ;;\n", strings.Join(append(commandNames(app), "--help", "--version"), " "))
	for _, c := range app.Commands {
		fmt.Fprintf(&b, "\t%s)\n\t\tcase $prev in\n", c.Name)
		all := []string{"--help"}
		for _, f := range visibleFlags(c) {
			all = append(all, f.names...)
			if f.placeholder == "" {
				continue
			}
			does := "return" // no words to offer
			switch {
			case flagChoices[f.names[0]] != nil:
				does = fmt.Sprintf("_kwikcp_words '%s'; return", strings.Join(flagChoices[f.names[0]], " "))
			case f.namesFile():
				does = "_kwikcp_files -f; return"
			case f.namesDir():
				does = "_kwikcp_files -d; return"
			}
			fmt.Fprintf(&b, "\t\t%s) %s ;;\n", strings.Join(f.names, "|"), does)
		}
		arguments := "_kwikcp_files -f"
		if words := choices(c); words != nil {
			arguments = fmt.Sprintf("_kwikcp_words '%s'", strings.Join(words, " "))
		}
		fmt.Fprintf(&b, "\t\tesac\n\t\tcase $cur in\n\t\t-*) _kwikcp_words '%s' ;;\n\t\t*) %s ;;\n\t\tesac\n\t\t;;\n", strings.Join(all, " "), arguments)
	}
	b.WriteString("\tesac\n}\ncomplete -F _kwikcp kwikcp\n")
	return b.String()
}

func commandNames(app *cli.App) (names []string) {
	for _, c := range app.Commands {
		names = append(names, c.Name)
	}
	return names
}

// zshCompletion returns the script for zsh, to be sourced or installed in $fpath.
func zshCompletion(app *cli.App) string {
	var b strings.Builder
	b.WriteString("#compdef kwikcp\n# Completes kwikcp in zsh. Made by kwikcp completion zsh.\n_kwikcp() {\n\tlocal -a commands\n\tcommands=(\n")
	for _, c := range app.Commands {
		fmt.Fprintf(&b, "\t\t%s\n", quoted(c.Name+":"+c.Usage))
	}
	b.WriteString("\t)\n\tif ((CURRENT == 2)); then\n\t\t_describe command commands\n\t\treturn\n\tfi\n\tshift words\n\t((CURRENT--))\n\tcase $words[1] in\n")
	for _, c := range app.Commands {
		fmt.Fprintf(&b, "\t%s)\n\t\t_arguments", c.Name)
		for _, f := range visibleFlags(c) {
			about := "[" + strings.NewReplacer(`\`, `\\`, "[", `\[`, "]", `\]`, ":", `\:`).Replace(f.usage) + "]"
			value := ""
			if f.placeholder != "" {
				value = ":" + strings.ReplaceAll(f.placeholder, ":", `\:`) + ":"
				switch {
				case flagChoices[f.names[0]] != nil:
					value += "(" + strings.Join(flagChoices[f.names[0]], " ") + ")"
				case f.namesFile():
					value += "_files"
				case f.namesDir():
					value += "_files -/"
				}
			}
			for _, name := range f.names {
				if value != "" && strings.HasPrefix(name, "--") {
					name += "="
				}
				fmt.Fprintf(&b, " \\\n\t\t\t%s", quoted(name+about+value))
			}
		}
		arguments := "*:file:_files"
		if words := choices(c); words != nil {
			arguments = "1:shell:(" + strings.Join(words, " ") + ")"
		}
		fmt.Fprintf(&b, " \\\n\t\t\t'--help[show help]' %s ;;\n", quoted(arguments))
	}
	b.WriteString("\tesac\n}\nif [[ $funcstack[1] == _kwikcp ]]; then\n\t_kwikcp \"$@\"\nelse\n\tcompdef _kwikcp kwikcp\nfi\n")
	return b.String()
}

// fishCompletion returns the script for fish.
func fishCompletion(app *cli.App) string {
	var b strings.Builder
	b.WriteString("# Completes kwikcp in fish. Made by kwikcp completion fish.\n")
	for _, c := range app.Commands {
		fmt.Fprintf(&b, "complete -c kwikcp -n __fish_use_subcommand -f -a %s -d %s\n", c.Name, fishQuoted(c.Usage))
	}
	for _, c := range app.Commands {
		seen := fishQuoted("__fish_seen_subcommand_from " + c.Name)
		for _, f := range visibleFlags(c) {
			fmt.Fprintf(&b, "complete -c kwikcp -n %s", seen)
			for _, name := range f.names {
				if long, ok := strings.CutPrefix(name, "--"); ok {
					fmt.Fprintf(&b, " -l %s", long)
				} else {
					fmt.Fprintf(&b, " -s %s", name[1:])
				}
			}
			switch {
			case f.placeholder == "":
			case flagChoices[f.names[0]] != nil:
				fmt.Fprintf(&b, " -x -a %s", fishQuoted(strings.Join(flagChoices[f.names[0]], " ")))
			case f.namesFile():
				b.WriteString(" -r -F")
			case f.namesDir():
				b.WriteString(" -x -a '(__fish_complete_directories)'")
			default:
				b.WriteString(" -x")
			}
			fmt.Fprintf(&b, " -d %s\n", fishQuoted(f.usage))
		}
		if words := choices(c); words != nil {
			fmt.Fprintf(&b, "complete -c kwikcp -n %s -f -a %s\n", seen, fishQuoted(strings.Join(words, " ")))
		}
	}
	return b.String()
}

// quoted quotes a word for bash and zsh.
func quoted(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }

// fishQuoted quotes a word for fish, where a backslash is special between single quotes.
func fishQuoted(s string) string {
	return "'" + strings.NewReplacer(`\`, `\\`, "'", `\'`).Replace(s) + "'"
}
