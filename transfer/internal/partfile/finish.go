package partfile

import (
	"errors"
	"io/fs"

	"kwikcp/transfer/disk"
)

// Replaces returns the name under which the directory lists the file that Commit replaces. That is
// the name of the place, or one that is the same to the file system.
func (p *PartFile) Replaces() string { return disk.Spelling(p.place.Dir, p.place.Name) }

// Commit puts the whole file in place: mode, time, all of it to disk, rename, directory to disk.
func (p *PartFile) Commit(m Metadata) error {
	if err := p.Finish(m, true); err != nil {
		return err
	}
	return p.Rename(true)
}

// Finish gives the whole file its mode and time, and makes all of it durable if sync is set.
// Otherwise the caller syncs the file system before it calls Rename. It waits for WriteAt.
func (p *PartFile) Finish(m Metadata, sync bool) error {
	if err := p.beginFinish(); err != nil {
		return err
	}
	if err := p.writeback.stop(); err != nil {
		return p.failFinish(err)
	}
	if err := p.CheckUnchanged(); err != nil {
		return err
	}
	if err := p.place.setMode(p.file, m.Mode.Perm()&^disk.Umask); err != nil {
		return err
	}
	if err := p.checkName(); err != nil { // the file that has its name now would get the time
		return err
	}
	if err := p.place.setTime(p.part, m.MTime); err != nil {
		return err
	}
	if sync {
		if err := p.place.Lacks.Allow(disk.OpSync, p.file.Sync()); err != nil {
			return p.failFinish(err) // a later Sync might not return it again
		}
	}
	version, err := contentVersion(p.file.File)
	if err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.state, p.saved = Finished, version
	return nil
}

// Version returns the version of a Finished file, for CheckContent.
func (p *PartFile) Version() disk.Version {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.saved
}

var errNotWhole = errors.New("a part of it is not proved")

func (p *PartFile) beginFinish() error {
	p.mu.Lock()
	for p.users > 0 {
		p.idle.Wait()
	}
	err := p.require("Finish", Proved, Windowed)
	if err == nil && !p.whole() {
		err = errNotWhole
	}
	if err == nil {
		p.state = Finishing
	}
	p.mu.Unlock()
	if err == nil {
		p.Pool.remove(p)
	}
	return err
}

func (p *PartFile) failFinish(err error) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.spoil(err)
	return err
}

// Rename gives a Finished file the name of its target, closes it, and syncs the directory if
// syncName is set.
func (p *PartFile) Rename(syncName bool) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if err := p.require("Rename", Finished); err != nil {
		return err
	}
	if err := p.checkFinished(); err != nil { // a sync may have taken long
		return err
	}
	if err := p.rename(); err != nil {
		return err
	}
	p.state = Ended
	var synced error
	if syncName {
		synced = p.place.syncDir()
	}
	return errors.Join(synced, p.close())
}

// checkFinished returns nil if the file with the part file's name has the content that it was
// finished with.
func (p *PartFile) checkFinished() error {
	if err := p.checkName(); err != nil {
		return err
	}
	version, err := contentVersion(p.file.File)
	if err == nil && version != p.saved {
		err = ErrChanged
	}
	return err
}

// close closes the file and the directory.
func (p *PartFile) close() error {
	return errors.Join(p.place.Lacks.Allow(disk.OpClose, p.file.Close()),
		p.place.Lacks.Allow(disk.OpClose, p.place.Dir.Close()))
}

// SetAside gives a Finished file a temporary name beside its target and closes it. The caller then
// owns that file.
func (p *PartFile) SetAside(temp string) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if err := p.require("SetAside", Finished); err != nil {
		return err
	}
	if err := p.checkFinished(); err != nil {
		return err
	}
	if err := p.place.Dir.Rename(p.part, temp); err != nil {
		return err
	}
	p.state = Ended
	return p.close()
}

func (p *PartFile) rename() error {
	if !p.NoClobber {
		return p.place.Dir.Rename(p.part, p.place.Name)
	}
	err := p.place.Dir.RenameNew(p.part, p.place.Name)
	if errors.Is(err, fs.ErrExist) { // created since Open
		return ErrExists
	}
	return err
}

// Leave ends the part file without a target, unless it has ended. It reports whether a part
// file stays from which the next transfer can resume.
func (p *PartFile) Leave() (kept bool) { return p.leave(true) }

// Discard ends the part file, unless it has ended, and removes it.
func (p *PartFile) Discard() { p.leave(false) }

func (p *PartFile) leave(keep bool) (kept bool) {
	state := p.endState()
	keep = keep && p.Run == ""
	p.Pool.remove(p)
	switch state {
	case Ended:
		return false
	case Parked:
		isShared := p.part == PartName(p.place.Name)
		keepClosed := keep && p.had.Total() > p.zeros.Total() && !p.reserved && isShared
		if keepClosed || p.reopen() != nil {
			p.place.Dir.Close()
			return keepClosed
		}
		state = Proved
	}
	isSafe := p.writeback.stop() == nil && state != Unsafe
	kept = keep && isSafe && p.isUseful(state)
	if kept && (state == Finishing || state == Finished) {
		kept = p.place.setMode(p.file, partMode) == nil
	}
	switch ours := p.checkName() == nil; {
	case !ours:
		kept = false
	case kept:
		p.release()
		kept = p.share()
	default:
		p.place.Dir.Remove(p.part) // before its lock goes
	}
	p.file.Close()
	p.place.Dir.Close()
	return kept
}

// endState waits for the users of the file, sets the state to Ended and returns the state before.
func (p *PartFile) endState() State {
	p.mu.Lock()
	defer p.mu.Unlock()
	for p.users > 0 {
		p.idle.Wait()
	}
	state := p.state
	p.state = Ended
	return state
}

// isUseful reports whether a transfer could resume from a part file that was in the given state.
func (p *PartFile) isUseful(state State) bool {
	switch {
	case p.window != nil:
		return false
	case state == Unproved, state == Cold:
		info, err := p.file.Stat()
		return err == nil && info.Size() > 0 // of an earlier transfer, or of a file whose root is not known
	}
	return p.had.Total() > p.zeros.Total()
}
