package serve

import (
	"errors"
	"io"
	"io/fs"
	"kwikcp/kwik"
	"kwikcp/transfer/disk"
	"kwikcp/transfer/internal/wire"
	"time"

	transferpb "kwikcp/transfer/internal/wire/proto"
)

// A replyWriter writes replies, each within requestTimeout.
type replyWriter struct{ stream *kwik.Stream }

func (w replyWriter) send(r *transferpb.Reply) error {
	w.stream.SetWriteDeadline(time.Now().Add(requestTimeout))
	return wire.WriteMessage(w.stream, r)
}

var (
	errVersion = errors.New("this server speaks version 1 of the file protocol")
	errRequest = errors.New("the request is malformed")
	errTooMuch = errors.New("there are too many chunk groups for one batch")
	errBusy    = errors.New("too many listings are running")
)

// errFileChanged is sent to clients if a file changed while it was read or served.
var errFileChanged = kwik.NewError(kwik.ErrContentChanged, "the file changed on the server")

// checkVersion returns errFileChanged if a file is not of the given version.
func checkVersion(f disk.File, version disk.Version) error {
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
	case errors.Is(err, kwik.ErrContentChanged):
		return transferpb.Failure_CHANGED
	case errors.Is(err, errVersion), errors.Is(err, errRequest):
		return transferpb.Failure_BAD_REQUEST
	case errors.Is(err, kwik.ErrSecondaryStreamOverflow), errors.Is(err, errTooMuch), errors.Is(err, errBusy):
		return transferpb.Failure_BUSY
	case isFileError(err):
		return transferpb.Failure_NOT_FOUND
	}
	return transferpb.Failure_OTHER
}

// isFileError reports whether a file could not be opened or read. Clients are sent the same
// Failure for all of these errors. They must not learn whether a file is missing, forbidden or
// outside the root.
func isFileError(err error) bool {
	_, ok := errors.AsType[*fs.PathError](err)
	return ok || errors.Is(err, fs.ErrNotExist) || errors.Is(err, io.ErrUnexpectedEOF)
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
		return "the server has too much to do for this client"
	}
	return "the server failed"
}
