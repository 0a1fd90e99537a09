package transfer

import (
	"errors"
	"io/fs"
	"kwikcp/transfer/disk"
	"kwikcp/transfer/internal/wire"
	"slices"
	"sort"
	"strings"
)

// A mirrorDir is a directory of the target while something in it is under way.
type mirrorDir struct {
	path   string // below the target
	parent *mirrorDir
	entry  Entry
	fresh  bool     // it was empty or missing
	names  []string // what was in it, sorted; of temporary files only parts has those that may be gone on with
	next   int      // into names: all before has been compared with the listing
	parts  map[string]bool
	folded map[string]string // names so far by what they fold to, if names fold

	users int // entries that are under way in it, and the plan while it is there; guarded by the mirror
}

// look reads what is in a directory that is there, and removes what an earlier mirror left in the middle of something.
func (p *plan) look(d *mirrorDir) error {
	h, err := p.cache.Acquire(d.path)
	if err != nil {
		return err
	}
	defer p.cache.Release(h)
	names, err := h.Names(maxLocal)
	if err != nil {
		return err
	}
	d.names = slices.DeleteFunc(names, func(name string) bool {
		switch {
		case !wire.IsTemporary(name):
			return false
		case strings.HasSuffix(name, ".new") && !p.DryRun:
			h.Remove(name) // what is left stays, and is nobody's
		case name != mirrorLock && strings.HasSuffix(name, ".part"):
			if d.parts == nil {
				d.parts = make(map[string]bool)
			}
			d.parts[name] = true
		}
		return true
	})
	sort.Strings(d.names)
	return nil
}

// maxLocal bounds the names in a directory of the target: they are held in memory.
const maxLocal = 16 << 20

func (p *plan) makeDir(sub *mirrorDir, there bool) error {
	name := disk.Base(sub.path)
	if p.DryRun && !there {
		return nil
	}
	h, err := p.cache.Acquire(sub.parent.path)
	if err != nil {
		return err
	}
	defer p.cache.Release(h)
	if there {
		info, err := h.Lstat(name)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			sub.fresh = true
		case err != nil:
			return err
		case info.IsDir():
			if p.DryRun {
				return p.look(sub)
			}
			return p.open(sub, info)
		case info.Mode()&fs.ModeSymlink != 0 && !p.Delete:
			return errLinkInTheWay
		case !info.Mode().IsRegular() && info.Mode()&fs.ModeSymlink == 0:
			return disk.ErrNotAFile
		default:
			sub.fresh = true
			if p.DryRun {
				return nil
			}
			if err := h.Remove(name); err != nil {
				return err
			}
		}
	}
	if p.DryRun {
		return nil
	}
	return h.Mkdir(name)
}

// open makes a directory that is there one in which this user may work, and reads it.
func (p *plan) open(d *mirrorDir, info fs.FileInfo) error {
	if err := p.unlockDir(d, info); err != nil {
		return err
	}
	return p.look(d)
}

const ownerMode fs.FileMode = 0o700

func (p *plan) unlockDir(d *mirrorDir, info fs.FileInfo) error {
	if info.Mode()&ownerMode == ownerMode {
		return nil
	}
	h, err := p.cache.Acquire(d.parent.path)
	if err != nil {
		return err
	}
	defer p.cache.Release(h)
	return h.ChmodDir(disk.Base(d.path), info.Mode().Perm()|ownerMode)
}

// reopen uses a directory again that may have been left: the caller releases it.
func (p *plan) reopen(d *mirrorDir) error {
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

// retainDir uses a directory, and with it the one that it is in.
func (m *mirror) retainDir(d *mirrorDir) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for ; d != nil; d = d.parent {
		if d.users++; d.users > 1 {
			return
		}
	}
}

// releaseDir gives up one use of a directory. With the last it gets the mode and time that it has in the listing: nothing changes in it any more.
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
		if err := m.dressDir(d); err != nil {
			m.fail(d.path, "set mode and time of the directory", err)
		}
	}
}

func (m *mirror) dressDir(d *mirrorDir) error {
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
	if !info.ModTime().Equal(mtime) {
		if err := h.Chtimes(name, mtime); err != nil {
			return err
		}
	}
	if info.Mode().Perm() != mode {
		return h.ChmodDir(name, mode)
	}
	return nil
}
