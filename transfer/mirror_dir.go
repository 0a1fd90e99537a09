package transfer

import (
	"io/fs"
	"kwikcp/transfer/disk"
	"kwikcp/transfer/internal/wire"
	"slices"
	"sort"
	"strings"
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
	// restricted is set if the server lists only what the client may read, or the mirror visits
	// only some Paths. The other names in the directory may be on the server as well, so they are
	// not extra.
	restricted bool
	held       bool              // the listing leaves out entries of it, so that nothing in it is deleted
	folded     map[string]string // names so far by their lower case, if the file system ignores case

	users int // entries under way in it, plus one while the plan is in it; guarded by mirror.mu
}

// readNames reads the names in a directory, and removes the temporary files of earlier mirrors,
// except part files.
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
		switch {
		case !wire.IsTemporary(name):
			return false
		case strings.HasSuffix(name, ".new"):
			if !p.DryRun && p.mayRemoveTemp(h, name) && !p.isOthers(h, disk.JoinPath(d.path, name)) {
				h.Remove(name) // an error leaves a file that no mirror uses
			}
		case name != mirrorLock && strings.HasSuffix(name, ".part"):
			if d.parts == nil {
				d.parts = make(map[string]bool)
			}
			d.parts[name] = true
		}
		return true
	})
	sort.Strings(d.names)
	p.before += int64(len(d.names))
	return nil
}

// maxLocalNames bounds the names in a directory of the target, which are held in memory.
const maxLocalNames = 16 << 20

// makeDir makes a directory of the listing, or opens it if it exists. A file in its place is
// removed, and with Delete a link.
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
		if found, info, err = lookUp(h, name); err != nil {
			return err
		}
	}
	switch {
	case found == occupantDir && p.isElsewhere(info):
		return errElsewhere
	case found == occupantDir:
		sub.fresh = false
		return p.openDir(sub, info)
	case found == occupantSpecial && !p.Specials:
		return disk.ErrNotAFile
	case found != occupantNone && !p.Filter.Wants(sub.path, false):
		return errExcludedInTheWay
	case found == occupantLink && !p.Delete:
		return errLinkInTheWay
	case p.DryRun:
		return nil
	case found != occupantNone:
		if err := p.backup.keep(h, sub.path); err != nil {
			return err
		}
		if err := h.Remove(name); err != nil {
			return err
		}
	}
	return h.Mkdir(name)
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
	if !p.DryRun && d.parent != nil {
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
// changes, so it gets the mode and time of the listing.
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
	}
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
	if !info.ModTime().Equal(mtime) {
		if err := m.lacks.Allow(disk.OpTimes, h.Chtimes(name, mtime)); err != nil {
			return err
		}
	}
	if info.Mode().Perm() != mode && !m.keepsMore() {
		return m.lacks.Allow(disk.OpMode, h.ChmodDir(name, mode))
	}
	return nil
}
