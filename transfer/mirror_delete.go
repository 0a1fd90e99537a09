package transfer

import (
	"context"
	"errors"
	"io/fs"
	"kwikcp/transfer/disk"
	"kwikcp/transfer/internal/wire"
	"sort"
)

// delete removes the extra entries, if the listing was complete. Entries that the filter excludes
// stay, and so do their directories.
func (p *plan) delete(ctx context.Context) {
	if p.incomplete {
		if len(p.extra) > 0 {
			err := errors.New("the listing is not complete, so nothing was deleted")
			p.fail("", "", &Error{Kind: KindOther, Op: "delete what is not on the server", Err: err})
		}
		return
	}
	for _, x := range p.extra {
		if ctx.Err() != nil {
			return
		}
		if err := p.deleteIn(ctx, x.dir, x.name); err != nil {
			p.fail(disk.JoinPath(x.dir.path, x.name), "delete it", err)
		}
	}
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

// remove deletes the entry at a path in an open directory, unless the filter excludes it or it is
// protected. gone reports whether the entry no longer exists.
func (p *plan) remove(ctx context.Context, h *disk.CachedDir, at string) (gone bool, err error) {
	name := disk.Base(at)
	info, err := h.Lstat(name)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return true, nil
	case errors.Is(err, disk.ErrProtected):
		return false, nil
	case err != nil:
		return false, err
	}
	temporary := wire.IsTemporary(name)
	if !temporary && !p.Filter.Wants(at, info.IsDir()) {
		return false, nil
	}
	switch {
	case info.IsDir():
		if gone, err := p.removeAll(ctx, at, info, h); err != nil || !gone {
			return false, err
		}
	case temporary && !p.DryRun && p.inUse(h, name):
		return false, nil
	}
	if !p.DryRun {
		if err := h.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return false, err
		}
		if info.IsDir() {
			p.cache.Drop(at)
		}
	}
	p.reportFile(FileReport{Path: at, Action: FileDeleted})
	return true, nil
}

// removeAll deletes the entries of a directory. empty reports whether none is left.
func (p *plan) removeAll(ctx context.Context, at string, info fs.FileInfo, up *disk.CachedDir) (empty bool, err error) {
	if !p.DryRun && info.Mode()&ownerMode != ownerMode {
		if err := up.ChmodDir(disk.Base(at), info.Mode().Perm()|ownerMode); err != nil {
			return false, err
		}
	}
	h, err := p.cache.Acquire(at)
	if err != nil {
		return false, err
	}
	defer p.cache.Release(h)
	names, err := h.Names(maxLocalNames)
	if err != nil {
		return false, err
	}
	sort.Strings(names)
	empty = true
	for _, name := range names {
		if ctx.Err() != nil {
			return false, nil // fetchTree returns the cause
		}
		gone, err := p.remove(ctx, h, disk.JoinPath(at, name))
		if err != nil {
			p.fail(disk.JoinPath(at, name), "delete it", err)
		}
		empty = empty && gone
	}
	return empty, nil
}

// inUse reports whether a part file belongs to a transfer under way, which holds its lock.
func (p *plan) inUse(h *disk.CachedDir, name string) bool {
	f, err := h.OpenPart(name)
	if err != nil {
		return false
	}
	defer f.Close()
	locked, err := f.TryLock()
	return err == nil && !locked
}
