package transfer

import (
	"context"
	"errors"
	"io/fs"
	"kwikcp/transfer/disk"
	"slices"
)

// This file publishes entries at once that replace others of another type.
//
// A directory that replaces a file is made under a temporary name beside it, and filled there.
// Until it is published its path stands for that name (disk.DirCache.Redirect). It then exchanges
// names with the file. If the mirror ends early the directory stays under a temporary name. The
// next mirror goes on with it, or removes it if the listing has no such directory.
//
// A file that replaces a directory waits under its temporary name like any other. It gets its name
// as soon as the directory is deleted. A file that is fetched after the deletions (replaceDir) is
// one of several names, or one whose directory will not be deleted completely.

// stageDir makes a directory that waits for its place. h is its parent.
func (p *plan) stageDir(h *disk.CachedDir, sub *mirrorDir) error {
	name := disk.Base(sub.path)
	temp := p.freshName(name)
	p.noteChange(sub.parent)
	left := sub.parent.takeAside(name)
	var err error
	switch left {
	case "":
		err = h.Mkdir(temp)
	case temp: // of the attempt before
	default:
		err = h.Rename(left, temp)
	}
	if err != nil {
		return err
	}
	sub.isAside = true
	p.cache.Redirect(sub.path, temp)
	if left != "" {
		if err = p.lacks.Allow(disk.OpMode, h.ChmodDir(temp, ownerMode)); err == nil {
			err = p.readNames(sub)
		}
	}
	if err != nil {
		p.unredirect(sub)
		return err
	}
	sub.isStaged = true
	p.retainDir(sub)
	p.staged.dirs = append(p.staged.dirs, sub)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.waitingDirs = append(p.waitingDirs, sub)
	return nil
}

// unredirect lets the path of a directory that was not published stand for what has that name.
func (m *mirror) unredirect(d *mirrorDir) {
	m.cache.Redirect(d.path, "")
	m.cache.Drop(d.path)
}

// publishDir gives a directory its name.
func (p *plan) publishDir(d *mirrorDir) {
	err := p.lackOf(d)
	if err == nil {
		err = p.exchangeDir(d)
	}
	d.isStaged = false
	if err != nil {
		p.unredirect(d)
		p.failOrSkip(d.entry, "make the directory", err)
	} else {
		p.cache.Redirect(d.path, "")
		p.reportFile(FileReport{Path: d.path, Action: FileMade})
	}
	p.releaseDir(d)
}

// errLacksEntries is why a directory does not replace another entry.
var errLacksEntries = errors.New("an entry in it failed, so what is in its place stays")

// lackOf returns why a directory that waits is not complete; nil if it is.
func (m *mirror) lackOf(d *mirrorDir) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	return d.lack
}

// noteLack notes that an entry failed or is too young, in the directory around it that waits.
// Called with the lock held.
func (m *mirror) noteLack(path string, why error) {
	for _, d := range m.waitingDirs {
		if isBelow(path, d.path) && d.lack != errLacksEntries {
			d.lack = why
		}
	}
}

func (p *plan) exchangeDir(d *mirrorDir) error {
	h, err := p.cache.Acquire(d.parent.path)
	if err != nil {
		return err
	}
	defer p.cache.Release(h)
	name := disk.Base(d.path)
	temp := p.freshName(name)
	found, info, err := p.lookUp(h, name)
	switch {
	case err != nil:
		return err
	case found == occupantDir:
		return fs.ErrExist
	case p.isNewerThan(info, d.entry.MTime):
		return ErrNewer
	case found == occupantSpecial && !p.Specials:
		return disk.ErrNotAFile
	case found == occupantLink && !p.Delete:
		return errLinkInTheWay
	}
	if err := p.backup.keep(h, d.path); err != nil {
		return err
	}
	if found == occupantNone {
		return h.Rename(temp, name)
	}
	err = disk.Exchange(h.TreeDir, temp, name)
	if err == nil {
		return h.Remove(temp)
	}
	if !errors.Is(err, errors.ErrUnsupported) {
		return err
	}
	if err := h.Remove(name); err != nil {
		return err
	}
	return h.Rename(temp, name)
}

// unstageDir leaves a directory that was not published to the next mirror, unless it is empty.
func (m *mirror) unstageDir(d *mirrorDir) {
	m.unredirect(d)
	if h, err := m.cache.Acquire(d.parent.path); err == nil {
		h.Remove(m.freshName(disk.Base(d.path)))
		m.cache.Release(h)
	}
	m.releaseDir(d)
}

// stagesOverDir reports whether a file is fetched before the directory in its place is deleted. The
// directory is extra then.
func (p *plan) stagesOverDir(ctx context.Context, d *mirrorDir, e Entry) bool {
	if !p.Stage || p.DryRun || e.link != 0 {
		return false
	}
	h, err := p.cache.Acquire(d.path)
	if err != nil {
		return false
	}
	defer p.cache.Release(h)
	if isEmptied, err := p.countLoss(ctx, h, e.Path, &loss{}); err != nil || !isEmptied {
		return false
	}
	p.extra = append(p.extra, extraEntry{d, disk.Base(e.Path), forStaged})
	p.kept--
	return true
}

// keepUnreplaced keeps the directories from deletion whose files did not arrive.
func (p *plan) keepUnreplaced() {
	waiting := make(map[string]bool)
	for _, s := range p.staged.over {
		waiting[s.report.Path] = true
	}
	p.extra = slices.DeleteFunc(p.extra, func(x extraEntry) bool {
		isKept := x.reason == forStaged && !waiting[disk.JoinPath(x.dir.path, x.name)]
		if isKept {
			p.kept++
		}
		return isKept
	})
}

// publishOver gives the file that waited for the deletion of a directory its name.
func (p *plan) publishOver(path string) {
	i := slices.IndexFunc(p.staged.over, func(s stagedFile) bool { return s.report.Path == path })
	if i < 0 {
		return
	}
	s := p.staged.over[i]
	p.staged.over = slices.Delete(p.staged.over, i, i+1)
	if p.isDir(s.file) {
		p.placed(s.file, s.report, errDirStays)
		return
	}
	p.publishFile(s)
}

// publishRest is publishOver for the files in whose place there are directories that were not to be
// deleted: they were made meanwhile.
func (p *plan) publishRest() {
	for len(p.staged.over) > 0 {
		p.publishOver(p.staged.over[0].report.Path)
	}
}

// isDir reports whether there is a directory in the place of a file.
func (m *mirror) isDir(f *mirrorFile) bool {
	h, err := m.cache.Acquire(f.dir.path)
	if err != nil {
		return false
	}
	defer m.cache.Release(h)
	info, err := h.Lstat(f.name)
	return err == nil && info.IsDir()
}
