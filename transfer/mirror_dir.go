package transfer

import (
	"errors"
	"io/fs"
	"kwikcp/transfer/disk"
	"kwikcp/transfer/internal/wire"
	"slices"
	"sort"
	"sync/atomic"
)

// A mirrorDir is a directory of the target while entries in it are under way.
type mirrorDir struct {
	path   string // below the target
	parent *mirrorDir
	entry  Entry
	fresh  bool            // the mirror makes it
	names  []string        // of its entries before the mirror, sorted, without temporary files
	next   int             // index into names: those before it are compared with the listing
	parts  map[string]bool // names of the part files that no file has claimed yet
	// aside are temporary names of directories that an earlier mirror left. No entry has claimed
	// them yet.
	aside []string
	// isStaged is set while the directory waits for its place.
	isStaged bool
	// isAside is set in a directory that waits for its place, and below. All in it is the mirror's.
	isAside bool
	// restricted is set if the server lists only what the client may read, or the mirror visits
	// only some Paths. The other names in the directory may be on the server as well, so they are
	// not extra.
	restricted bool
	held       bool              // the listing leaves out entries of it, so that nothing in it is deleted
	folded     map[string]string // names so far by their lower case, if the file system ignores case

	// users counts the entries under way in it, plus one while the plan is in it. hasChanged is set
	// if names in it changed. Both are guarded by mirror.mu.
	users      int
	hasChanged bool
	// lack is why a directory that waits is not complete. Guarded by mirror.mu.
	lack error
	// takesFiles is set when the system has told that the directory takes new files. That holds for
	// the round: a change in between is an error of the write.
	takesFiles atomic.Bool
}

// readNames reads the names in a directory, and finds out what earlier mirrors left in it.
func (p *plan) readNames(d *mirrorDir) error {
	h, err := p.cache.Acquire(d.path)
	if err != nil {
		return err
	}
	defer p.cache.Release(h)
	names, err := h.Names(maxLocalNames)
	if err != nil {
		return err
	}
	d.names = slices.DeleteFunc(names, func(name string) bool {
		isTemporary := wire.IsTemporary(name)
		if isTemporary {
			p.sortTemporary(h, d, name)
		}
		return isTemporary
	})
	sort.Strings(d.names)
	return nil
}

// maxLocalNames bounds the names in a directory of the target, which are held in memory.
const maxLocalNames = 16 << 20

// makeDir makes a directory of the listing, or opens it if it exists. It replaces a file, and with
// Delete a link. With Stage it waits beside them.
func (p *plan) makeDir(sub *mirrorDir, mayExist bool) error {
	sub.fresh = true
	if p.DryRun && !mayExist {
		return nil // its parent may not exist either
	}
	h, err := p.cache.Acquire(sub.parent.path)
	if err != nil {
		return err
	}
	defer p.cache.Release(h)
	name := disk.Base(sub.path)
	found, info := occupantNone, fs.FileInfo(nil)
	if mayExist {
		if found, info, err = p.lookUp(h, name); err != nil {
			return err
		}
	}
	if sub.isAside = sub.parent.isAside; sub.isAside && found != occupantNone && found != occupantDir {
		if err := p.removeOwn(h, name); err != nil {
			return err
		}
		found = occupantNone
	}
	switch {
	case found == occupantDir && p.isSource(info):
		return p.fatalError()
	case found == occupantDir:
		sub.fresh = false
		return p.openDir(sub, info)
	case p.isNewerThan(info, sub.entry.MTime):
		return ErrNewer
	case found == occupantSpecial && !p.Specials:
		return disk.ErrNotAFile
	case found != occupantNone && !p.Filter.Wants(sub.path, false):
		return errExcludedInTheWay
	case found == occupantLink && !p.Delete:
		return errLinkInTheWay
	case p.DryRun:
		return nil
	case found != occupantNone && p.Stage:
		return p.stageDir(h, sub)
	case found != occupantNone:
		return p.replaceByDir(h, sub)
	}
	p.noteChange(sub.parent)
	return h.Mkdir(name)
}

// replaceByDir makes a directory in the place of a file or link, which stays if no directory can be
// made.
func (p *plan) replaceByDir(h *disk.CachedDir, sub *mirrorDir) error {
	name := disk.Base(sub.path)
	temp := p.freshName(name)
	p.noteChange(sub.parent)
	if err := h.Mkdir(temp); err != nil {
		return err
	}
	err := p.backup.keep(h, sub.path)
	if err == nil {
		err = h.Remove(name)
	}
	if err == nil {
		err = h.Rename(temp, name)
	}
	if err != nil {
		h.Remove(temp)
	}
	return err
}

// openDir reads the names in a directory that exists, after it has made the directory accessible
// to this user.
func (p *plan) openDir(d *mirrorDir, info fs.FileInfo) error {
	if !p.DryRun {
		if err := p.unlockDir(d, info); err != nil {
			return err
		}
	}
	return p.readNames(d)
}

// ownerMode is the mode that a directory needs while a mirror works in it.
const ownerMode fs.FileMode = 0o700

// unlockDir adds ownerMode to the mode of a directory.
func (p *plan) unlockDir(d *mirrorDir, info fs.FileInfo) error {
	if info.Mode()&ownerMode == ownerMode {
		return nil
	}
	h, err := p.cache.Acquire(d.parent.path)
	if err != nil {
		return err
	}
	defer p.cache.Release(h)
	return p.lacks.Allow(disk.OpMode, h.ChmodDir(disk.Base(d.path), info.Mode().Perm()|ownerMode))
}

// reopenDir uses a directory that the plan has left. The caller must release it.
func (p *plan) reopenDir(d *mirrorDir) error {
	if !p.DryRun && d.parent != nil && !d.isStaged {
		up, err := p.cache.Acquire(d.parent.path)
		if err != nil {
			return err
		}
		defer p.cache.Release(up)
		info, err := up.Lstat(disk.Base(d.path))
		if err != nil {
			return err
		}
		if err := p.unlockDir(d, info); err != nil {
			return err
		}
	}
	p.retainDir(d)
	return nil
}

// retainDir adds a user to a directory. The first user of a directory also uses its parent.
func (m *mirror) retainDir(d *mirrorDir) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for ; d != nil; d = d.parent {
		if d.users++; d.users > 1 {
			return
		}
	}
}

// releaseDir removes a user from a directory. After the last one nothing in the directory
// changes, so it gets the mode and time of the listing, and its names become durable.
func (m *mirror) releaseDir(d *mirrorDir) {
	for ; d != nil; d = d.parent {
		m.mu.Lock()
		d.users--
		last := d.users == 0
		m.mu.Unlock()
		if !last {
			return
		}
		if d.parent == nil || m.DryRun {
			continue
		}
		if err := m.applyDirMetadata(d); err != nil {
			m.fail(d.path, "set mode and time of the directory", err)
		}
		if err := m.syncNames(d); err != nil {
			m.fail(d.path, "sync the directory", err)
		}
	}
}

// noteChange notes that names in a directory change, before they do.
func (m *mirror) noteChange(d *mirrorDir) {
	m.mu.Lock()
	defer m.mu.Unlock()
	d.hasChanged = true
}

// syncNames makes durable which names there are in a directory, unless its file system is synced as
// a whole at the end. A quick mirror leaves out directories in which nothing changed. Any other
// does not: the mirror before may have been killed before it synced them.
func (m *mirror) syncNames(d *mirrorDir) error {
	if m.syncsVolumes.Load() {
		return nil
	}
	m.mu.Lock()
	isDue := d.hasChanged || !m.Quick || m.mustCompare(d.path)
	d.hasChanged = false
	m.mu.Unlock()
	if !isDue {
		return nil
	}
	h, err := m.cache.Acquire(d.path)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, disk.ErrNotADirectory) {
		return nil // it was removed meanwhile
	}
	if err != nil {
		return err
	}
	defer m.cache.Release(h)
	return m.lacks.Allow(disk.OpSyncDir, h.Sync())
}

// applyDirMetadata sets the mode and time of a directory that is complete.
func (m *mirror) applyDirMetadata(d *mirrorDir) error {
	h, err := m.cache.Acquire(d.parent.path)
	if err != nil {
		return err
	}
	defer m.cache.Release(h)
	name := disk.Base(d.path)
	info, err := h.Lstat(name)
	if err != nil || !info.IsDir() {
		return err
	}
	mode, mtime := d.entry.Mode&^disk.Umask, d.entry.MTime
	if m.NoPreserve {
		if mode, mtime = info.Mode().Perm(), info.ModTime(); d.fresh {
			mode = 0o777 &^ disk.Umask
		}
	}
	if m.keepsMore() {
		if err := m.applyMore(h.TreeDir, name, d.entry); err != nil {
			return err
		}
	}
	if !m.hasTime(info, mtime) {
		if err := m.lacks.Allow(disk.OpTimes, h.Chtimes(name, mtime)); err != nil {
			return err
		}
	}
	if info.Mode().Perm() != mode && !m.keepsMore() {
		return m.lacks.Allow(disk.OpMode, h.ChmodDir(name, mode))
	}
	return nil
}
