package serve

import (
	"context"
	"errors"
	"kwikcp/kwik"
	"kwikcp/transfer/disk"
	"kwikcp/transfer/internal/wire"
	"kwikcp/transfer/source"
	"log/slog"
	"time"

	transferpb "kwikcp/transfer/internal/wire/proto"
)

// A replyWriter writes replies, each within requestTimeout.
type replyWriter struct {
	stream *kwik.Stream
	log    *slog.Logger // of the request
	size   int          // of a message, in bytes, that the client need not wait long for
	memory *charge      // of the request, until the content is released
}

// values returns how many bytes of chaining values or of a proof one message should have.
func (w replyWriter) values() int {
	const header = 16 // of a message
	return min(wire.TreePart, max(w.size-header, wire.HashSize)/wire.HashSize*wire.HashSize)
}

func (w replyWriter) send(r *transferpb.Reply) error {
	w.stream.SetWriteDeadline(time.Now().Add(requestTimeout))
	if err := wire.WriteMessage(w.stream, r); err != nil {
		return sendError{err}
	}
	return nil
}

// A sendError is the error of a client that left or does not read its reply.
type sendError struct{ err error }

func (e sendError) Error() string { return e.err.Error() }
func (e sendError) Unwrap() error { return e.err }

var (
	errVersion = errors.New("this server speaks version 1 of the file protocol")
	errRequest = errors.New("the request is malformed")
	errTooMuch = errors.New("there are too many chunk groups for one batch")
	errBusy    = errors.New("too many listings are running")
)

// errFileChanged is sent to clients if a file changed while it was read or served.
var errFileChanged = kwik.NewError(kwik.ErrContentChanged, "the file changed on the server")

// checkVersion returns errFileChanged if a file is not of the given version.
func checkVersion(f source.Object, version disk.Version) error {
	err := disk.CheckVersion(f, version)
	if errors.Is(err, disk.ErrChanged) {
		return errFileChanged
	}
	return err
}

// failureOf returns the Failure that a client is sent for an error.
func failureOf(err error) *transferpb.Failure {
	return &transferpb.Failure{Code: failureCode(err), Message: failureMessage(err)}
}

func failureCode(err error) transferpb.Failure_Code {
	if _, ok := errors.AsType[accessError](err); ok {
		return transferpb.Failure_FORBIDDEN
	}
	switch {
	case errors.Is(err, disk.ErrNotAFile):
		return transferpb.Failure_NOT_A_FILE
	case errors.Is(err, kwik.ErrContentChanged), errors.Is(err, disk.ErrChanged):
		return transferpb.Failure_CHANGED
	case errors.Is(err, errVersion), errors.Is(err, errRequest):
		return transferpb.Failure_BAD_REQUEST
	case isServerBusy(err):
		return transferpb.Failure_BUSY
	case disk.ClassOf(err) == disk.CauseAbsent, errors.Is(err, errNoContent):
		return transferpb.Failure_NOT_FOUND
	}
	return transferpb.Failure_OTHER
}

// isServerBusy reports whether the same request may succeed later. A limit was reached, the system
// is short of something, the root is not available, or the server is stopping.
func isServerBusy(err error) bool {
	for _, busy := range []error{
		kwik.ErrSecondaryStreamOverflow, kwik.ErrServerBusy, errTooMuch, errBusy, context.Canceled,
		context.DeadlineExceeded,
	} {
		if errors.Is(err, busy) {
			return true
		}
	}
	return isUnavailable(err) || disk.ClassOf(err) == disk.CauseBusy
}

// isUnavailable reports whether the store of a remote root does not answer.
func isUnavailable(err error) bool {
	_, ok := errors.AsType[*source.Unavailable](err)
	return ok
}

// isServersFault reports whether an error has its cause on this server, so that the operator should
// see it. Its disk, system or store failed, or is short of something.
func isServersFault(err error) bool {
	if _, clientLeft := errors.AsType[sendError](err); clientLeft {
		return false
	}
	switch failureCode(err) {
	case transferpb.Failure_OTHER:
		return true
	case transferpb.Failure_BUSY:
		isStopped := errors.Is(err, context.Canceled) // the request ended, or the server
		return isUnavailable(err) && !isStopped || disk.ClassOf(err) == disk.CauseBusy
	}
	return false
}

// The errors of content that clients are sent in place of the file system's, which have the
// server's own paths.
var (
	errContentBusy        = kwik.NewError(kwik.ErrServerBusy, "the server is short of resources")
	errContentUnavailable = kwik.NewError(kwik.ErrServerBusy, messageUnavailable)
	errContentFailed      = kwik.NewError(kwik.ErrContentUnavailable, "the server failed")
)

// messageUnavailable tells a client that the store of a remote root does not answer.
const messageUnavailable = "the server cannot read its files now"

// messageNoListing tells a client that a remote root does not list a directory.
const messageNoListing = "the server has no listing of the directory; its files can be fetched by their paths"

// contentError returns the error that a client is sent for one of a content. A copy that cannot be
// read is not called missing.
func contentError(err error) error {
	switch failureCode(err) {
	case transferpb.Failure_CHANGED:
		if errors.Is(err, kwik.ErrContentChanged) {
			return err
		}
		return errFileChanged
	case transferpb.Failure_BUSY:
		if isUnavailable(err) {
			return errContentUnavailable
		}
		return errContentBusy
	case transferpb.Failure_OTHER:
		return errContentFailed
	}
	return errNoContent // the client does not learn why
}

func failureMessage(err error) string {
	switch failureCode(err) {
	case transferpb.Failure_FORBIDDEN:
		return err.Error()
	case transferpb.Failure_NOT_FOUND:
		return "no such file on the server"
	case transferpb.Failure_NOT_A_FILE:
		return "it is not a regular file on the server"
	case transferpb.Failure_CHANGED:
		return "the file changed on the server while it was read"
	case transferpb.Failure_BAD_REQUEST:
		if errors.Is(err, errRequest) {
			return errRequest.Error()
		}
		return errVersion.Error()
	case transferpb.Failure_BUSY:
		if isUnavailable(err) {
			return messageUnavailable
		}
		return "the server is busy"
	}
	if errors.Is(err, source.ErrNoListing) {
		return messageNoListing
	}
	return "the server failed"
}

// faults collects the errors of this server in one request, for one log line.
type faults struct {
	count int
	path  string // of the first
	first error
}

// note counts an error, if it is this server's fault.
func (f *faults) note(path string, err error) {
	if err == nil || !isServersFault(err) {
		return
	}
	if f.count++; f.count == 1 {
		f.path, f.first = path, err
	}
}

// report logs the errors, if there are any.
func (f *faults) report(log *slog.Logger) {
	if f.count > 0 {
		log.Warn("cannot read what was requested", "entries", f.count, "first", f.path, "err", f.first)
	}
}
