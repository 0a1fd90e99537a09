package disk

import (
	"errors"
	"io/fs"
	"slices"
	"syscall"
)

// A CauseClass tells a program that serves files to others what an error of the file system means
// to them.
type CauseClass int

const (
	// CauseFailed: the disk, the file system or the system failed.
	CauseFailed CauseClass = iota
	// CauseAbsent: the name is missing, forbidden, malformed or leads outside the directory. The
	// errors of this class must look alike to a client, who must not learn which it was.
	CauseAbsent
	// CauseBusy: the system is short of something, or something else uses the file. The same
	// operation may succeed later.
	CauseBusy
)

// ClassOf returns the class of an error of a Dir or a File. An error that it does not know is
// CauseFailed: a file that could not be opened for an unknown reason is not missing.
func ClassOf(err error) CauseClass {
	errno, isErrno := errors.AsType[syscall.Errno](err)
	_, isGone := errors.AsType[*goneError](err)
	switch {
	case isErrno && slices.Contains(busyErrnos, errno), errors.Is(err, ErrReplaced):
		return CauseBusy
	case isGone:
		return CauseFailed
	case isErrno && slices.Contains(failedErrnos, errno):
		return CauseFailed
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, fs.ErrPermission), errors.Is(err, ErrNotADirectory),
		isErrno && slices.Contains(absentErrnos, errno):
		return CauseAbsent
	case errors.Is(err, fs.ErrInvalid), isErrno && slices.Contains(nameErrnos, errno):
		// These are about the name, unless the operation has none.
		if pe, ok := errors.AsType[*fs.PathError](err); ok && pe.Op != "read" {
			return CauseAbsent
		}
		return CauseFailed
	}
	if pe, ok := errors.AsType[*fs.PathError](err); ok && slices.Contains(rootErrors, pe.Err.Error()) {
		return CauseAbsent
	}
	return CauseFailed
}

// rootErrors are the texts of os.Root's own errors of a name: it leads outside, or is empty. The
// errors are not exported.
var rootErrors = []string{"path escapes from parent", "empty path"}

// busyErrnos are the errors of CauseBusy that every system has. Windows has them as invented
// numbers, and real ones besides.
var busyErrnos = append([]syscall.Errno{
	syscall.EAGAIN, syscall.EBUSY, syscall.EDEADLK, syscall.EINTR, syscall.EMFILE, syscall.ENFILE, syscall.ENOBUFS,
	syscall.ENOLCK, syscall.ENOMEM, syscall.ETIMEDOUT, syscall.ETXTBSY, syscall.EUSERS,
}, systemBusyErrnos...)

// absentErrnos are the errors of CauseAbsent besides those of fs.ErrNotExist and fs.ErrPermission.
var absentErrnos = append([]syscall.Errno{
	syscall.EILSEQ, syscall.EISDIR, syscall.ELOOP, syscall.ENAMETOOLONG, syscall.ENOTDIR,
}, systemAbsentErrnos...)

// nameErrnos are errors of a name when it is opened: one that the file system cannot have, or that
// of a socket. When a file is read they mean that the system failed.
var nameErrnos = []syscall.Errno{syscall.EINVAL, syscall.ENXIO, syscall.EOPNOTSUPP}
