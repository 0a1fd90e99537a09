package transfer

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"kwikcp/transfer/disk"
	"kwikcp/transfer/internal/partfile"
	"kwikcp/transfer/internal/wire"
	"os"
	"sync"
)

// A backup is the directory to which a mirror moves what it deletes and replaces. A file is in the
// backup before it leaves its place, so that at each moment it has at least one name. A nil backup
// keeps nothing.
type backup struct {
	root  disk.TreeDir
	cache *disk.DirCache
	runID string // names temporary files
	// isMade is set if the directory did not exist.
	isMade bool

	// mu is held while entries in the way are moved, so that each is moved once.
	mu sync.Mutex
}

var errBackupNested = errors.New("it must be neither inside the directory to mirror into nor contain it")

// openBackup opens the backup of MirrorOptions.BackupDir, if there is one.
func (m *mirror) openBackup() error {
	if m.BackupDir == "" {
		return nil
	}
	op := fmt.Sprintf("use %q for backups", m.BackupDir)
	nested, err := disk.Nested(m.Target, m.BackupDir)
	if err == nil && nested {
		err = errBackupNested
	}
	if err != nil {
		return LocalError(op, err)
	}
	_, missing := os.Lstat(m.BackupDir)
	root, err := m.OpenTree(m.BackupDir, true)
	if err != nil {
		return LocalError(op, err)
	}
	m.backup = &backup{root: root, cache: disk.NewDirCache(root), runID: m.runID,
		isMade: errors.Is(missing, fs.ErrNotExist)}
	return nil
}

func (b *backup) close() {
	if b == nil {
		return
	}
	b.cache.Close()
	b.root.Close()
}

// keep gives the file or link at a path of the target the same path in the backup, if there is
// one. h is the directory that it is in. The caller then removes or replaces it.
func (b *backup) keep(h *disk.CachedDir, at string) error {
	if b == nil {
		return nil
	}
	if err := b.store(h, at); err != nil {
		return fmt.Errorf("move what is there to the backup: %w", disk.Cause(err))
	}
	return nil
}

func (b *backup) store(h *disk.CachedDir, at string) error {
	name := disk.Base(at)
	info, err := h.Lstat(name)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return err
	}
	to, err := b.enter(disk.Parent(at))
	if err != nil {
		return err
	}
	defer b.cache.Release(to)
	temp := partfile.NewName(name, b.runID)
	err = disk.LinkInto(h.TreeDir, name, to.TreeDir, temp)
	if err != nil && disk.CannotLink(err) {
		err = copyInto(h, name, info, to, temp)
	}
	if err == nil {
		err = b.clear(to, at, false)
	}
	if err == nil {
		err = to.Rename(temp, name)
	}
	// Of two names of one file rename(2) removes none.
	if removed := to.Remove(temp); err == nil && !errors.Is(removed, fs.ErrNotExist) {
		err = removed
	}
	return err
}

// enter opens a directory of the backup, and makes it and those above it if they are missing. The
// caller releases it.
func (b *backup) enter(dir string) (*disk.CachedDir, error) {
	h, err := b.cache.Acquire(dir)
	if !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, disk.ErrNotADirectory) {
		return h, err
	}
	up, err := b.enter(disk.Parent(dir))
	if err != nil {
		return nil, err
	}
	if err = b.clear(up, dir, true); err == nil {
		err = up.Mkdir(disk.Base(dir))
	}
	b.cache.Release(up)
	if err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, err
	}
	return b.cache.Acquire(dir)
}

// maxAside bounds the names that clear tries.
const maxAside = 1000

// clear gives another name to an entry of the backup that is in the way. Directories are in the way
// of files, and the reverse: a name of the target may have been both. h is its directory.
func (b *backup) clear(h *disk.CachedDir, at string, forDir bool) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	name := disk.Base(at)
	info, err := h.Lstat(name)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil || info.IsDir() == forDir:
		return err
	}
	for n := range maxAside {
		suffix := fmt.Sprintf(".~%d~", n+1)
		as := name[:min(len(name), wire.MaxName-len(suffix))] + suffix
		switch _, err := h.Lstat(as); {
		case err == nil:
			continue
		case !errors.Is(err, fs.ErrNotExist):
			return err
		}
		b.cache.Drop(at)
		return h.Rename(name, as)
	}
	return fmt.Errorf("%d names beside it are taken: %w", maxAside, fs.ErrExist)
}

// copyInto copies a file or link to a new name in another directory, with its mode and time, and
// syncs it. An error may leave a part of it.
func copyInto(h *disk.CachedDir, name string, info fs.FileInfo, to *disk.CachedDir, as string) error {
	switch {
	case info.Mode()&fs.ModeSymlink != 0:
		target, err := h.Readlink(name)
		if err != nil {
			return err
		}
		return to.Symlink(target, as)
	case !info.Mode().IsRegular():
		return disk.ErrNotAFile
	}
	from, there := partfile.Place{Dir: h, Name: name}.Existing()
	if from == nil {
		return errors.New("it cannot be read")
	}
	defer from.Close()
	f, err := to.Create(as)
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err := io.Copy(io.NewOffsetWriter(f, 0), io.NewSectionReader(from, 0, there.Size())); err != nil {
		return err
	}
	if err := f.Chmod(there.Mode().Perm()); err != nil && !disk.IsAbsent(disk.OpMode, err) {
		return err
	}
	if err := to.Chtimes(as, there.ModTime()); err != nil && !disk.IsAbsent(disk.OpTimes, err) {
		return err
	}
	if err := f.Sync(); err != nil && !disk.IsAbsent(disk.OpSync, err) {
		return err
	}
	return nil
}
