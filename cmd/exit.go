package cmd

import (
	"errors"
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
	exitSignal    = 128 // plus the signal's number
)

// A usageError says what is wrong with the command line, and what would be right.
type usageError struct {
	err  error
	hint string
}

func (e usageError) Error() string { return e.err.Error() }
func (e usageError) Unwrap() error { return e.err }

// A refusedError says that a server is not trusted, and how it could be.
type refusedError struct {
	err  error
	hint string
}

func (e refusedError) Error() string { return e.err.Error() }
func (e refusedError) Unwrap() error { return e.err }

// explain is the one place where errors become exit codes, messages and hints.
func explain(err error) (code int, message, hint string) {
	if err == nil {
		return exitOK, "", ""
	}
	message = err.Error()
	if i, ok := errors.AsType[interruption](err); ok {
		return exitSignal + int(i.signal), "interrupted; nothing was left behind", ""
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
	switch e.Kind {
	case transfer.KindNotFound:
		return exitNotFound, message, "paths are relative to the directory that the server serves, and case counts"
	case transfer.KindRefused:
		return exitRefused, message, "the server's URL with its present pin is what kwikcp serve printed when it started"
	case transfer.KindNetwork:
		return exitNetwork, message, "is a kwikcp server running there, and is UDP let through to that port?"
	case transfer.KindIntegrity:
		return exitIntegrity, message, "no byte of it was kept; whoever runs the server should check the file there"
	case transfer.KindLocal:
		return exitLocal, message, ""
	case transfer.KindNoSpace:
		return exitNoSpace, message, "make room and run the same command again"
	case transfer.KindBusy:
		return exitExists, message, "wait for it, or choose another file name"
	case transfer.KindChanged:
		return exitChanged, message, "run the same command again to get the new version"
	}
	return exitOther, message, ""
}

// errorCode returns the stable word for an exit code in JSON results.
func errorCode(code int) string {
	switch code {
	case exitOK:
		return ""
	case exitUsage:
		return "usage"
	case exitNotFound:
		return "not_found"
	case exitRefused:
		return "refused"
	case exitNetwork:
		return "network"
	case exitIntegrity:
		return "integrity"
	case exitLocal:
		return "local_io"
	case exitNoSpace:
		return "no_space"
	case exitExists:
		return "target_busy"
	case exitChanged:
		return "source_changed"
	case exitSignal + int(syscall.SIGINT), exitSignal + int(syscall.SIGTERM):
		return "interrupted"
	}
	return "other"
}
