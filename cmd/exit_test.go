package cmd

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"
	"unicode"

	"kwikcp/internal/trust"
	"kwikcp/kwik"
	"kwikcp/transfer"
)

func TestExplain(t *testing.T) {
	of := func(kind transfer.Kind) error {
		return &transfer.Error{Kind: kind, Op: "try", Err: errors.New("no luck")}
	}
	unknown := unknownHostError{hostport: "example.org:1"}
	full := kwik.NewError(kwik.ErrServerBusy, "too many")
	busy := &transfer.Error{Kind: transfer.KindNetwork, Op: "ask", Err: &transfer.RemoteError{Busy: true}}
	for _, test := range []struct {
		err       error
		code      int
		errorCode string
		hint      string // part of it
	}{
		{nil, 0, "", ""},
		{errors.New("what"), 1, "other", ""},
		{context.DeadlineExceeded, 1, "other", ""},
		{of(transfer.KindOther), 1, "other", ""},
		{of(transfer.Kind(99)), 1, "other", ""},
		{usageError{adviseRange, errors.New("what")}, 2, "usage", advices[adviseRange]},
		{fmt.Errorf("wrapped: %w", usageError{adviseRange, errors.New("what")}), 2, "usage", advices[adviseRange]},
		{newFlagError("get", nil, errors.New("flag provided but not defined: -x")), 2, "usage", "kwikcp get --help"},
		{of(transfer.KindNotFound), 3, "not_found", "case matters"},
		{of(transfer.KindRefused), 4, "refused", "pin"},
		{&transfer.Error{Kind: transfer.KindRefused, Err: &trust.PinError{}}, 4, "refused", "may be an attack"},
		{knownHostsError{"the-file", errors.New("no")}, 4, "refused", "repair or remove the-file"},
		{&transfer.Error{Kind: transfer.KindRefused, Op: "connect", Err: changedKeyError{hostport: "h:1", file: "the-file"}}, 4, "refused", "remove its line from the-file"},
		{&transfer.Error{Kind: transfer.KindRefused, Op: "connect", Err: &tls.CertificateVerificationError{Err: unknown}}, 4, "refused", "kwik://example.org:1/...?pin=AAAA"},
		{of(transfer.KindNetwork), 5, "network", "UDP"},
		{transfer.NetworkError("connect to x", full), 5, "network", "try again later"},
		{busy, 5, "network", "try again later"},
		{resumableError{transfer.NetworkError("fetch x", full)}, 5, "network", "--retry N"},
		{of(transfer.KindIntegrity), 6, "integrity", "no wrong byte was kept"},
		{of(transfer.KindLocal), 7, "local_io", ""},
		{advisedError{adviseRange, of(transfer.KindLocal)}, 7, "local_io", advices[adviseRange]},
		{transfer.LocalError("open x", &fs.PathError{Op: "open", Path: "x", Err: syscall.EACCES}), 7, "local_io", "permissions"},
		{transfer.LocalError("write x", syscall.ENOSPC), 8, "no_space", "make room and run the same command again"},
		{transfer.LocalError("write x", syscall.EDQUOT), 8, "no_space", "quota"},
		{transfer.LocalError("write x", &transfer.SpaceError{Needed: 2, Free: 1, Err: syscall.ENOSPC}), 8, "no_space", "make room"},
		{transfer.LocalError("write x", &transfer.SpaceError{Needed: 2, Free: -1, Err: syscall.EFBIG}), 7, "local_io", "ulimit -f"},
		{transfer.LocalError("write x", syscall.EIO), 7, "local_io", "log"},
		{transfer.LocalError("write x", syscall.EROFS), 7, "local_io", "read-only"},
		{transfer.LocalError("write x", syscall.EPERM), 7, "local_io", "protected"},
		{transfer.LocalError("write x", syscall.ENAMETOOLONG), 7, "local_io", "shorter"},
		{transfer.LocalError("write x", syscall.ENODEV), 7, "local_io", "file system"},
		{transfer.LocalError("write x", syscall.EBUSY), 7, "local_io", "mounted"},
		{transfer.LocalError("write x", syscall.ENFILE), 7, "local_io", "too many"},
		{transfer.NetworkError("connect to x", os.NewSyscallError("socket", syscall.EMFILE)), 7, "local_io", "ulimit -n"},
		{resumableError{transfer.LocalError("write x", syscall.EIO)}, 7, "local_io", "log; run the same command again to resume"},
		{resumableError{transfer.LocalError("write x", syscall.EDQUOT)}, 8, "no_space", "larger quota; run the same command again to resume"},
		{resumableError{of(transfer.KindLocal)}, 7, "local_io", "run the same command again to resume"},
		{of(transfer.KindNoSpace), 8, "no_space", "make room"},
		{of(transfer.KindBusy), 9, "target_busy", "wait"},
		{of(transfer.KindDeleteLimit), 12, "delete_limit", "--max-delete"},
		{
			&transfer.Error{Kind: transfer.KindLoop, Op: "mirror", Err: &transfer.LoopError{}}, 13, "mirror_loop",
			"another",
		},
		{of(transfer.KindExists), 9, "target_exists", "--no-clobber"},
		{reportedError{of(transfer.KindExists)}, 9, "target_exists", "--no-clobber"},
		{of(transfer.KindChanged), 10, "source_changed", "again"},
		{&transfer.Error{Kind: transfer.KindNotFound, Op: "fetch", Err: &transfer.RangeError{}}, 3, "not_found", "bytes count from 0"},
		{&transfer.TimeLimitError{Limit: time.Minute}, 11, "limit_reached", ""},
		{resumableError{&transfer.TimeLimitError{Limit: time.Minute}}, 11, "limit_reached", "to resume"},
		{resumableError{of(transfer.KindNetwork)}, 5, "network", "--retry N"},
		{resumableError{of(transfer.KindNoSpace)}, 8, "no_space", "make room; run the same command again to resume"},
		{resumableError{of(transfer.KindOther)}, 1, "other", ""},
		{resumableError{interruption{syscall.SIGINT}}, 130, "interrupted", ""},
		{interruption{syscall.SIGHUP}, 129, "interrupted", ""},
		{interruption{syscall.SIGINT}, 130, "interrupted", ""},
		{interruption{syscall.SIGTERM}, 143, "interrupted", ""},
		{silenceBrokenPipe(transfer.LocalError("write the output", syscall.EPIPE)), 141, "interrupted", ""},
		{silenceBrokenPipe(of(transfer.KindBusy)), 9, "target_busy", "wait"},
	} {
		code, message, hint := explain(test.err)
		if code != test.code {
			t.Errorf("%v: exit code %d, want %d", test.err, code, test.code)
		}
		if got := errorCode(test.err); got != test.errorCode {
			t.Errorf("%v: error code %q, want %q", test.err, got, test.errorCode)
		}
		if !strings.Contains(hint, test.hint) || (hint == "") != (test.hint == "") {
			t.Errorf("%v: hint %q, want %q", test.err, hint, test.hint)
		}
		if (message == "") != (test.err == nil) {
			t.Errorf("%v: message %q", test.err, message)
		}
		for _, text := range []string{message, hint} {
			if text != "" && (unicode.IsUpper(rune(text[0])) || strings.HasSuffix(text, ".")) {
				t.Errorf("%v: %q begins with a capital or ends with a full stop", test.err, text)
			}
		}
	}
}

// The message of an interruption tells whether the same command resumes.
func TestInterruptedMessage(t *testing.T) {
	for err, want := range map[error]string{
		interruption{syscall.SIGINT}:                 "interrupted; nothing was kept",
		resumableError{interruption{syscall.SIGINT}}: "interrupted; run the same command again to resume",
	} {
		if _, message, _ := explain(err); message != want {
			t.Errorf("%q, want %q", message, want)
		}
	}
}

func TestFlagError(t *testing.T) {
	for in, want := range map[string]string{
		"flag provided but not defined: -x":                                                                      `unknown option "-x"`,
		"flag needs an argument: -root":                                                                          "--root needs a value",
		`invalid value "5" for flag -connect-timeout: parse error`:                                               `--connect-timeout cannot be "5"`,
		`invalid boolean value "x" for -json: parse error`:                                                       `--json cannot be "x"`,
		`could not parse "x" as bool value from environment variable "KWIKCP_JSON" for flag json: strconv.Parse`: `KWIKCP_JSON cannot be "x"`,
		"bad flag syntax: -=x":                                                                                   "bad flag syntax: -=x",
	} {
		if got := newFlagError("", nil, errors.New(in)); got.Error() != want || got.hint() != "kwikcp --help lists the options" {
			t.Errorf("%s: %q, %q", in, got.Error(), got.hint())
		}
	}
}

func TestLocalError(t *testing.T) {
	err := transfer.LocalError("open x", &fs.PathError{Op: "open", Path: "x", Err: syscall.EACCES})
	if got := err.Error(); got != "open x: permission denied" {
		t.Error(got)
	}
}

// Every advice has its own text.
func TestAdvices(t *testing.T) {
	seen := make(map[string]advice)
	for about := adviseNothing + 1; about < adviceCount; about++ {
		text := advices[about]
		if before, twice := seen[text]; text == "" || twice {
			t.Errorf("advice %d is %q, as advice %d", about, text, before)
		}
		seen[text] = about
	}
}
