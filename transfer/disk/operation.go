package disk

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"sync"
	"syscall"
)

// An Operation is a kind of request to a file system.
type Operation string

// The operations of a transfer. [Needs] lists them with what a transfer does without them.
const (
	OpOpen       Operation = "open"
	OpCreate     Operation = "create"
	OpRead       Operation = "read"
	OpWrite      Operation = "write"
	OpStat       Operation = "stat"
	OpTruncate   Operation = "truncate"
	OpRename     Operation = "rename"
	OpMkdir      Operation = "mkdir"
	OpSync       Operation = "sync"
	OpCheckpoint Operation = "checkpoint"
	OpSyncDir    Operation = "sync_directory"
	OpSyncVolume Operation = "sync_volume"
	OpClose      Operation = "close"
	OpMode       Operation = "set_mode"
	OpTimes      Operation = "set_times"
	OpOwner      Operation = "set_owner"
	OpXattr      Operation = "set_xattr"
	OpLock       Operation = "lock"
	OpReserve    Operation = "reserve"
	OpRelease    Operation = "release"
	OpPunch      Operation = "punch_hole"
	OpHoles      Operation = "find_holes"
	OpClone      Operation = "clone"
	OpLink       Operation = "link"
	OpSymlink    Operation = "symlink"
	OpRemove     Operation = "remove"
	OpFree       Operation = "free_space"
	OpPrivate    Operation = "private_file"
)

// A Need says whether a transfer can do without an operation.
type Need struct {
	Op Operation
	// Essential means that no byte lands without the operation. Each of its errors ends the
	// transfer of the file.
	Essential bool
	// Absent lists the errors, besides those in absentAnywhere, that mean that this file system or
	// this user cannot do it. Any other error is a failure of the disk.
	Absent []error
	// Told means that the user hears of it: the result differs from that elsewhere.
	Told bool
	// Does completes "this file system or user cannot ...".
	Does string
	// Without says what happens then; for an essential operation, why it is one.
	Without string
}

// Needs is the table of all operations. Only an operation whose absence loses or endangers bytes
// is essential. An error that is not listed, such as EIO or ENOSPC, is always an error.
var Needs = []Need{
	{Op: OpOpen, Essential: true, Does: "open the file", Without: "bytes have no place to go to"},
	{Op: OpCreate, Essential: true, Does: "create files", Without: "bytes have no place to go to"},
	{Op: OpRead, Essential: true, Does: "read the file",
		Without: "bytes that are there cannot be proved; they are fetched"},
	{Op: OpWrite, Essential: true, Does: "write the file", Without: "bytes are lost"},
	{Op: OpStat, Essential: true, Does: "describe the file", Without: "a file cannot be told from another one"},
	{Op: OpTruncate, Essential: true, Does: "set the size of the file", Without: "wrong bytes would stay at its end"},
	{Op: OpRename, Essential: true, Does: "rename files", Without: "a file would be seen before it is whole"},
	{Op: OpMkdir, Essential: true, Does: "make directories", Without: "the files in it have no place to go to"},
	{Op: OpSync, Told: true, Does: "put content on the disk at once",
		Without: "a power cut soon after the transfer may cost bytes"},
	{Op: OpCheckpoint, Told: true, Does: "put content on the disk at once",
		Without: "a power cut during the transfer may cost bytes, which are proved or fetched again"},
	{Op: OpSyncDir, Absent: []error{syscall.EBADF, syscall.EISDIR}, Told: true, Does: "put names on the disk at once",
		Without: "after a power cut soon after the transfer the file may be missing"},
	{Op: OpSyncVolume, Does: "be synced as a whole", Without: "each file is synced alone"},
	{Op: OpClose, Does: "report errors at close", Without: "the sync before has reported them"},
	{Op: OpMode, Absent: []error{syscall.EROFS}, Told: true, Does: "set the mode",
		Without: "entries have the mode that they get when they are made"},
	{Op: OpTimes, Absent: []error{syscall.EROFS, syscall.EOVERFLOW, syscall.ERANGE}, Told: true, Does: "set the time",
		Without: "entries have the time of their last change"},
	{Op: OpOwner, Absent: []error{syscall.EROFS, syscall.EOVERFLOW}, Does: "set the owner",
		Without: "entries are this user's; they are counted as not kept"},
	{Op: OpXattr, Absent: []error{syscall.EROFS, syscall.ERANGE, syscall.E2BIG}, Does: "set extended attributes",
		Without: "entries lack them; they are counted as not kept"},
	{Op: OpLock, Absent: []error{syscall.ENOLCK, syscall.EBADF}, Told: true, Does: "lock files",
		Without: "each transfer uses a separate part file, so that two to one file fetch it twice"},
	{Op: OpReserve, Told: true, Does: "reserve free space", Without: "a file that does not fit is found out later"},
	{Op: OpRelease, Does: "give back reserved space", Without: "it stays with the part file"},
	{Op: OpPunch, Does: "make holes", Without: "zeros are written"},
	{Op: OpHoles, Does: "find holes", Without: "holes are read as zeros"},
	{Op: OpClone, Absent: []error{syscall.EXDEV, syscall.ETXTBSY}, Does: "share blocks between files",
		Without: "bytes are copied"},
	{Op: OpLink, Absent: []error{syscall.EXDEV, syscall.EMLINK}, Does: "give files a second name",
		Without: "files are copied; they are counted as not kept"},
	{Op: OpSymlink, Told: true, Does: "make symbolic links", Without: "they are skipped"},
	{Op: OpRemove, Does: "remove the part file", Without: "it stays; it may be removed at any time"},
	{Op: OpFree, Does: "tell its free space", Without: "a file that does not fit is found out later"},
	{Op: OpPrivate, Told: true, Does: "keep a part file from other users",
		Without: "all files have the same owner and mode there, so that others may change them"},
}

// absentAnywhere are the errors that mean "not here" for each operation that is not essential.
// errors.ErrUnsupported includes ENOSYS, ENOTSUP and EOPNOTSUPP, fs.ErrPermission EPERM and EACCES.
var absentAnywhere = []error{errors.ErrUnsupported, fs.ErrPermission, syscall.EINVAL, syscall.ENOTTY}

// NeedOf returns the row of an operation.
func NeedOf(op Operation) Need {
	i := slices.IndexFunc(Needs, func(n Need) bool { return n.Op == op })
	return Needs[i]
}

// IsAbsent reports whether a transfer goes on after an error of an operation. This file system or
// this user cannot do it then, and it is not essential.
func IsAbsent(op Operation, err error) bool {
	n := NeedOf(op)
	matches := func(absent error) bool { return errors.Is(err, absent) }
	if err == nil || n.Essential {
		return false
	}
	return slices.ContainsFunc(absentAnywhere, matches) || slices.ContainsFunc(n.Absent, matches)
}

// A Lack is an operation that was not possible.
type Lack struct {
	Op    Operation
	Err   error // the first one
	Count int64 // entries, or calls
}

// String returns one line for the user.
func (l Lack) String() string {
	n := NeedOf(l.Op)
	return fmt.Sprintf("this file system or user cannot %s (%v): %s", n.Does, Cause(l.Err), n.Without)
}

// Lacks collects by kind the operations that were not possible. It is safe for concurrent use, and
// a nil one collects nothing.
type Lacks struct {
	mu  sync.Mutex
	all []Lack
}

// Allow returns nil if an operation succeeded, or if a transfer goes on without it, which it notes.
// It returns any other error.
func (l *Lacks) Allow(op Operation, err error) error {
	if err == nil || !IsAbsent(op, err) {
		return err
	}
	l.Note(op, err)
	return nil
}

// Note notes that an operation was not possible.
func (l *Lacks) Note(op Operation, err error) {
	if l == nil {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if i := slices.IndexFunc(l.all, func(o Lack) bool { return o.Op == op }); i >= 0 {
		l.all[i].Count++
		return
	}
	l.all = append(l.all, Lack{op, err, 1})
}

// Told returns those that the user should hear of, in the order in which they were noted.
func (l *Lacks) Told() (told []Lack) {
	if l == nil {
		return nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, lack := range l.all {
		if NeedOf(lack.Op).Told {
			told = append(told, lack)
		}
	}
	return told
}
