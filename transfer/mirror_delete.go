package transfer

import (
	"context"
	"errors"
	"io/fs"
	"kwikcp/transfer/disk"
	"kwikcp/transfer/internal/wire"
	"sort"
)

// delete removes what is in the target and not in the listing, which must have been complete. What the filter excludes stays, and so do the
// directories that it is in.
func (p *plan) delete(ctx context.Context) {
	if p.damaged {
		if len(p.extra) > 0 {
			p.tell(FileReport{Path: "", Action: FileFailed, Err: &Error{Kind: KindOther, Op: "delete what is not on the server", Err: errors.New("the listing is not complete, so nothing was deleted")}})
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

// deleteIn deletes one thing in a directory, and gives the directory its mode and time again.
func (p *plan) deleteIn(ctx context.Context, d *mirrorDir, name string) error {
	if err := p.reopen(d); err != nil {
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

// remove deletes what is at a path in an open directory, unless the filter protects it, and reports whether it is gone.
func (p *plan) remove(ctx context.Context, h *disk.CachedDir, at string) (gone bool, err error) {
	name := disk.Base(at)
	info, err := h.Lstat(name)
	if errors.Is(err, fs.ErrNotExist) {
		return true, nil
	}
	if err != nil {
		return false, err
	}
	part := wire.IsTemporary(name)
	if !part && !p.Filter.Wants(at, info.IsDir()) {
		return false, nil
	}
	switch {
	case info.IsDir():
		if gone, err := p.removeAll(ctx, at, info, h); err != nil || !gone {
			return false, err
		}
	case part && !p.DryRun:
		if busy := p.inUse(h, name); busy {
			return false, nil
		}
	}
	if !p.DryRun {
		if err := h.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return false, err
		}
		if info.IsDir() {
			p.cache.Drop(at)
		}
	}
	p.tell(FileReport{Path: at, Action: FileDeleted})
	return true, nil
}

// removeAll deletes what is in a directory, and reports whether nothing is left.
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
	names, err := h.Names(maxLocal)
	if err != nil {
		return false, err
	}
	sort.Strings(names)
	empty = true
	for _, name := range names {
		if ctx.Err() != nil {
			return false, nil // tree says so
		}
		gone, err := p.remove(ctx, h, disk.JoinPath(at, name))
		if err != nil {
			p.fail(disk.JoinPath(at, name), "delete it", err)
		}
		empty = empty && gone
	}
	return empty, nil
}

// inUse reports whether a part file belongs to a transfer that goes on.
func (p *plan) inUse(h *disk.CachedDir, name string) bool {
	f, err := h.OpenPart(name)
	if err != nil {
		return false
	}
	defer f.Close()
	locked, err := f.TryLock()
	return err == nil && !locked
}
