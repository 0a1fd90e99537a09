package transfer

import (
	"context"
	"errors"
	"io/fs"
	"kwikcp/transfer/disk"
	"slices"
)

// This file makes names durable. On Linux each file system is synced as a whole at the end. On a
// system without such a call, each directory is synced when nothing in it changes any more
// (syncNames).
//
// A system may have the call and refuse it, as under seccomp(2). A mirror then learns of that after
// it has left names to the call. One before it that failed has done so, too. The mirror therefore
// walks the target at its end and syncs every directory.

// prepareSyncs finds out how the attempt makes names durable.
func (m *mirror) prepareSyncs() {
	if m.root != nil && !m.DryRun {
		v, err := m.volumeOf(m.root)
		m.syncsTree.Store(err != nil)
		m.syncsVolumes.Store(v != nil && err == nil)
	}
}

// leaveVolumes goes on without syncs of whole file systems.
func (m *mirror) leaveVolumes() {
	m.syncsTree.Store(true) // before syncsVolumes, so that no file is left out by both
	m.syncsVolumes.Store(false)
}

// syncAll makes durable which names there are now, with modes and times. It does so even if nothing
// was done: the mirror before may have been killed before it did.
func (m *mirror) syncAll(ctx context.Context) error {
	if m.DryRun {
		return nil
	}
	if m.syncsVolumes.Load() {
		if err := m.syncVolumes(); err != nil {
			return LocalError("sync the file system", disk.Cause(err))
		}
	}
	var err error
	switch {
	case m.syncsVolumes.Load():
	case m.syncsTree.Load():
		err = m.syncTree(ctx, "")
	default:
		err = m.lacks.Allow(disk.OpSyncDir, m.root.Sync())
	}
	if err != nil {
		return LocalError("sync the directory", disk.Cause(err))
	}
	return nil
}

// syncVolumes syncs all file systems of the target, unless one of them refuses it.
func (m *mirror) syncVolumes() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	var errs []error
	for _, v := range m.volumes {
		if v == nil {
			continue
		}
		err := v.Sync()
		if disk.IsAbsent(disk.OpSyncVolume, err) {
			m.leaveVolumes()
			continue
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// syncTree syncs a directory of the target and those below it.
func (m *mirror) syncTree(ctx context.Context, dir string) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	below, err := m.syncDir(dir)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, disk.ErrNotADirectory) {
		return nil // it was removed meanwhile
	}
	if err := m.lacks.Allow(disk.OpSyncDir, err); err != nil {
		return err
	}
	for _, name := range below {
		if err := m.syncTree(ctx, disk.JoinPath(dir, name)); err != nil {
			return err
		}
	}
	return nil
}

// syncDir syncs a directory of the target, and returns the names of the directories in it.
func (m *mirror) syncDir(dir string) (below []string, err error) {
	h, err := m.cache.Acquire(dir)
	if err != nil {
		return nil, err
	}
	defer m.cache.Release(h)
	names, err := h.Names(maxLocalNames)
	if err != nil {
		return nil, err
	}
	below = slices.DeleteFunc(names, func(name string) bool {
		info, err := h.Lstat(name)
		return err != nil || !info.IsDir() || m.isElsewhere(h, name, info)
	})
	return below, h.Sync()
}
