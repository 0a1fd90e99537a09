package kwik

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"

	"github.com/quic-go/quic-go"
)

// The codes of docs/PROTOCOL.md section 10.
func TestErrorCodes(t *testing.T) {
	for code, want := range map[ErrorCode]string{
		0x0:        "KWIK_NO_ERROR",
		0x4b570001: "KWIK_SECONDARY_STREAM_ISOLATION",
		0x4b570002: "KWIK_STREAM_MAPPING_CONFLICT",
		0x4b570003: "KWIK_OFFSET_SYNC_FAILURE",
		0x4b570004: "KWIK_METADATA_PROTOCOL_VIOLATION",
		0x4b570005: "KWIK_AGGREGATION_TIMEOUT",
		0x4b570006: "KWIK_SECONDARY_STREAM_OVERFLOW",
		0x4b570007: "KWIK_INVALID_STREAM_ROLE",
		0x4b570010: "KWIK_ACCESS_REFUSED",
		0x4b570011: "KWIK_VERSION_MISMATCH",
		0x4b570012: "KWIK_CONTENT_UNAVAILABLE",
		0x4b570013: "KWIK_SOURCE_REFUTED",
		0x4b570014: "KWIK_CONTENT_CHANGED",
		0x4b570015: "KWIK_SERVER_BUSY",
		0x4b570016: "KWIK_ERROR_0x4b570016",
	} {
		if got := code.Error(); got != want {
			t.Errorf("%#x is %s, want %s", uint64(code), got, want)
		}
	}
	if len(errorCodeNames) != 14 {
		t.Errorf("%d codes have names", len(errorCodeNames))
	}
}

func TestErrorIsAndAs(t *testing.T) {
	err := fmt.Errorf("reading: %w", errorf(ErrOffsetSyncFailure, "grant %d: %w", 7, io.ErrUnexpectedEOF).onPath("s1").onStream(firstAggregateStreamID, 64))
	for target, want := range map[error]bool{
		ErrOffsetSyncFailure: true, ErrAggregationTimeout: false, NoError: false, io.ErrUnexpectedEOF: true, io.EOF: false,
	} {
		if errors.Is(err, target) != want {
			t.Errorf("errors.Is(%v) is %v", target, !want)
		}
	}
	e, ok := errors.AsType[*Error](err)
	if !ok {
		t.Fatalf("%v is no *Error", err)
	}
	if e.Code != ErrOffsetSyncFailure || e.Remote {
		t.Errorf("code %v, remote %t", e.Code, e.Remote)
	}
	if e.Path != "s1" || e.Stream != firstAggregateStreamID || e.Offset != 64 {
		t.Errorf("path %q, stream %#x, offset %d", e.Path, uint64(e.Stream), e.Offset)
	}
	for err, want := range map[error]ErrorCode{err: ErrOffsetSyncFailure, nil: NoError, io.EOF: ErrMetadataProtocolViolation} {
		if got := codeOf(err); got != want {
			t.Errorf("the code of %v is %v, want %v", err, got, want)
		}
	}
}

func TestErrorText(t *testing.T) {
	for _, tt := range []struct {
		err  *Error
		want string
	}{
		{errorf(ErrInvalidStreamRole, "no"), "kwik: no [KWIK_INVALID_STREAM_ROLE local]"},
		{&Error{Code: ErrAccessRefused, Remote: true, Stream: -1, Offset: -1}, "kwik: [KWIK_ACCESS_REFUSED remote]"},
		{errorf(ErrOffsetSyncFailure, "no").onPath("s1").onStream(0, 0), `kwik: path "s1": stream 0x0: offset 0: no [KWIK_OFFSET_SYNC_FAILURE local]`},
		{errorf(ErrOffsetSyncFailure, "no").onStream(firstAggregateStreamID, -1), "kwik: stream 0x4000000000000000: no [KWIK_OFFSET_SYNC_FAILURE local]"},
		{&Error{Code: ErrAggregationTimeout, Stream: -1, Offset: -1, Message: "no", Err: io.EOF}, "kwik: no (EOF) [KWIK_AGGREGATION_TIMEOUT local]"},
		{errorf(ErrMetadataProtocolViolation, "frame: %w", io.EOF), "kwik: frame: EOF [KWIK_METADATA_PROTOCOL_VIOLATION local]"},
	} {
		if got := tt.err.Error(); got != tt.want {
			t.Errorf("%s\nwant %s", got, tt.want)
		}
	}
}

func TestErrorFromQUIC(t *testing.T) {
	const evil = "\x1b[2Jgone"
	for _, tt := range []struct {
		name   string
		err    error
		code   ErrorCode // 0: as it is
		remote bool
	}{
		{"no error", nil, 0, false},
		{"another error", context.Canceled, 0, false},
		{"closed regularly", &quic.ApplicationError{Remote: true}, 0, false},
		{"a code of another protocol", &quic.ApplicationError{ErrorCode: 0x100, Remote: true}, 0, false},
		{"closed by the peer", &quic.ApplicationError{ErrorCode: 0x4b570010, Remote: true, ErrorMessage: evil}, ErrAccessRefused, true},
		{"closed by this side", &quic.ApplicationError{ErrorCode: 0x4b570004, ErrorMessage: evil}, ErrMetadataProtocolViolation, false},
		{"reset by the peer", &quic.StreamError{ErrorCode: 0x4b570001, Remote: true}, ErrSecondaryStreamIsolation, true},
		{"reset by this side", &quic.StreamError{ErrorCode: 0x4b570001}, ErrSecondaryStreamIsolation, false},
		{"refused by QUIC", fmt.Errorf("dial: %w", &quic.TransportError{ErrorCode: quic.ConnectionRefused, Remote: true}), ErrServerBusy, true},
		{"wrapped", fmt.Errorf("dial: %w", &quic.ApplicationError{ErrorCode: 0x4b570011, Remote: true}), ErrVersionMismatch, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got := fromQUIC(tt.err, "s1")
			if tt.code == 0 {
				if got != tt.err {
					t.Errorf("%v", got)
				}
				return
			}
			e, ok := errors.AsType[*Error](got)
			if !ok || !errors.Is(got, tt.err) {
				t.Fatalf("%#v is no *Error that wraps %v", got, tt.err)
			}
			if e.Code != tt.code || e.Remote != tt.remote {
				t.Errorf("code %v, remote %t", e.Code, e.Remote)
			}
			if e.Path != "s1" || e.Stream != -1 {
				t.Errorf("path %q, stream %d", e.Path, e.Stream)
			}
			if strings.ContainsRune(got.Error(), '\x1b') {
				t.Errorf("%q would be sent to a terminal", got.Error())
			}
		})
	}
}

func TestPrintable(t *testing.T) {
	long := strings.Repeat("x", 199)
	for in, want := range map[string]string{
		"":                        "",
		"plain text, ümläute, 日本": "plain text, ümläute, 日本",
		"a\x00b\x1fc\nd\x7fe":     "a?b?c?d?e",
		"\u0080\u009b\u00a0":      "??\u00a0",
		"\u202e\u2066 \u2069":     "?? ?",
		"\xff\xfe":                "??",
		long:                      long,
		long + "y":                long + "y",
		long + "yz":               long + "y",
		long + "ü":                long + "?",
	} {
		if got := printable(in); got != want {
			t.Errorf("printable(%q) = %q, want %q", in, got, want)
		}
	}
}
