package cmd

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"syscall"

	"kwikcp/transfer"
)

// Exit codes are a contract with scripts (docs/SCRIPTING.md).
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
	exitDelete    = 12
	exitSignal    = 128 // plus the signal's number
)

// An exitStatus is a row of the table of exit codes. Help, the manual page, the reference and the
// error codes of --json are made from it.
type exitStatus struct {
	code    int
	word    string // the error_code of --json
	meaning string
}

var exitStatuses = []exitStatus{
	{exitOK, "", "success; everything that was fetched is verified and in place"},
	{exitOther, "other", "any other error"},
	{exitUsage, "usage", "the command line is wrong"},
	{exitNotFound, "not_found", "no such file, or no byte of the range is in it"},
	{exitRefused, "refused", "the server is not trusted, or it refused a token or a ticket"},
	{exitNetwork, "network", "network failure; running the command again resumes"},
	{exitIntegrity, "integrity", "no server supplied bytes that match the hash; verify: the file differs"},
	{exitLocal, "local_io", "error of the local file system"},
	{exitNoSpace, "no_space", "the local file system is full"},
	{exitExists, "target_busy", "another kwikcp is fetching to the same file"},
	{exitExists, "target_exists", "the target exists and --no-clobber was given"},
	{exitChanged, "source_changed", "the file changed on the server during the transfer"},
	{exitLimit, "limit_reached", "--max-time was reached"},
	{exitDelete, "delete_limit", "more would be deleted than --max-delete allows; nothing was"},
	{exitSignal + int(syscall.SIGHUP), "interrupted", "SIGHUP; verified bytes are kept for the next get"},
	{exitSignal + int(syscall.SIGINT), "interrupted", "SIGINT; verified bytes are kept for the next get"},
	{exitSignal + int(syscall.SIGPIPE), "interrupted", "stdout or stderr was closed (SIGPIPE); no message is printed"},
	{exitSignal + int(syscall.SIGTERM), "interrupted", "SIGTERM; verified bytes are kept for the next get"},
}

// exitRows returns the rows of the table for a command that can end with these codes. Those of
// every command are included.
func exitRows(codes []int) (rows []exitStatus) {
	always := []int{exitOK, exitOther, exitUsage}
	for _, row := range exitStatuses {
		if slices.Contains(always, row.code) || slices.Contains(codes, row.code) {
			rows = append(rows, row)
		}
	}
	return rows
}

// signalCodes are the exit codes of a command that a signal ends.
var signalCodes = []int{
	exitSignal + int(syscall.SIGHUP), exitSignal + int(syscall.SIGINT),
	exitSignal + int(syscall.SIGPIPE), exitSignal + int(syscall.SIGTERM),
}

// exitHelp returns the section of a command's description that lists its exit codes.
func exitHelp(codes ...int) string {
	var b strings.Builder
	b.WriteString(exitTitle + "\n\n")
	for _, row := range exitRows(codes) {
		fmt.Fprintf(&b, "    %3d  %s\n", row.code, row.meaning)
	}
	return strings.TrimSuffix(b.String(), "\n")
}

// exitTitle begins that section.
const exitTitle = "Exit status:"

// explain maps an error to the exit code, the message and the hint. It is the only place that does.
func explain(err error) (code int, message, hint string) {
	if err == nil {
		return exitOK, "", ""
	}
	return exitCodeOf(err), messageOf(err), hintOf(err)
}

func exitCodeOf(err error) int {
	if err == nil {
		return exitOK
	}
	if i, ok := errors.AsType[interruption](err); ok {
		return exitSignal + int(i.signal)
	}
	if _, ok := errors.AsType[*transfer.TimeLimitError](err); ok {
		return exitLimit
	}
	if e, ok := errors.AsType[coded](err); ok {
		return e.exitCode()
	}
	if e, ok := errors.AsType[*transfer.Error](err); ok {
		return exitCodeOfKind(e.Kind)
	}
	return exitOther
}

func exitCodeOfKind(kind transfer.Kind) int {
	switch kind {
	case transfer.KindNotFound:
		return exitNotFound
	case transfer.KindRefused:
		return exitRefused
	case transfer.KindNetwork:
		return exitNetwork
	case transfer.KindIntegrity:
		return exitIntegrity
	case transfer.KindLocal:
		return exitLocal
	case transfer.KindNoSpace:
		return exitNoSpace
	case transfer.KindBusy, transfer.KindExists:
		return exitExists
	case transfer.KindChanged:
		return exitChanged
	case transfer.KindDeleteLimit:
		return exitDelete
	}
	return exitOther
}

func messageOf(err error) string {
	_, resumable := errors.AsType[resumableError](err)
	if _, ok := errors.AsType[interruption](err); ok {
		if resumable {
			return "interrupted; " + resumes
		}
		return "interrupted; nothing was kept"
	}
	if l, ok := errors.AsType[*transfer.TimeLimitError](err); ok {
		return l.Error() + " (--max-time)"
	}
	if e, ok := errors.AsType[refusal](err); ok {
		return e.Error() // without the steps of the handshake around it
	}
	return err.Error()
}

// errorCode returns the stable word for an error in JSON results: one for each exit code, and two
// for exitExists.
func errorCode(err error) string {
	if e, ok := errors.AsType[*transfer.Error](err); ok && e.Kind == transfer.KindExists {
		return "target_exists"
	}
	code := exitCodeOf(err)
	i := slices.IndexFunc(exitStatuses, func(row exitStatus) bool { return row.code == code })
	if i < 0 {
		return "other"
	}
	return exitStatuses[i].word
}
