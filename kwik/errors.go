package kwik

import (
	"errors"
	"fmt"
	"strings"

	"github.com/quic-go/quic-go"

	"kwikcp/internal/escape"
)

// An ErrorCode says why KWIK refused or ended something. It is what travels in QUIC's application and stream error
// codes (docs/PROTOCOL.md section 10), and it is an error itself, so that errors.Is(err, kwik.ErrInvalidStreamRole)
// recognises an [*Error] of that code wherever it came from.
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
}

// Error returns the code's name on the wire page, or its number if it has none here.
func (c ErrorCode) Error() string {
	if name, ok := errorCodeNames[c]; ok {
		return name
	}
	return fmt.Sprintf("KWIK_ERROR_%#x", uint64(c))
}

// An Error is a KWIK error with what is known about where it happened. Use errors.As for the fields and
// errors.Is with an [ErrorCode] for the code.
type Error struct {
	Code ErrorCode
	// Remote is true if the peer raised the error, false if this side did.
	Remote bool
	// Path is the path concerned; empty if none.
	Path PathID
	// Stream is the KWIK stream concerned; -1 if none.
	Stream StreamID
	// Offset is the offset in that stream, in bytes; -1 if none.
	Offset int64
	// Reason is for people.
	Reason string
	// Err is the cause, if another error is.
	Err error
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
	if e.Reason != "" {
		b.WriteString(e.Reason)
		b.WriteString(" ")
	}
	if e.Err != nil {
		// A reason made by errorf contains its cause already; the text of QUIC's errors is the peer's.
		if cause := e.Err.Error(); !strings.Contains(e.Reason, cause) {
			fmt.Fprintf(&b, "(%s) ", printable(cause))
		}
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

// errorf makes a local error that concerns no particular path or stream.
func errorf(code ErrorCode, format string, args ...any) *Error {
	err := fmt.Errorf(format, args...)
	return &Error{Code: code, Stream: -1, Offset: -1, Reason: err.Error(), Err: errors.Unwrap(err)}
}

// onPath says on which path e happened and returns e.
func (e *Error) onPath(id PathID) *Error {
	e.Path = id
	return e
}

// onStream says in which KWIK stream and where e happened (offset -1: nowhere in particular) and returns e.
func (e *Error) onStream(id StreamID, offset int64) *Error {
	e.Stream, e.Offset = id, offset
	return e
}

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

// fromQUIC turns a QUIC application or stream error that carries one of our codes into an [*Error], and returns every
// other error as it is.
func fromQUIC(err error, path PathID) error {
	var (
		code   ErrorCode
		remote bool
		reason string
	)
	if e, ok := errors.AsType[*quic.ApplicationError](err); ok {
		code, remote, reason = ErrorCode(e.ErrorCode), e.Remote, e.ErrorMessage
	} else if e, ok := errors.AsType[*quic.StreamError](err); ok {
		code, remote = ErrorCode(e.ErrorCode), e.Remote
	} else {
		return err
	}
	if _, known := errorCodeNames[code]; !known || code == NoError {
		return err
	}
	return &Error{Code: code, Remote: remote, Path: path, Stream: -1, Offset: -1, Reason: printable(reason), Err: err}
}

// printable makes text of a peer safe to print: no control characters, bounded.
func printable(s string) string { return escape.Reason(s, 200) }
