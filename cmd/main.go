// Package cmd is kwikcp's command line: flags, signals, terminal, JSON and exit codes. Each command has a file of its own;
// the work is done by package transfer.
package cmd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"
	"time"

	"github.com/urfave/cli/v2"

	"kwikcp/transfer"
)

// Main runs the command line of the process and returns its exit code.
func Main() int { return mainTo(os.Stdout) }

func mainTo(stdout io.Writer) int {
	// quic-go would print its own warning about UDP buffers; what there is to say about them is ours to say.
	os.Setenv("QUIC_GO_DISABLE_RECEIVE_BUFFER_WARNING", "true")
	ctx, stop := interruptible(context.Background())
	defer stop()
	return run(ctx, os.Args, stdout, os.Stderr)
}

// lastWords is for how long after an interruption somebody may take what is written to stdout.
const lastWords = time.Second

// run runs a command line, prints its error and returns the exit code.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	lines := newPatientWriter(ctx, stdout)
	lines.grace = lastWords
	defer lines.close()
	t := &terminal{stdout: lines, bytes: stdout, stderr: stderr}
	app := newApp(t)
	args = reorder(app, args)
	err := app.RunContext(ctx, args)
	if e, ok := errors.AsType[flagError](err); ok && wantsJSON(args) {
		switch events := newEvents(lines); e.command { // which was not called
		case "get":
			events.start("", "")
			events.result(transfer.Result{}, err)
		case "verify":
			events.start("", "")
			events.verified(verdict{}, err)
		case "doctor":
			events.start("", "")
			events.diagnosed(nil, err)
		case "ls":
			events.start("", "")
			events.listed(&listing{}, err)
		}
	}
	if err == nil && lines.failed != nil {
		err = quietly(transfer.LocalError("write to stdout", lines.failed))
	}
	code, message, hint := explain(err)
	if _, said := errors.AsType[saidError](err); err != nil && !said {
		t.errorWithHint(message, hint)
	}
	return code
}

func newApp(t *terminal) *cli.App {
	app := &cli.App{
		Name:      "kwikcp",
		Usage:     "copy files from several servers at once, fast and proved",
		UsageText: "kwikcp COMMAND [options] [arguments]\n\nTry it: kwikcp demo",
		Version:   version(),
		Commands:  []*cli.Command{serveCommand(t), getCommand(t), lsCommand(t), sumCommand(t), verifyCommand(t), demoCommand(t), doctorCommand(t), manCommand(t), completionCommand(t)},
		Writer:    t.stdout, ErrWriter: t.stderr,
		HideHelpCommand: true,
		// Errors are printed and mapped to exit codes in one place, run.
		ExitErrHandler: func(*cli.Context, error) {},
		Action: func(c *cli.Context) error {
			if name := c.Args().First(); name != "" {
				hint := "kwikcp --help lists the commands"
				if meant := nearest(name, commandNames(c.App)); meant != "" {
					hint = "did you mean kwikcp " + meant + "? " + hint
				}
				return usageError{fmt.Errorf("there is no command %q", name), hint}
			}
			return usageError{errors.New("no command given"), "kwikcp --help lists the commands; kwikcp demo shows it at work"}
		},
	}
	onUsageError := func(c *cli.Context, err error, _ bool) error {
		if c.Command == nil || c.Command.Name == "kwikcp" {
			return newFlagError("", []string{"--help", "--version"}, err)
		}
		options := []string{"--help"}
		for _, flag := range visibleFlags(c.Command) {
			options = append(options, flag.names...)
		}
		return newFlagError(c.Command.Name, options, err)
	}
	app.OnUsageError = onUsageError
	for _, command := range app.Commands {
		command.OnUsageError = onUsageError
		command.HideHelpCommand = true
		for _, flag := range command.Flags {
			if b, ok := flag.(*cli.BoolFlag); ok {
				b.DisableDefaultText = true // that it is off goes without saying
			}
		}
	}
	return app
}

// version returns the version of the module, or the revision of a build from a checkout.
func version() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	return info.Main.Version
}

// An interruption is a signal that asked the process to stop.
type interruption struct{ signal syscall.Signal }

func (i interruption) Error() string { return "interrupted by " + i.signal.String() }

// interruptible returns a context that ends, with an interruption as its cause, at the first SIGINT, SIGTERM or SIGHUP. A second
// one ends the process at once.
func interruptible(parent context.Context) (ctx context.Context, stop func()) {
	ctx, cancel := context.WithCancelCause(parent)
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	ended := make(chan struct{})
	go func() { // ends with stop, which waits for it
		defer close(ended)
		select {
		case s := <-signals:
			signal.Stop(signals) // from now on the system's default: a second signal kills
			cancel(interruption{s.(syscall.Signal)})
		case <-ctx.Done():
		}
	}()
	return ctx, func() {
		signal.Stop(signals)
		cancel(nil)
		<-ended
	}
}
