package cmd

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"syscall"

	"kwikcp/transfer"
)

// Exit codes are a contract with scripts (README, "Exit codes").
const (
	exitOK        = 0
	exitOther     = 1
	exitUsage     = 2
	exitNotFound  = 3
	exitRefused   = 4
	exitNetwork   = 5
	exitIntegrity = 6
	exitLocal     = 7
	exitNoSpace   = 8
	exitExists    = 9
	exitChanged   = 10
	exitLimit     = 11
	exitSignal    = 128 // plus the signal's number
)

// An exitStatus is a row of the table of exit codes, from which --help, the manual page and the error codes of --json are made; tests
// hold the README against it.
type exitStatus struct {
	code    int
	word    string // the error_code of --json
	meaning string
}

var exitStatuses = []exitStatus{
	{exitOK, "", "done: what was fetched is proved and in place; verify: the file is right"},
	{exitOther, "other", "anything else"},
	{exitUsage, "usage", "the command line is wrong"},
	{exitNotFound, "not_found", "the server has no such file, or no byte of the range; sum, verify: nor is there one here"},
	{exitRefused, "refused", "the server is not trusted, or a token or ticket was refused"},
	{exitNetwork, "network", "not reached, or lost; a retry may help, and goes on where it was"},
	{exitIntegrity, "integrity", "no server supplied bytes that match the hash; verify: the file differs"},
	{exitLocal, "local_io", "the local file system refused"},
	{exitNoSpace, "no_space", "the local file system is full"},
	{exitExists, "target_busy", "another kwikcp is fetching to the same file"},
	{exitExists, "target_exists", "there is a file, and --no-clobber"},
	{exitChanged, "source_changed", "the file changed on the server during the transfer"},
	{exitLimit, "limit_reached", "a time limit is over"},
	{exitSignal + int(syscall.SIGHUP), "interrupted", "SIGHUP"},
	{exitSignal + int(syscall.SIGINT), "interrupted", "SIGINT; what is proved is kept for the next get"},
	{exitSignal + int(syscall.SIGPIPE), "interrupted", "nobody reads stdout (or stderr) any more, as when head has seen enough; nothing is said"},
	{exitSignal + int(syscall.SIGTERM), "interrupted", "SIGTERM, likewise"},
}

// exitHelp is what the help of a command that can end with these codes says about them. Those that every command has are added.
func exitHelp(codes ...int) string {
	var b strings.Builder
	b.WriteString("Exit status:\n\n")
	for _, row := range exitStatuses {
		switch {
		case row.code == exitOK, row.code == exitOther, row.code == exitUsage, row.code > exitSignal, slices.Contains(codes, row.code):
			fmt.Fprintf(&b, "    %3d  %s\n", row.code, row.meaning)
		}
	}
	return strings.TrimSuffix(b.String(), "\n")
}

// A usageError says what is wrong with the command line, and what would be right.
type usageError struct {
	err  error
	hint string
}

func (e usageError) Error() string { return e.err.Error() }
func (e usageError) Unwrap() error { return e.err }

// A flagError is a usageError about the options of a command, found before the command was called.
type flagError struct {
	usageError
	command string // empty for kwikcp's own
}

func (e flagError) Unwrap() error { return e.usageError }

// newFlagError says in our words what urfave/cli says in those of package flag. options are those that the command has, as they are
// typed.
func newFlagError(command string, options []string, err error) flagError {
	help := "kwikcp --help lists the options"
	if command != "" {
		help = "kwikcp " + command + " --help lists the options"
	}
	text := err.Error()
	if name, ok := strings.CutPrefix(text, "flag provided but not defined: -"); ok {
		name = "--" + name
		text = fmt.Sprintf("there is no option %q", name)
		if secret := secretFlag(name, options); secret != "" {
			help = secret
		} else if meant := nearest(name, options); meant != "" {
			help = "did you mean " + meant + "? " + help
		}
	} else if name, ok := strings.CutPrefix(text, "flag needs an argument: -"); ok {
		text = "--" + name + " needs a value"
	} else if m := badValue.FindStringSubmatch(text); m != nil {
		text = fmt.Sprintf("--%s cannot be %s", m[2], m[1])
	} else if m := badEnv.FindStringSubmatch(text); m != nil {
		text = fmt.Sprintf("%s cannot be %s", m[2], m[1])
	}
	return flagError{usageError{errors.New(text), help}, command}
}

var (
	badValue = regexp.MustCompile(`^invalid(?: boolean)? value (".*") for (?:flag )?-(\S+): `)
	badEnv   = regexp.MustCompile(`^could not parse (".*") (?:as \S+ value )?from environment variable "(\w+)"`)
)

// A refusedError says that a server is not trusted, and how it could be.
type refusedError struct {
	err  error
	hint string
}

func (e refusedError) Error() string { return e.err.Error() }
func (e refusedError) Unwrap() error { return e.err }

// A hintedError adds a hint to a *transfer.Error.
type hintedError struct {
	error
	hint string
}

func (e hintedError) Unwrap() error { return e.error }

// A saidError was printed when it happened; only its exit code is still to come.
type saidError struct{ error }

func (e saidError) Unwrap() error { return e.error }

// A keptError is the error of a transfer that left a part file: the same command goes on where it was.
type keptError struct{ error }

func (e keptError) Unwrap() error { return e.error }

const goesOn = "the same command goes on where it was"

// explain is the one place where errors become exit codes, messages and hints.
func explain(err error) (code int, message, hint string) {
	if err == nil {
		return exitOK, "", ""
	}
	message = err.Error()
	_, kept := errors.AsType[keptError](err)
	if i, ok := errors.AsType[interruption](err); ok {
		message = "interrupted; nothing was left behind"
		if kept {
			message = "interrupted; " + goesOn
		}
		return exitSignal + int(i.signal), message, ""
	}
	if l, ok := errors.AsType[*transfer.TimeLimitError](err); ok {
		if kept {
			hint = goesOn
		}
		return exitLimit, l.Error() + " (--max-time)", hint
	}
	if e, ok := errors.AsType[usageError](err); ok {
		return exitUsage, message, e.hint
	}
	if e, ok := errors.AsType[unknownHostError](err); ok {
		err = e.refusal()
	}
	if e, ok := errors.AsType[refusedError](err); ok {
		return exitRefused, e.Error(), e.hint
	}
	e, ok := errors.AsType[*transfer.Error](err)
	if !ok {
		return exitOther, message, ""
	}
	code, hint = explainKind(e.Kind)
	if remedy := remedyFor(e); remedy != "" {
		hint = remedy
	}
	switch {
	case kept && e.Kind == transfer.KindNetwork:
		hint = goesOn + "; --retry N does so by itself"
	case kept && e.Kind == transfer.KindNoSpace && !errors.Is(e, syscall.EDQUOT):
		hint = "make room; " + goesOn
	case kept && (e.Kind == transfer.KindLocal || e.Kind == transfer.KindNoSpace):
		hint = strings.TrimPrefix(hint+"; "+goesOn, "; ")
	}
	if _, ok := errors.AsType[*transfer.RangeError](err); ok {
		hint = "bytes count from 0; --range -N is the last N"
	}
	if h, ok := errors.AsType[hintedError](err); ok {
		hint = h.hint
	}
	return code, message, hint
}

// remedies says what helps against what the system says of its own files.
var remedies = []struct {
	err    error
	remedy string
}{
	{syscall.EDQUOT, "remove files of yours, or have your quota raised"},
	{syscall.EFBIG, "the file system, or ulimit -f, allows no file of that size"},
	{syscall.EIO, "the disk fails, or the way to it; the system's log says more"},
	{syscall.EROFS, "choose a directory that is not mounted read-only"},
	{syscall.EACCES, "look at the permissions of it and of its directory"},
	{syscall.EPERM, "it may be protected against changes (lsattr), or another user's"},
	{syscall.ENAMETOOLONG, "choose a shorter name"},
	{syscall.EMFILE, "allow the process more open files (ulimit -n)"},
	{syscall.ENFILE, "other programs have too many files open; try again later"},
	{syscall.EBUSY, "something is mounted there, as in a container; choose another name"},
	{syscall.ENODEV, "is its file system still there?"},
	{syscall.ESTALE, "is its file system still there?"},
	{syscall.ENOTCONN, "is its file system still there?"},
}

// remedyFor returns the hint for an error of the local file system, "" if there is none.
func remedyFor(e *transfer.Error) string {
	if e.Kind != transfer.KindLocal && e.Kind != transfer.KindNoSpace {
		return ""
	}
	for _, r := range remedies {
		if errors.Is(e, r.err) {
			return r.remedy
		}
	}
	return ""
}

func explainKind(kind transfer.Kind) (code int, hint string) {
	switch kind {
	case transfer.KindNotFound:
		return exitNotFound, "paths are relative to the directory that the server serves, and case counts"
	case transfer.KindRefused:
		return exitRefused, "the server's URL with its present pin is what kwikcp serve printed when it started"
	case transfer.KindNetwork:
		return exitNetwork, "is a kwikcp server running there, and is UDP let through to that port?"
	case transfer.KindIntegrity:
		return exitIntegrity, "no wrong byte was kept; whoever runs the server should check the file there"
	case transfer.KindLocal:
		return exitLocal, ""
	case transfer.KindNoSpace:
		return exitNoSpace, "make room and run the same command again"
	case transfer.KindBusy:
		return exitExists, "wait for it, or choose another file name"
	case transfer.KindExists:
		return exitExists, "choose another file name, or leave --no-clobber out to have it replaced"
	case transfer.KindChanged:
		return exitChanged, "run the same command again to get the new version"
	}
	return exitOther, ""
}

// errorCode returns the stable word for an error in JSON results: one for each exit code, and two for exitExists.
func errorCode(err error) string {
	code, _, _ := explain(err)
	if e, ok := errors.AsType[*transfer.Error](err); ok && e.Kind == transfer.KindExists {
		return "target_exists"
	}
	if i := slices.IndexFunc(exitStatuses, func(row exitStatus) bool { return row.code == code }); i >= 0 {
		return exitStatuses[i].word
	}
	return "other"
}
