package cmd

import (
	"errors"
	"fmt"
	"regexp"
	"strings"

	"kwikcp/internal/trust"
)

// This file has the types of the errors that cmd makes itself. They carry what exit.go and
// hints.go need; the texts of the hints are in hints.go alone.

// A coded error has its own exit code; all others have that of their transfer.Kind.
type coded interface {
	error
	exitCode() int
}

// A usageError is an error in the command line. about selects the hint.
type usageError struct {
	about advice
	err   error
}

func (e usageError) Error() string { return e.err.Error() }
func (e usageError) Unwrap() error { return e.err }
func (e usageError) exitCode() int { return exitUsage }

// usagef returns a usageError.
func usagef(about advice, format string, args ...any) error {
	return usageError{about, fmt.Errorf(format, args...)}
}

// A rootError is a root on another machine that cannot be served.
type rootError struct {
	code  int
	about advice
	op    string
	err   error
}

func (e rootError) Error() string { return e.op + ": " + e.err.Error() }
func (e rootError) Unwrap() error { return e.err }
func (e rootError) exitCode() int { return e.code }

// A commandError is a word that is no command.
type commandError struct {
	name string
	near string // the command that may be meant; empty if none is near
}

func (e commandError) Error() string { return fmt.Sprintf("unknown command %q", e.name) }
func (e commandError) exitCode() int { return exitUsage }

// A flagError is an error in the options of a command, found before the command was called.
type flagError struct {
	command string // empty for the options of kwikcp itself
	message string
	near    string // the option that may be meant by an unknown one
	secret  string // the option for a file with the secret that was given as an argument
}

func (e flagError) Error() string { return e.message }
func (e flagError) exitCode() int { return exitUsage }

// newFlagError translates an error of urfave/cli, whose text is that of package flag. options are
// those of the command, as they are typed.
func newFlagError(command string, options []string, err error) flagError {
	e := flagError{command: command, message: err.Error()}
	if name, ok := strings.CutPrefix(e.message, "flag provided but not defined: -"); ok {
		name = dashed(name)
		e.message = fmt.Sprintf("unknown option %q", name)
		if e.secret = secretFlag(name, options); e.secret == "" {
			e.near = nearest(name, options)
		}
	} else if name, ok := strings.CutPrefix(e.message, "flag needs an argument: -"); ok {
		e.message = dashed(name) + " needs a value"
	} else if m := badValue.FindStringSubmatch(e.message); m != nil {
		e.message = badValueMessage(dashed(m[2]), m[1], m[3])
	} else if m := badEnv.FindStringSubmatch(e.message); m != nil {
		e.message = badValueMessage(m[2], m[1], m[3])
	}
	return e
}

// badValueMessage returns the message for a quoted value of an option or a variable. why is the
// text of an error in number.go, or one of package flag, which is for developers.
func badValueMessage(name, value, why string) string {
	switch {
	case why == errNegative.Error():
		return name + " " + why
	case strings.HasPrefix(why, "it is "):
		return fmt.Sprintf("%s cannot be %s: %s", name, value, why)
	}
	return fmt.Sprintf("%s cannot be %s", name, value)
}

var (
	badValue = regexp.MustCompile(`^invalid(?: boolean)? value (".*") for (?:flag )?-(\S+): (.*)`)
	badEnv   = regexp.MustCompile(`^could not parse (".*") (?:as \S+ value )?from environment variable "(\w+)" ` +
		`(?:as value )?for flag \S+: (.*)`)
)

// dashed returns the name of an option as it is typed.
func dashed(name string) string {
	if len(name) == 1 {
		return "-" + name
	}
	return "--" + name
}

// A refusal is the reason why this client does not trust a server.
type refusal interface {
	coded
	refusal()
}

// A changedKeyError is the refusal of a server that shows another key than the known one.
type changedKeyError struct {
	hostport   string
	pin, known trust.Pin
	file       string // of the known hosts
	line       int    // of known in file
}

func (e changedKeyError) Error() string {
	return fmt.Sprintf("the key of %s has changed: its pin is %s, the known pin is %s (line %d of %s). "+
		"This may be an attack: someone may be answering in place of the server, to read or to forge what you transfer",
		e.hostport, e.pin, e.known, e.line, e.file)
}
func (e changedKeyError) exitCode() int { return exitRefused }
func (e changedKeyError) refusal()      {}

// A knownHostsError is the refusal of every server while the known hosts cannot be read.
type knownHostsError struct {
	file string
	err  error
}

func (e knownHostsError) Error() string { return "cannot read the known hosts: " + e.err.Error() }
func (e knownHostsError) Unwrap() error { return e.err }
func (e knownHostsError) exitCode() int { return exitRefused }
func (e knownHostsError) refusal()      {}

// An unknownHostError is the refusal of a server that nothing vouches for.
type unknownHostError struct {
	hostport string
	pin      trust.Pin
	secret   bool // the client would present a token
}

func (e unknownHostError) Error() string {
	if e.secret {
		return e.hostport + " gets no token, because it is unknown: no certificate authority vouches for it, and no user has " +
			"confirmed its key"
	}
	return e.hostport + " is unknown: no certificate authority vouches for it, and its key is not among the known hosts"
}
func (e unknownHostError) exitCode() int { return exitRefused }
func (e unknownHostError) refusal()      {}

// A certificateError is the refusal of a server whose certificate is from a trusted authority,
// but not good for this connection.
type certificateError struct {
	hostport string
	reason   string
	pin      trust.Pin
}

func (e certificateError) Error() string {
	return "the certificate of " + e.hostport + " is not accepted: " + e.reason
}
func (e certificateError) exitCode() int { return exitRefused }
func (e certificateError) refusal()      {}

// An advisedError is a *transfer.Error whose hint depends on what the command was doing.
type advisedError struct {
	about advice
	error
}

func (e advisedError) Unwrap() error { return e.error }

// A reportedError was printed when it happened; only its exit code is still needed.
type reportedError struct{ error }

func (e reportedError) Unwrap() error { return e.error }

func isReported(err error) bool {
	_, reported := errors.AsType[reportedError](err)
	return reported
}

// A resumableError is the error of a transfer that left a part file: the same command resumes.
type resumableError struct{ error }

func (e resumableError) Unwrap() error { return e.error }
