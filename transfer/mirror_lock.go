package transfer

import (
	"errors"
	"kwikcp/transfer/disk"
	"kwikcp/transfer/internal/partfile"
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
		return LocalError(m.op(), disk.Cause(err))
	}
	m.lock = lock
	m.learnWindow(m.root)
	_, err = m.root.Lstat(".KWIKCP-MIRROR.part")
	m.folds = err == nil
	return nil
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
