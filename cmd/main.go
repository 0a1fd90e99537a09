// Package cmd is kwikcp's command line: options, signals, terminal, JSON and exit codes. Each
// command has its own file; package transfer does the work.
package cmd

import (
	"context"
	"errors"
	"io"
	"os"
	"runtime/debug"
	"time"

	"github.com/urfave/cli/v2"

	"kwikcp/transfer"
)

// Main runs the command line of the process and returns its exit code.
func Main() int { return mainTo(os.Stdout) }

func mainTo(stdout io.Writer) int {
	// quic-go's own warning about UDP buffers would break the format of stderr; warnOfBuffers
	// replaces it.
	os.Setenv("QUIC_GO_DISABLE_RECEIVE_BUFFER_WARNING", "true")
	ctx, stop := interruptible(context.Background())
	defer stop()
	continued, forget := notifyContinued()
	defer forget()
	return runOn(ctx, os.Args, &terminal{bytes: stdout, stderr: os.Stderr, continued: continued})
}

// flushGrace is how long after an interruption the last output may still be written to stdout.
const flushGrace = time.Second

// run runs a command line without a terminal.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	return runOn(ctx, args, &terminal{bytes: stdout, stderr: stderr})
}

// runOn runs a command line, prints its error and returns the exit code. It sets the stdout of t
// for text.
func runOn(ctx context.Context, args []string, t *terminal) int {
	defer t.queueMessages(ctx)()
	lines := newCancelWriter(ctx, t.bytes)
	lines.grace = flushGrace
	defer lines.close()
	t.stdout = lines
	app := newApp(t)
	line := parseLine(app, args)
	args = line.ordered()
	err := line.checkGiven()
	if err == nil {
		err = app.RunContext(ctx, args)
	}
	if e, ok := errors.AsType[flagError](err); ok && wantsJSON(args) {
		printNotStarted(app.Command(e.command), newEvents(lines), err)
	}
	if lost := lines.failed; lost != nil && (err == nil || errors.Is(err, lost)) {
		err = silenceBrokenPipe(transfer.LocalError("write to stdout", lost))
	}
	code, message, hint := explain(err)
	if err != nil && !isReported(err) {
		t.errorWithHint(message, hint)
	}
	return code
}

// printNotStarted prints the events of a command that was not called because of an error in its
// options. A command without --json, or nil, has none.
func printNotStarted(command *cli.Command, events *events, err error) {
	if command == nil {
		return
	}
	for _, flag := range command.Flags {
		if json, ok := flag.(*jsonFlag); ok {
			events.start("", "")
			json.notStarted(events, err)
		}
	}
}

func newApp(t *terminal) *cli.App {
	app := &cli.App{
		Name:      "kwikcp",
		Usage:     "copy files from several servers at once and verify every byte",
		UsageText: "kwikcp COMMAND [options] [arguments]",
		Version:   version(),
		Commands: []*cli.Command{
			serveCommand(t), getCommand(t), lsCommand(t), sumCommand(t), verifyCommand(t), demoCommand(t), doctorCommand(t),
			tokenCommand(t),
			manCommand(t), completionCommand(t),
		},
		Writer: t.stdout, ErrWriter: t.stderr,
		HideHelpCommand: true,
		// run prints errors and maps them to exit codes.
		ExitErrHandler: func(*cli.Context, error) {},
		Action: func(c *cli.Context) error {
			if name := c.Args().First(); name != "" {
				return commandError{name: name, near: nearest(name, commandNames(c.App))}
			}
			return usagef(adviseCommands, "no command given")
		},
		OnUsageError: onUsageError,
	}
	width := min(t.outputWidth(), maxHelpWidth)
	app.CustomAppHelpTemplate = literal(appHelp(app, width))
	for _, command := range app.Commands {
		command.OnUsageError = onUsageError
		command.HideHelpCommand = true
		command.CustomHelpTemplate = literal(commandHelp(command, width))
	}
	return app
}

// onUsageError is called by urfave/cli for an error in the options of kwikcp or of a command.
func onUsageError(c *cli.Context, err error, _ bool) error {
	if c.Command == nil || c.Command.Name == "kwikcp" {
		return newFlagError("", []string{"--help", "--version"}, err)
	}
	options := []string{"--help"}
	for _, flag := range visibleFlags(c.Command) {
		options = append(options, flag.names...)
	}
	return newFlagError(c.Command.Name, options, err)
}

// version returns the version of the module, or the revision of a build from a checkout.
func version() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	return info.Main.Version
}
