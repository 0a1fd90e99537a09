package transfer

import (
	"context"
	"errors"
	"io/fs"
	"kwikcp/transfer/disk"
	"kwikcp/transfer/internal/partfile"
	"kwikcp/transfer/internal/wire"
	"slices"
	"strings"
)

// This file is about what earlier mirrors left under temporary names. These are files with all or
// some of their bytes, part files, and directories that were to replace files
// (mirror_stage_dir.go). Each name has a hash of the name of its entry. If the listing has the
// entry, the mirror verifies the bytes and uses them. The rest is removed after a complete
// listing, unless it belongs to another transfer.

// sortTemporary decides about the temporary name of an entry in a directory of the target.
func (p *plan) sortTemporary(h *disk.CachedDir, d *mirrorDir, name string) {
	switch {
	case name == mirrorLock:
	case strings.HasSuffix(name, ".part"):
		d.addPart(name)
	case !p.DryRun:
		p.sortNew(h, d, name)
	}
}

// sortNew decides about what a run that has ended left under a name that contains the run. A file
// with bytes becomes a part file. An error leaves a file that no mirror uses.
func (p *plan) sortNew(h *disk.CachedDir, d *mirrorDir, name string) {
	others, err := p.isOthers(h, disk.JoinPath(d.path, name))
	if others || err != nil || !p.mayRemoveTemp(h, name) {
		return
	}
	info, err := h.Lstat(name)
	switch {
	case err != nil:
	case info.IsDir():
		d.aside = append(d.aside, name)
	default:
		if info.Mode().IsRegular() && info.Size() > 0 {
			if part, err := partfile.KeepNew(h, name); err == nil {
				d.addPart(part)
				return
			}
		}
		h.Remove(name)
	}
}

func (d *mirrorDir) addPart(name string) {
	if d.parts == nil {
		d.parts = make(map[string]bool)
	}
	d.parts[name] = true
}

// takeAside returns the directory that an earlier run left for an entry, "" for none.
func (d *mirrorDir) takeAside(name string) string {
	for i, left := range d.aside {
		if partfile.IsNewOf(left, name) {
			d.aside = slices.Delete(d.aside, i, i+1)
			return left
		}
	}
	return ""
}

// noteTemporary notes the temporary entries of a directory that no entry of the listing needs.
func (p *plan) noteTemporary(d *mirrorDir) {
	isKnown := !d.held && !d.restricted || d.isAside
	if !isKnown || p.DryRun {
		return
	}
	for _, name := range d.aside {
		p.temporary = append(p.temporary, extraEntry{dir: d, name: name})
	}
	if p.Delete && !d.isAside {
		return // delete reports them
	}
	for name := range d.parts {
		p.temporary = append(p.temporary, extraEntry{dir: d, name: name})
	}
}

// removeTemporary removes what noteTemporary noted. An error leaves what no mirror uses.
func (p *plan) removeTemporary(ctx context.Context) {
	for _, x := range p.temporary {
		if ctx.Err() != nil || p.reopenDir(x.dir) != nil {
			continue
		}
		if h, err := p.cache.Acquire(x.dir.path); err == nil {
			p.noteChange(x.dir)
			p.removeLeft(h, x)
			p.cache.Release(h)
		}
		p.releaseDir(x.dir)
	}
	p.temporary = nil
}

func (p *plan) removeLeft(h *disk.CachedDir, x extraEntry) {
	others, err := p.isOthers(h, disk.JoinPath(x.dir.path, x.name))
	if others || err != nil || !p.mayRemoveTemp(h, x.name) {
		return
	}
	if !strings.HasSuffix(x.name, ".part") {
		p.removeOwn(h, x.name)
		return
	}
	if info, err := h.Lstat(x.name); err != nil || !info.Mode().IsRegular() || !disk.PrivateToUser(info) {
		return
	}
	// No other transfer can take it between the lock and the removal.
	if part, err := (partfile.Place{Dir: p.cache.Dir(x.dir.path), Name: x.name, Lacks: &p.lacks}).Lock(); err == nil {
		part.Discard()
	}
}

// removeOwn removes an entry that is this mirror's, and everything below it.
func (m *mirror) removeOwn(h disk.TreeDir, name string) error {
	info, err := h.Lstat(name)
	if err != nil || !info.IsDir() {
		return errors.Join(err, h.Remove(name))
	}
	if err := m.lacks.Allow(disk.OpMode, h.ChmodDir(name, ownerMode)); err != nil {
		return err
	}
	sub, err := h.Sub(name)
	if err != nil {
		return err
	}
	defer sub.Close()
	names, err := sub.Names(maxLocalNames)
	if err != nil {
		return err
	}
	for _, below := range names {
		if err := m.removeOwn(sub, below); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return h.Remove(name)
}

// keepPart keeps the part file of an entry that the listing has and the filter excludes.
func (d *mirrorDir) keepPart(name string) {
	if len(d.parts) > 0 && !wire.IsTemporary(name) {
		delete(d.parts, partfile.PartName(name))
	}
}
