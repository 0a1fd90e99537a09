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
	"kwikcp/transfer"
)

func TestExplain(t *testing.T) {
	of := func(kind transfer.Kind) error {
		return &transfer.Error{Kind: kind, Op: "try", Err: errors.New("no luck")}
	}
	unknown := unknownHostError{"example.org:1", trust.Pin{}}
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
		{usageError{errors.New("what"), "do that"}, 2, "usage", "do that"},
		{fmt.Errorf("wrapped: %w", usageError{errors.New("what"), "do that"}), 2, "usage", "do that"},
		{newFlagError("get", nil, errors.New("flag provided but not defined: -x")), 2, "usage", "kwikcp get --help"},
		{of(transfer.KindNotFound), 3, "not_found", "case counts"},
		{of(transfer.KindRefused), 4, "refused", "pin"},
		{refusedError{errors.New("no"), "do that"}, 4, "refused", "do that"},
		{&transfer.Error{Kind: transfer.KindRefused, Op: "connect", Err: refusedError{errors.New("no"), "do that"}}, 4, "refused", "do that"},
		{&transfer.Error{Kind: transfer.KindRefused, Op: "connect", Err: &tls.CertificateVerificationError{Err: unknown}}, 4, "refused", "kwik://example.org:1/...?pin=AAAA"},
		{of(transfer.KindNetwork), 5, "network", "UDP"},
		{of(transfer.KindIntegrity), 6, "integrity", "no wrong byte was kept"},
		{of(transfer.KindLocal), 7, "local_io", ""},
		{hintedError{of(transfer.KindLocal), "do that"}, 7, "local_io", "do that"},
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
		{keptError{transfer.LocalError("write x", syscall.EIO)}, 7, "local_io", "says more; the same command goes on where it was"},
		{keptError{transfer.LocalError("write x", syscall.EDQUOT)}, 8, "no_space", "raised; the same command goes on where it was"},
		{keptError{of(transfer.KindLocal)}, 7, "local_io", "the same command goes on where it was"},
		{of(transfer.KindNoSpace), 8, "no_space", "make room"},
		{of(transfer.KindBusy), 9, "target_busy", "wait"},
		{of(transfer.KindExists), 9, "target_exists", "--no-clobber"},
		{saidError{of(transfer.KindExists)}, 9, "target_exists", "--no-clobber"},
		{of(transfer.KindChanged), 10, "source_changed", "again"},
		{&transfer.Error{Kind: transfer.KindNotFound, Op: "fetch", Err: &transfer.RangeError{}}, 3, "not_found", "bytes count from 0"},
		{&transfer.TimeLimitError{Limit: time.Minute}, 11, "limit_reached", ""},
		{keptError{&transfer.TimeLimitError{Limit: time.Minute}}, 11, "limit_reached", "goes on where it was"},
		{keptError{of(transfer.KindNetwork)}, 5, "network", "--retry N"},
		{keptError{of(transfer.KindNoSpace)}, 8, "no_space", "make room; the same command goes on where it was"},
		{keptError{of(transfer.KindOther)}, 1, "other", ""},
		{keptError{interruption{syscall.SIGINT}}, 130, "interrupted", ""},
		{interruption{syscall.SIGHUP}, 129, "interrupted", ""},
		{interruption{syscall.SIGINT}, 130, "interrupted", ""},
		{interruption{syscall.SIGTERM}, 143, "interrupted", ""},
		{quietly(transfer.LocalError("write the output", syscall.EPIPE)), 141, "interrupted", ""},
		{quietly(of(transfer.KindBusy)), 9, "target_busy", "wait"},
	} {
		code, message, hint := explain(test.err)
		if code != test.code || errorCode(test.err) != test.errorCode || !strings.Contains(hint, test.hint) || (hint == "") != (test.hint == "") {
			t.Errorf("%v: %d, %q, %q, %q", test.err, code, errorCode(test.err), message, hint)
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

// What was interrupted says whether the same command would begin anew.
func TestInterruptedMessage(t *testing.T) {
	for err, want := range map[error]string{
		interruption{syscall.SIGINT}:            "interrupted; nothing was left behind",
		keptError{interruption{syscall.SIGINT}}: "interrupted; the same command goes on where it was",
	} {
		if _, message, _ := explain(err); message != want {
			t.Errorf("%q, want %q", message, want)
		}
	}
}

func TestFlagError(t *testing.T) {
	for in, want := range map[string]string{
		"flag provided but not defined: -x":                                                                      `there is no option "--x"`,
		"flag needs an argument: -root":                                                                          "--root needs a value",
		`invalid value "5" for flag -connect-timeout: parse error`:                                               `--connect-timeout cannot be "5"`,
		`invalid boolean value "x" for -json: parse error`:                                                       `--json cannot be "x"`,
		`could not parse "x" as bool value from environment variable "KWIKCP_JSON" for flag json: strconv.Parse`: `KWIKCP_JSON cannot be "x"`,
		"bad flag syntax: -=x":                                                                                   "bad flag syntax: -=x",
	} {
		if got := newFlagError("", nil, errors.New(in)); got.Error() != want || got.hint != "kwikcp --help lists the options" {
			t.Errorf("%s: %q, %q", in, got.Error(), got.hint)
		}
	}
}

func TestLocalError(t *testing.T) {
	err := transfer.LocalError("open x", &fs.PathError{Op: "open", Path: "x", Err: syscall.EACCES})
	if got := err.Error(); got != "open x: permission denied" {
		t.Error(got)
	}
}
