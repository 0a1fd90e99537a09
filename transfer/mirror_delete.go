package transfer

import (
	"cmp"
	"context"
	"errors"
	"io/fs"
	"kwikcp/transfer/disk"
	"kwikcp/transfer/internal/wire"
	"slices"
	"sort"
)

// This file deletes what is not in the listing. First all of it is counted. Then it is deleted, or
// nothing is.

// delete removes the extra entries, unless they are more than MaxDelete allows. Entries that the
// filter excludes stay, and so do their directories.
func (p *plan) delete(ctx context.Context) error {
	p.keepUnreplaced()
	exceeded := p.checkLoss(ctx)
	if exceeded != nil && (!p.DryRun || p.fatalError() != nil) {
		return exceeded
	}
	slices.SortStableFunc(p.extra, func(a, b extraEntry) int { // those that files wait for are the first
		return cmp.Compare(b.reason, a.reason)
	})
	for _, x := range p.extra {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		at := disk.JoinPath(x.dir.path, x.name)
		if err := p.deleteIn(ctx, x.dir, x.name); err != nil {
			p.fail(at, "delete it", err)
		}
		if x.reason == forStaged && ctx.Err() == nil {
			p.publishOver(at)
		}
	}
	return exceeded
}

// checkLoss counts what delete would remove, and returns an error if that is too much. An entry of
// which that cannot be told fails, and stays.
func (p *plan) checkLoss(ctx context.Context) error {
	x := loss{of: p.kept, listed: p.listed}
	counted := p.extra[:0]
	for _, e := range p.extra {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		at := disk.JoinPath(e.dir.path, e.name)
		if err := p.countExtra(ctx, e.dir.path, at, &x); err != nil {
			p.fail(at, "delete it", err)
			continue
		}
		counted = append(counted, e)
	}
	p.extra = counted
	if fatal := p.fatalError(); fatal != nil {
		return fatal
	}
	if err := p.MaxDelete.check(x); err != nil {
		return &Error{Kind: KindDeleteLimit, Op: p.op(), Err: err}
	}
	return nil
}

func (p *plan) countExtra(ctx context.Context, dir, at string, x *loss) error {
	h, err := p.cache.Acquire(dir)
	if err != nil {
		return err
	}
	defer p.cache.Release(h)
	_, err = p.countLoss(ctx, h, at, x)
	return err
}

// countLoss counts what remove would delete at a path, and the entries of the target that it
// finds. empty reports whether nothing would be left there. Entries that stay in any case do not
// count: they would hide how many others go.
func (p *plan) countLoss(ctx context.Context, h *disk.CachedDir, at string, x *loss) (empty bool, err error) {
	info, isDoomed, err := p.judge(h, at)
	switch {
	case err == ErrMoved:
		x.held++
		return false, nil
	case err == errStays || err == ErrElsewhere:
		return false, nil
	case err != nil || !isDoomed:
		return err == nil && info == nil, err
	}
	counts := !wire.IsTemporary(disk.Base(at))
	if counts {
		x.of++
	}
	if info.IsDir() {
		if empty, err := p.countLossIn(ctx, h, at, info, x); err != nil || !empty {
			return false, err
		}
	}
	if counts {
		x.deleted++
	}
	return true, nil
}

// countLossIn counts what would be deleted in a directory, whose mode it leaves as it is.
func (p *plan) countLossIn(
	ctx context.Context, up *disk.CachedDir, at string, info fs.FileInfo, x *loss,
) (empty bool, err error) {
	if !p.DryRun && info.Mode()&ownerMode != ownerMode {
		if err := p.openUp(up, at, info); err != nil {
			return false, err
		}
		defer func() {
			mode := info.Mode() & (fs.ModePerm | disk.SpecialMode)
			restored := p.lacks.Allow(disk.OpMode, up.ChmodDir(disk.Base(at), mode))
			if err == nil {
				err = restored
			}
		}()
	}
	h, names, err := p.doomedNames(at)
	if h == nil {
		return false, err
	}
	defer p.cache.Release(h)
	empty = true
	for _, name := range names {
		if ctx.Err() != nil {
			return false, context.Cause(ctx)
		}
		gone, err := p.countLoss(ctx, h, disk.JoinPath(at, name), x)
		if err != nil {
			return false, err
		}
		empty = empty && gone
	}
	return empty, nil
}

// openUp adds ownerMode to the mode of a directory that is to be deleted.
func (p *plan) openUp(up *disk.CachedDir, at string, info fs.FileInfo) error {
	mode := info.Mode()&(fs.ModePerm|disk.SpecialMode) | ownerMode
	return p.lacks.Allow(disk.OpMode, up.ChmodDir(disk.Base(at), mode))
}

// doomedNames opens a directory that is to be deleted, and returns its names, sorted. The caller
// releases it. It is nil if the directory is the target of another mirror, or after an error.
func (p *plan) doomedNames(at string) (h *disk.CachedDir, names []string, err error) {
	if h, err = p.cache.Acquire(at); err != nil {
		return nil, nil, err
	}
	others, err := p.isOthersTarget(at)
	if err == nil && !others {
		names, err = h.Names(maxLocalNames)
	}
	if err != nil || others {
		p.cache.Release(h)
		return nil, nil, err
	}
	sort.Strings(names)
	return h, names, nil
}

// lostFound is the name of the directory in which a check of a file system puts what it finds. It
// belongs to the file system, not to the tree.
const lostFound = "lost+found"

// judge returns what is at a path, and whether a mirror that does not find it in the listing
// deletes it. info is nil if there is nothing. A directory may still hold something that stays.
// The errors errStays, ErrElsewhere and ErrMoved are no failures.
func (p *plan) judge(h *disk.CachedDir, at string) (info fs.FileInfo, isDoomed bool, err error) {
	name := disk.Base(at)
	info, err = h.Lstat(name)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, false, nil
	case errors.Is(err, disk.ErrProtected):
		return info, false, errStays
	case err != nil:
		return nil, false, err
	}
	switch {
	case !p.Filter.Wants(at, info.IsDir()):
		return info, false, nil
	case info.IsDir() && (name == lostFound || p.isSource(info)):
		return info, false, nil
	case p.isElsewhere(h, name, info):
		return info, false, ErrElsewhere
	case p.mayHaveMoved(name, info) && !wire.IsTemporary(name):
		return info, false, ErrMoved
	case !info.IsDir() && wire.IsTemporary(name):
		others, err := p.isOthers(h, at)
		return info, !others && err == nil, err
	}
	return info, true, nil
}

// errStays is judge's error for what cannot even be looked at. It is no failure.
var errStays = errors.New("it stays")

// deleteIn deletes an entry of a directory, and restores the mode and time of the directory.
func (p *plan) deleteIn(ctx context.Context, d *mirrorDir, name string) error {
	if err := p.reopenDir(d); err != nil {
		return err
	}
	defer p.releaseDir(d)
	h, err := p.cache.Acquire(d.path)
	if err != nil {
		return err
	}
	defer p.cache.Release(h)
	p.noteChange(d)
	_, err = p.remove(ctx, h, disk.JoinPath(d.path, name))
	return err
}

// remove deletes the entry at a path in an open directory, unless it must stay. gone reports
// whether the entry no longer exists.
func (p *plan) remove(ctx context.Context, h *disk.CachedDir, at string) (gone bool, err error) {
	info, isDoomed, err := p.judge(h, at)
	switch {
	case err == errStays:
		return false, nil
	case err == ErrElsewhere || err == ErrMoved:
		p.reportFile(FileReport{Path: at, Action: FileSkipped, Err: err})
		return false, nil
	case err != nil || !isDoomed:
		return err == nil && info == nil, err
	}
	if info.IsDir() {
		if gone, err := p.removeAll(ctx, at, info, h); err != nil || !gone {
			return false, err
		}
	}
	if !p.DryRun {
		if err := p.removeOne(h, at, info); err != nil {
			return false, err
		}
	}
	p.reportFile(FileReport{Path: at, Action: FileDeleted})
	return true, nil
}

// removeOne deletes a file or an empty directory. A file that is no temporary one is in the backup
// before.
func (p *plan) removeOne(h *disk.CachedDir, at string, info fs.FileInfo) error {
	name := disk.Base(at)
	if !info.IsDir() && !wire.IsTemporary(name) {
		if err := p.backup.keep(h, at); err != nil {
			return err
		}
	}
	if err := h.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if info.IsDir() {
		p.cache.Drop(at)
	}
	return nil
}

// removeAll deletes the entries of a directory. empty reports whether none is left.
func (p *plan) removeAll(ctx context.Context, at string, info fs.FileInfo, up *disk.CachedDir) (empty bool, err error) {
	if !p.DryRun && info.Mode()&ownerMode != ownerMode {
		if err := p.openUp(up, at, info); err != nil {
			return false, err
		}
	}
	h, names, err := p.doomedNames(at)
	if h == nil {
		return false, err
	}
	defer p.cache.Release(h)
	empty = true
	for _, name := range names {
		if ctx.Err() != nil {
			return false, nil // delete returns the cause
		}
		gone, err := p.remove(ctx, h, disk.JoinPath(at, name))
		if err != nil {
			p.fail(disk.JoinPath(at, name), "delete it", err)
		}
		empty = empty && gone
	}
	return empty, nil
}
