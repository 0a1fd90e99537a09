package partfile

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"strings"

	"kwikcp/transfer/disk"
)

// A claim is a name in a directory for whose file processes compete. The process that holds the
// lock of the file that has the name now is its owner. A lock of a file that had the name
// before counts for nothing.
type claim struct {
	Place
	name string
	// isUnlocked is set if the file system has no locks, and the name is this process's alone.
	isUnlocked bool
}

// claimTries bounds how often the file is created or adopted again, because another process
// created or removed it between two steps.
const claimTries = 3

// errTryAgain reports that there was no file to adopt, or that it is gone now.
var errTryAgain = errors.New("the file has gone")

// take creates and locks the file, or adopts the one that an earlier transfer left.
func (c claim) take() (disk.File, error) {
	for range claimTries {
		f, err := c.create()
		if errors.Is(err, fs.ErrExist) {
			f, err = c.adopt()
		}
		if err != errTryAgain {
			return f, err
		}
	}
	return nil, ErrBusy
}

// create creates and locks the file.
func (c claim) create() (disk.File, error) {
	f, err := c.Dir.Create(c.name)
	if err != nil {
		return nil, err
	}
	if err := c.lock(f); err != nil {
		// If it is busy, it is another process's. takeOwn takes one that cannot be locked.
		if err != ErrBusy && err != errUnlockable {
			c.Dir.Remove(c.name)
		}
		f.Close()
		return nil, err
	}
	return f, nil
}

// adopt opens and locks the file of a transfer that ended early. A locked one is in use. A file
// of that name that a transfer cannot have left, or that another user could change, is removed.
// The error is then errTryAgain.
func (c claim) adopt() (disk.File, error) {
	f, readOnly, err := c.openExisting()
	isUnusable := errors.Is(err, disk.ErrNotAFile) || errors.Is(err, fs.ErrPermission)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, errTryAgain
	case isUnusable:
		return nil, c.clear()
	case errors.Is(err, disk.ErrReplaced):
		return nil, ErrBusy
	case err != nil:
		return nil, err
	}
	if err := c.lock(f); err != nil {
		f.Close()
		return nil, err
	}
	isUsable := c.isTrustworthy(f)
	if isUsable && readOnly { // its mode may be fixed
		info, err := f.Stat()
		isUsable = err == nil && info.Mode().Perm()&partMode == partMode
	}
	if !isUsable {
		defer f.Close() // the lock goes after the name
		return nil, c.clear()
	}
	if readOnly {
		if err := c.Lacks.Allow(disk.OpClose, f.Close()); err != nil {
			return nil, err
		}
		return nil, errTryAgain // now it can be opened for writing
	}
	return f, nil
}

// openExisting opens the file that is there. readOnly reports that its mode allows no more than
// reading: a transfer that was killed just before its rename has given it the final mode.
func (c claim) openExisting() (f disk.File, readOnly bool, err error) {
	f, err = c.Dir.OpenPart(c.name)
	if readOnly = errors.Is(err, fs.ErrPermission); readOnly {
		f, err = c.Dir.Open(c.name)
	}
	return f, readOnly, err
}

// isTrustworthy reports whether no other user can change the file, or whether others can change
// any new file there as well. It gives the file the mode of part files, where files have modes.
func (c claim) isTrustworthy(f disk.File) bool {
	info, err := f.Stat()
	if err != nil || !disk.PrivateToUser(info) && !c.isLikeNew(info) {
		return false
	}
	return info.Mode().Perm() == partMode || c.Lacks.Allow(disk.OpMode, f.Chmod(partMode)) == nil
}

// errFixed is why a part file cannot be private.
var errFixed = errors.New("it fixes the owner and mode of files")

// isLikeNew reports whether a new file there has the same owner as the described one, and lets
// others write to it as well. The file system fixes owners and modes then, as FAT, exFAT, NTFS and
// SMB do with most mount options. The bytes of a part file are no more at risk there than those
// of any file. Elsewhere such a file may be a trap: another user made it, and holds it open.
func (c claim) isLikeNew(info fs.FileInfo) bool {
	if disk.Links(info) != 1 {
		return false
	}
	name := NewName(c.name, "probe-"+strings.ToLower(rand.Text()[:12]))
	f, err := c.Dir.Create(name)
	if err != nil {
		return false
	}
	f.Chmod(partMode) // the description tells whether it could
	probe, err := f.Stat()
	f.Close()
	c.Dir.Remove(name)
	if err != nil {
		return false
	}
	const writable = 0o022
	isSame := disk.SameOwner(info, probe) && info.Mode().Perm()&writable&^probe.Mode().Perm() == 0
	if isSame {
		c.Lacks.Note(disk.OpPrivate, errFixed)
	}
	return isSame
}

// clear removes the file that has the name. Without an error of that it returns errTryAgain.
func (c claim) clear() error {
	err := c.Dir.Remove(c.name)
	if err == nil || errors.Is(err, fs.ErrNotExist) {
		return errTryAgain
	}
	return &inTheWayError{c.name, disk.Cause(err)}
}

// An inTheWayError reports that a file has the name of the part file, and cannot be removed. In a
// sticky directory it is another user's.
type inTheWayError struct {
	name  string
	cause error
}

func (e *inTheWayError) Error() string {
	return fmt.Sprintf("%q is in the way and cannot be removed: %v", e.name, e.cause)
}

func (e *inTheWayError) Unwrap() error { return e.cause }

// errUnlockable reports that the file system has no locks.
var errUnlockable = errors.New("the file cannot be locked")

// lock locks f and checks that it still has the name: before the lock another process may have
// renamed or removed it.
func (c claim) lock(f disk.File) error {
	if !c.isUnlocked {
		locked, err := f.TryLock()
		switch {
		case disk.IsAbsent(disk.OpLock, err):
			c.Lacks.Note(disk.OpLock, err)
			return errUnlockable
		case err != nil:
			return fmt.Errorf("lock: %w", disk.Cause(err))
		case !locked:
			return ErrBusy
		}
	}
	if err := c.check(f); err != ErrGone {
		return err
	}
	return ErrBusy
}

// check returns nil if f has the name, ErrGone if no file has it, and ErrBusy if another one has.
func (c claim) check(f disk.File) error {
	held, err := f.Stat()
	if err != nil {
		return err
	}
	there, err := c.Dir.Lstat(c.name)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return ErrGone
	case err != nil:
		return err
	case !disk.SameFile(held, there):
		return ErrBusy
	}
	return nil
}

// checkName returns nil if the open file is the one that has the part file's name.
func (p *PartFile) checkName() error { return p.claim().check(p.file) }

func (p *PartFile) claim() claim { return claim{p.place, p.part, p.isUnlocked} }
