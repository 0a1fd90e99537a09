package disk

import (
	"errors"
	"fmt"
	"io/fs"
)

// A SpaceError reports that a file does not fit. It is an ENOSPC, EDQUOT or EFBIG to errors.Is.
type SpaceError struct {
	Needed int64 // bytes that are not in the file yet
	Free   int64 // bytes that the file system has free for this user; -1 if that is not known
	Err    error // the system's
}

func (e *SpaceError) Error() string {
	if e.Free < 0 {
		return fmt.Sprintf("%v: %d more bytes are needed", e.Err, e.Needed)
	}
	return fmt.Sprintf("%v: %d more bytes are needed, %d are free", e.Err, e.Needed, e.Free)
}

// Unwrap returns the system's error.
func (e *SpaceError) Unwrap() error { return e.Err }

// Cause returns the error inside an *fs.PathError, and any other as it is: for messages that
// name the path themselves.
func Cause(err error) error {
	if pe, ok := errors.AsType[*fs.PathError](err); ok {
		return pe.Err
	}
	return err
}
