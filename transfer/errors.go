package transfer

import (
	"context"
	"errors"
	"io/fs"
	"kwikcp/integrity"
	"kwikcp/internal/trust"
	"kwikcp/kwik"
	"kwikcp/transfer/disk"
	"kwikcp/transfer/internal/partfile"
	"net"
	"os"
	"syscall"

	"github.com/quic-go/quic-go"
)

// A Kind classifies an error for scripts. The command line maps each kind to an exit code.
type Kind int

const (
	KindOther     Kind = iota
	KindNotFound       // the server has no such file
	KindRefused        // TLS, pin, token, ticket
	KindNetwork        // temporary: a retry may succeed
	KindIntegrity      // no server delivered bytes that match the root, or the root is not the expected one
	KindLocal          // the local file system
	KindNoSpace        // the local file system is full or the quota is used up
	KindBusy           // another kwikcp is fetching to the same target
	KindExists         // the target exists and must not be replaced
	KindChanged        // the source changed during the transfer
	// KindDeleteLimit is of a mirror that would delete more than it may: see DeleteLimitError.
	KindDeleteLimit
	KindLoop // the mirror would copy a directory into itself: see LoopError
)

// An Error is the error of [Get], [Mirror], [List] and [Compare]: the operation, on which server
// or file, and the cause.
type Error struct {
	Kind Kind
	// Op is the operation with its object, such as "connect to 192.0.2.1:4433" or "write out.bin".
	Op string
	// Err is the cause.
	Err error
}

func (e *Error) Error() string { return e.Op + ": " + e.Err.Error() }

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// A RemoteError is a refusal by the server, with its message.
type RemoteError struct {
	Path    string
	Message string
	// Busy means that the server may fulfill the same request later. Such an error matches
	// kwik.ErrServerBusy.
	Busy bool
}

func (e *RemoteError) Error() string { return e.Message }

// Is reports whether target is kwik.ErrServerBusy and the server is busy.
func (e *RemoteError) Is(target error) bool { return e.Busy && target == kwik.ErrServerBusy }

// LocalError wraps an error of the local file system and finds its kind. op must name the path: a
// path in err is removed.
func LocalError(op string, err error) error {
	kind := KindLocal
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, disk.ErrQuota) {
		kind = KindNoSpace
	}
	if pe, ok := errors.AsType[*fs.PathError](err); ok {
		err = pe.Err
	}
	if le, ok := errors.AsType[*os.LinkError](err); ok {
		err = le.Err
	}
	return &Error{Kind: kind, Op: op, Err: err}
}

// NetworkError wraps an error of the network or of KWIK and finds its kind. It returns an *Error
// as it is.
func NetworkError(op string, err error) error {
	if e, ok := errors.AsType[*Error](err); ok {
		return e
	}
	return &Error{Kind: kindOf(err), Op: op, Err: NetworkCause(err)}
}

// kindOf classifies an error of the network or of KWIK.
func kindOf(err error) Kind {
	if _, ok := errors.AsType[*integrity.GroupError](err); ok {
		return KindIntegrity
	}
	if _, ok := errors.AsType[*integrity.ProofError](err); ok {
		return KindIntegrity
	}
	if _, ok := errors.AsType[*trust.PinError](err); ok {
		return KindRefused
	}
	switch {
	case errors.Is(err, syscall.EMFILE), errors.Is(err, syscall.ENFILE):
		return KindLocal
	case errors.Is(err, kwik.ErrContentChanged):
		return KindChanged
	case errors.Is(err, kwik.ErrAccessRefused), isCrypto(err):
		return KindRefused
	case errors.Is(err, kwik.ErrInvalidStreamRole), errors.Is(err, kwik.ErrVersionMismatch):
		return KindOther
	case errors.Is(err, context.Canceled):
		return KindOther
	}
	return KindNetwork
}

// isCrypto reports whether the TLS handshake failed, on either side (RFC 9001 section 4.8).
func isCrypto(err error) bool {
	te, ok := errors.AsType[*quic.TransportError](err)
	return ok && te.ErrorCode.IsCryptoError()
}

// NetworkCause returns the part of an error of the network or of KWIK that a user can act on.
func NetworkCause(err error) error {
	if _, ok := errors.AsType[*trust.PinError](err); !ok {
		if cause := connectCause(err); cause != nil {
			return cause
		}
	}
	if errors.Is(err, context.DeadlineExceeded) || errors.Is(err, os.ErrDeadlineExceeded) {
		return errNoAnswer
	}
	if _, ok := errors.AsType[*quic.IdleTimeoutError](err); ok {
		return errSilent
	}
	if kwik.IsIdleClose(err) {
		return idleError{err}
	}
	if pin, ok := errors.AsType[*trust.PinError](err); ok {
		return pin
	}
	if refusal := accessRefusal(err); refusal != nil {
		return refusal
	}
	if te, ok := errors.AsType[*quic.TransportError](err); ok && te.ErrorCode.IsCryptoError() {
		if cause := lastCause(te); cause != nil {
			return cause
		}
	}
	if e, ok := errors.AsType[*kwik.Error](err); ok {
		switch e.Code {
		case kwik.ErrInvalidStreamRole:
			return errors.New(e.Message)
		case kwik.ErrServerBusy:
			return busyError{e}
		}
	}
	return err
}

// An idleError is the error of a session that the server closed because it had no stream.
type idleError struct{ cause error }

func (e idleError) Error() string { return "the server closed the idle connection" }
func (e idleError) Unwrap() error { return e.cause }

// A changedError is the error of a file that is no longer the one that was requested.
type changedError struct{ cause error }

func (e changedError) Error() string { return "the file changed on the server" }
func (e changedError) Unwrap() error { return e.cause }

// A busyError is the error of a server that cannot serve this client now. It wraps
// kwik.ErrServerBusy.
type busyError struct{ cause *kwik.Error }

func (e busyError) Error() string {
	if e.cause.Message == "" {
		return "the server is busy"
	}
	return "the server is busy: " + e.cause.Message
}

func (e busyError) Unwrap() error { return e.cause }

var (
	// ErrIsDirectory is in the error of a Get whose target is a directory.
	ErrIsDirectory = partfile.ErrIsDirectory
	// ErrIsFile is in the error of a Mirror whose URL names a file.
	ErrIsFile = errors.New("it is a file, not a directory")
	// ErrYoung is why a mirror leaves a file that is younger than MirrorOptions.MinAge.
	ErrYoung = errors.New("it has just changed, and is left for a later mirror")

	// ErrNewer is why a mirror with MirrorOptions.Update leaves a file.
	ErrNewer = errors.New("a newer file is in its place")
	// ErrElsewhere is why a mirror with MirrorOptions.OneFileSystem leaves an entry.
	ErrElsewhere = errors.New("it is on another file system")

	errNoAnswer = errors.New("no answer in time")
	errUnserved = errors.New("the server can be reached, but there is no answer in time")
	errSilent   = errors.New("the server fell silent")
)

// lastCause returns the error of package tls or x509 inside a QUIC error.
func lastCause(te *quic.TransportError) error {
	for _, err := range te.Unwrap() {
		if err != nil && err != net.ErrClosed {
			return err
		}
	}
	return nil
}
