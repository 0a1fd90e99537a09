package transfer

import (
	"context"
	"errors"
	"io/fs"
	"kwikcp/transfer/disk"
	"kwikcp/transfer/internal/wire"
	"sort"
)

// This file deletes what is not in the listing. First all of it is counted. Then it is deleted, or
// nothing is.

// delete removes the extra entries, unless they are more than MaxDelete allows. Entries that the
// filter excludes stay, and so do their directories.
func (p *plan) delete(ctx context.Context) error {
	exceeded := p.checkLoss(ctx)
	if exceeded != nil && !p.DryRun {
		return exceeded
	}
	for _, x := range p.extra {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if err := p.deleteIn(ctx, x.dir, x.name); err != nil {
			p.fail(disk.JoinPath(x.dir.path, x.name), "delete it", err)
		}
	}
	return exceeded
}

// checkLoss counts what delete would remove, and returns an error if that is too much.
func (p *plan) checkLoss(ctx context.Context) error {
	x := loss{of: p.before, listed: p.listed}
	for _, e := range p.extra {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		h, err := p.cache.Acquire(e.dir.path)
		if err != nil {
			continue // deleting fails as well
		}
		p.countLoss(ctx, h, disk.JoinPath(e.dir.path, e.name), &x)
		p.cache.Release(h)
	}
	if err := p.MaxDelete.check(x); err != nil {
		return &Error{Kind: KindDeleteLimit, Op: p.op(), Err: err}
	}
	return nil
}

// countLoss counts what remove would delete at a path. empty reports whether nothing would be left
// there. A directory that cannot be read counts as one entry.
func (p *plan) countLoss(ctx context.Context, h *disk.CachedDir, at string, x *loss) (empty bool) {
	info, isDoomed, err := p.judge(h, at)
	if err != nil || !isDoomed {
		return err == nil && info == nil
	}
	if info.IsDir() {
		sub, err := p.cache.Acquire(at)
		if err == nil {
			defer p.cache.Release(sub)
			empty, err = p.countLossIn(ctx, sub, at, x)
		}
		if err == nil && !empty {
			return false
		}
	}
	if !wire.IsTemporary(disk.Base(at)) {
		x.deleted++
	}
	return true
}

// countLossIn counts what would be deleted in a directory.
func (p *plan) countLossIn(ctx context.Context, h *disk.CachedDir, at string, x *loss) (empty bool, err error) {
	if p.isOthersTarget(at) {
		return false, nil
	}
	names, err := h.Names(maxLocalNames)
	if err != nil {
		return false, err
	}
	empty = true
	for _, name := range names {
		if ctx.Err() != nil {
			return false, context.Cause(ctx)
		}
		if !wire.IsTemporary(name) {
			x.of++
		}
		if gone := p.countLoss(ctx, h, disk.JoinPath(at, name), x); !gone {
			empty = false
		}
	}
	return empty, nil
}

// lostFound is the name of the directory in which a check of a file system puts what it finds. It
// belongs to the file system, not to the tree.
const lostFound = "lost+found"

// judge returns what is at a path, and whether a mirror that does not find it in the listing
// deletes it. info is nil if there is nothing. A directory may still hold something that stays.
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
	isTemporary := wire.IsTemporary(name) && !info.IsDir()
	switch {
	case !p.Filter.Wants(at, info.IsDir()):
	case info.IsDir() && (name == lostFound || p.isElsewhere(info)):
	case isTemporary && p.isOthers(h, at):
	default:
		return info, true, nil
	}
	return info, false, nil
}

// errStays is judge's error for what cannot even be looked at. It is no failure.
var errStays = errors.New("it stays")

// isElsewhere reports whether a directory is on a file system that the mirror must not enter.
func (p *plan) isElsewhere(info fs.FileInfo) bool {
	return p.OneFileSystem && disk.DeviceOf(info) != p.device
}

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
		err := p.lacks.Allow(disk.OpMode, up.ChmodDir(disk.Base(at), info.Mode().Perm()|ownerMode))
		if err != nil {
			return false, err
		}
	}
	h, err := p.cache.Acquire(at)
	if err != nil {
		return false, err
	}
	defer p.cache.Release(h)
	if p.isOthersTarget(at) {
		return false, nil
	}
	names, err := h.Names(maxLocalNames)
	if err != nil {
		return false, err
	}
	sort.Strings(names)
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
