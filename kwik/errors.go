package kwik

import (
	"errors"
	"fmt"
	"net"
	"strings"

	"github.com/quic-go/quic-go"

	"kwikcp/internal/escape"
)

// An ErrorCode is the class of a KWIK error. It travels in QUIC's application and stream error
// codes (docs/PROTOCOL.md section 10). It is an error itself: errors.Is(err,
// kwik.ErrInvalidStreamRole) reports whether err is, or wraps, an [*Error] of that code.
type ErrorCode uint64

// The seven codes of the original specification.
const (
	ErrSecondaryStreamIsolation  ErrorCode = 0x4b570001 + iota // a public stream where only secondary streams may be
	ErrStreamMappingConflict                                   // one secondary stream mapped to two targets, or one grant answered twice
	ErrOffsetSyncFailure                                       // a grant or offset that does not fit the stream
	ErrMetadataProtocolViolation                               // a frame that cannot be parsed, is too long or breaks a rule
	ErrAggregationTimeout                                      // no source can deliver what the reader waits for
	ErrSecondaryStreamOverflow                                 // more streams, grants or bytes than were allowed
	ErrInvalidStreamRole                                       // an operation that the server's role does not have
)

// Codes that a session needs beyond those seven.
const (
	NoError               ErrorCode = 0                     // regular end
	ErrAccessRefused      ErrorCode = 0x4b570010 + iota - 1 // ticket, token or address not accepted
	ErrVersionMismatch                                      // a version that the peer does not speak
	ErrContentUnavailable                                   // the content handler has no such content, or it changed
	ErrSourceRefuted                                        // the client closes a path whose bytes failed their proof
	ErrContentChanged                                       // the content is not what the descriptor describes any more
	ErrServerBusy                                           // the server cannot serve this client now; a later attempt may succeed
)

var errorCodeNames = map[ErrorCode]string{
	NoError:                      "KWIK_NO_ERROR",
	ErrSecondaryStreamIsolation:  "KWIK_SECONDARY_STREAM_ISOLATION",
	ErrStreamMappingConflict:     "KWIK_STREAM_MAPPING_CONFLICT",
	ErrOffsetSyncFailure:         "KWIK_OFFSET_SYNC_FAILURE",
	ErrMetadataProtocolViolation: "KWIK_METADATA_PROTOCOL_VIOLATION",
	ErrAggregationTimeout:        "KWIK_AGGREGATION_TIMEOUT",
	ErrSecondaryStreamOverflow:   "KWIK_SECONDARY_STREAM_OVERFLOW",
	ErrInvalidStreamRole:         "KWIK_INVALID_STREAM_ROLE",
	ErrAccessRefused:             "KWIK_ACCESS_REFUSED",
	ErrVersionMismatch:           "KWIK_VERSION_MISMATCH",
	ErrContentUnavailable:        "KWIK_CONTENT_UNAVAILABLE",
	ErrSourceRefuted:             "KWIK_SOURCE_REFUTED",
	ErrContentChanged:            "KWIK_CONTENT_CHANGED",
	ErrServerBusy:                "KWIK_SERVER_BUSY",
}

// Error returns the code's name in docs/PROTOCOL.md, or its number if it has none.
func (c ErrorCode) Error() string {
	if name, ok := errorCodeNames[c]; ok {
		return name
	}
	return fmt.Sprintf("KWIK_ERROR_%#x", uint64(c))
}

// An Error is a KWIK error. Use errors.As for the fields and errors.Is with an [ErrorCode] for
// the code.
type Error struct {
	Code ErrorCode
	// Remote reports whether the peer raised the error.
	Remote bool
	// Path is the path concerned; empty if none.
	Path PathID
	// Stream is the KWIK stream concerned; -1 if none.
	Stream StreamID
	// Offset is the offset in that stream, in bytes; -1 if none.
	Offset int64
	// Message is the text of the error. It is sent to the peer.
	Message string
	// Err is the cause; nil if none.
	Err error

	hasCause bool // Message contains the text of Err
}

// NewError returns an Error of this side that concerns no particular path or stream, as an
// [OpenContentFunc] or a [Content] returns it.
func NewError(code ErrorCode, message string) *Error {
	return &Error{Code: code, Stream: -1, Offset: -1, Message: message}
}

func (e *Error) Error() string {
	var b strings.Builder
	b.WriteString("kwik: ")
	if e.Path != "" {
		fmt.Fprintf(&b, "path %q: ", string(e.Path))
	}
	if e.Stream >= 0 {
		fmt.Fprintf(&b, "stream %#x: ", uint64(e.Stream))
	}
	if e.Offset >= 0 {
		fmt.Fprintf(&b, "offset %d: ", e.Offset)
	}
	if e.Message != "" {
		b.WriteString(e.Message)
		b.WriteString(" ")
	}
	if e.Err != nil && !e.hasCause {
		fmt.Fprintf(&b, "(%s) ", printable(e.Err.Error())) // the text of QUIC's errors is the peer's
	}
	side := "local"
	if e.Remote {
		side = "remote"
	}
	fmt.Fprintf(&b, "[%s %s]", e.Code.Error(), side)
	return b.String()
}

// Is reports whether target is this error's code.
func (e *Error) Is(target error) bool {
	code, ok := target.(ErrorCode)
	return ok && code == e.Code
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// errorf returns an error of this side that concerns no particular path or stream. %w sets its
// cause.
func errorf(code ErrorCode, format string, args ...any) *Error {
	err := fmt.Errorf(format, args...)
	cause := errors.Unwrap(err)
	return &Error{Code: code, Stream: -1, Offset: -1, Message: err.Error(), Err: cause, hasCause: cause != nil}
}

// onPath sets the path and returns e.
func (e *Error) onPath(id PathID) *Error {
	e.Path = id
	return e
}

// onStream sets the KWIK stream and the offset, -1 for none, and returns e.
func (e *Error) onStream(id StreamID, offset int64) *Error {
	e.Stream, e.Offset = id, offset
	return e
}

// A closedError is the error of a call on something that this side has closed. It wraps
// net.ErrClosed.
type closedError string

func (e closedError) Error() string { return string(e) }
func (e closedError) Unwrap() error { return net.ErrClosed }

// codeOf returns the code with which to close a path or reset a stream because of err.
func codeOf(err error) ErrorCode {
	if err == nil {
		return NoError
	}
	if e, ok := errors.AsType[*Error](err); ok {
		return e.Code
	}
	return ErrMetadataProtocolViolation
}

// fromQUIC returns the [*Error] for a QUIC application or stream error that carries one of the
// codes above, and every other error unchanged. A server that refuses a connection in the QUIC
// handshake is busy: its queue of new connections is full.
func fromQUIC(err error, path PathID) error {
	var (
		code    ErrorCode
		remote  bool
		message string
	)
	if e, ok := errors.AsType[*quic.TransportError](err); ok && e.Remote && e.ErrorCode == quic.ConnectionRefused {
		code, remote, message = ErrServerBusy, true, "the server takes no more connections now"
	} else if e, ok := errors.AsType[*quic.ApplicationError](err); ok {
		code, remote, message = ErrorCode(e.ErrorCode), e.Remote, e.ErrorMessage
	} else if e, ok := errors.AsType[*quic.StreamError](err); ok {
		code, remote = ErrorCode(e.ErrorCode), e.Remote
	} else {
		return err
	}
	if _, known := errorCodeNames[code]; !known || code == NoError {
		return err
	}
	return &Error{Code: code, Remote: remote, Path: path, Stream: -1, Offset: -1, Message: printable(message), Err: err}
}

// printable returns text of a peer with at most 200 bytes and without control characters, so that
// it is safe to print.
func printable(s string) string { return escape.Reason(s, 200) }
