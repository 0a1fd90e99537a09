package transfer

import (
	"errors"
	"fmt"
	"kwikcp/transfer/disk"
	"kwikcp/transfer/internal/partfile"
	"path/filepath"
	"syscall"
	"time"
)

// mirrorLock is the name of the lock file in a target.
const mirrorLock = partfile.MirrorLock

const (
	// lockTries and lockPause bound how long a mirror tries to lock its target. Other mirrors take
	// the lock for a moment to find out whether it is held.
	lockTries = 20
	lockPause = 5 * time.Millisecond
)

// A LockError reports that a mirror cannot lock its target, because something else has the name of
// the lock file and cannot be removed.
type LockError struct {
	Path string // of what is there
	Err  error  // why it cannot be removed
}

func (e *LockError) Error() string {
	return fmt.Sprintf("%q has the name of the lock file and cannot be removed: %v", e.Path, e.Err)
}

// Unwrap returns the cause.
func (e *LockError) Unwrap() error { return e.Err }

// lockTarget takes the target's lock, and finds out whether the file system ignores the case of
// names and how coarse its times are.
func (m *mirror) lockTarget() error {
	lock, err := m.takeLock()
	if errors.Is(err, partfile.ErrBusy) {
		return &Error{Kind: KindBusy, Op: m.op(), Err: errors.New("another kwikcp is mirroring into it")}
	}
	if isUnwritable(err) { // entries may be up to date, and directories below may be writable
		if errors.Is(err, syscall.EROFS) {
			m.readOnly = disk.Cause(err)
		}
		return nil
	}
	if err != nil {
		return LocalError(m.op(), m.lockError(disk.Cause(err)))
	}
	m.lock = lock
	m.learnWindow(m.root)
	_, err = m.root.Lstat(".KWIKCP-MIRROR.part")
	m.folds = err == nil
	return nil
}

// lockError returns a LockError if the lock failed with err because of what has its name.
func (m *mirror) lockError(err error) error {
	info, missing := m.root.Lstat(mirrorLock)
	if missing != nil || info.Mode().IsRegular() {
		return err
	}
	if cause := errors.Unwrap(err); cause != nil {
		err = cause
	}
	return &LockError{Path: filepath.Join(m.Target, mirrorLock), Err: err}
}

func (m *mirror) takeLock() (*partfile.PartFile, error) {
	for n := 1; ; n++ {
		lock, err := partfile.Place{Dir: m.cache.Dir(""), Name: mirrorLock, Lacks: &m.lacks}.Lock()
		if !errors.Is(err, partfile.ErrBusy) || n == lockTries {
			return lock, err
		}
		time.Sleep(lockPause)
	}
}

// unlockTarget removes the lock file and releases the lock.
func (m *mirror) unlockTarget() {
	if m.lock != nil {
		m.lock.Discard()
	}
}
