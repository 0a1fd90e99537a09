package disk

import (
	"io"
	"io/fs"
	"os"
)

// A File is an open regular file of a Dir. Except for Close, its methods may be called at the
// same time, unless they say otherwise. Offsets and sizes are in bytes.
type File interface {
	io.ReaderAt
	io.WriterAt
	io.Closer
	Stat() (fs.FileInfo, error)
	Chmod(mode fs.FileMode) error
	// Truncate sets the size of the file. A file that grows gets a hole at its end.
	Truncate(size int64) error
	// NextData returns the first range [start, end) at or after off that may contain data, that
	// is, not only holes. ok is false if there is none. The range may exceed the file. If the
	// file system cannot tell, the range is the rest of the file. It must not be called by two
	// goroutines at the same time.
	NextData(off int64) (start, end int64, ok bool)
	// Sync makes the content durable.
	Sync() error
	// Checkpoint makes the content durable where that is cheap enough to be done often; elsewhere
	// it does nothing. After an error a part of the content may never become durable, although it
	// can still be read.
	Checkpoint() error
	// TryLock takes an exclusive lock, which ends when the file is closed or the process ends. It
	// reports false if another process, or another File of this one, holds the lock.
	TryLock() (bool, error)
}

// An Allocator is a File for which the system can reserve space. Its methods may be called while
// other methods of the File are.
type Allocator interface {
	// Allocate reserves space on disk for the bytes [start, end). The content and the size do not
	// change. If the disk is full the error is ENOSPC, ErrQuota or EFBIG, and a part of the space
	// may be reserved. If the file system cannot reserve space or has no holes, the error matches
	// errors.ErrUnsupported. It is not a syscall.Errno if the system was not asked.
	Allocate(start, end int64) error
	// Release gives back the space of the bytes [start, end), which become a hole if the file
	// system has holes.
	Release(start, end int64)
	// Free returns the free space of the file system for this user, in bytes. ok is false if it
	// is not known.
	Free() (n int64, ok bool)
}

// A Puncher is a File whose bytes can become a hole. PunchHole may be called while other methods of
// the File are.
type Puncher interface {
	// PunchHole gives back the space of the bytes [start, end), which are zeros from then on. The
	// size does not change. After an error the bytes are as they were, or zeros, each block for
	// itself. If the file system has no holes, or cannot make any, the error is
	// errors.ErrUnsupported.
	PunchHole(start, end int64) error
}

// A Cloner is a File that can share the blocks of another one.
type Cloner interface {
	// CloneFrom replaces the whole content by that of another file, without a copy. After an
	// error nothing has changed.
	CloneFrom(File) error
}

// OpenFile opens a regular file of the operating system for reading, following all links. It does
// not block, and returns ErrNotAFile for anything else than a regular file. The caller closes the
// file.
func OpenFile(path string) (File, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|openNonblock, 0)
	if err != nil {
		return nil, err
	}
	return regular(f, path)
}

// regular returns f if it is a regular file, and closes it otherwise.
func regular(f *os.File, name string) (File, error) {
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = &fs.PathError{Op: "open", Path: name, Err: ErrNotAFile}
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return osFile{f}, nil
}

// osFile is a File of the operating system.
type osFile struct{ *os.File }

func (f osFile) TryLock() (bool, error) { return tryLock(f.File) }
