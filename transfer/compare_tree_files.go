package transfer

import (
	"context"
	"errors"
	"io/fs"
	"kwikcp/transfer/disk"
	"kwikcp/transfer/internal/partfile"
	"time"
)

// This file compares the contents of files with those of a tree, in batches.

// queue adds a file to the batch, which is compared first if it is full.
func (c *treeComparer) queue(ctx context.Context, e Entry) error {
	c.mu.Lock()
	c.result.selected += e.Size
	c.mu.Unlock()
	if !c.batch.fits(e) {
		if err := c.flush(ctx); err != nil {
			return err
		}
	}
	c.batch.add(&mirrorFile{entry: e})
	return nil
}

// flush compares the files of the batch.
func (c *treeComparer) flush(ctx context.Context) error {
	b := c.batch
	c.batch = newBatch()
	again, err := c.compareBatch(ctx, b)
	for _, f := range again { // they were too much for one batch
		single := newBatch()
		single.add(f)
		if err == nil {
			_, err = c.compareBatch(ctx, single)
		}
	}
	return err
}

// compareBatch requests the trees of files and compares the local files with them. It returns the
// files that need a smaller batch.
func (c *treeComparer) compareBatch(ctx context.Context, b *batch) (again []*mirrorFile, err error) {
	if b.empty() {
		return nil, nil
	}
	defer b.trees.release()
	err = c.awake(ctx, func() error {
		b.trees.release()
		stream, err := c.requestBatch(ctx, b)
		closeOffer(stream) // the contents are not needed
		return err
	})
	if err != nil {
		return nil, err
	}
	var described []*mirrorFile
	for _, f := range b.files {
		e, _ := errors.AsType[*Error](f.refusal)
		switch {
		case f.refusal == nil:
			described = append(described, f)
		case e != nil && e.Kind == KindNetwork && len(b.files) > 1:
			again = append(again, f)
		default:
			c.fail(f.entry.Path, f.refusal)
		}
	}
	forEach(described, func(f *mirrorFile) { c.compareFile(ctx, f) })
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	return again, nil
}

// compareFile compares the content of a local file. It is safe for concurrent use.
func (c *treeComparer) compareFile(ctx context.Context, f *mirrorFile) {
	if ctx.Err() != nil {
		return
	}
	isEqual, err := c.hasContent(ctx, f)
	switch {
	case ctx.Err() != nil:
		return
	case errors.Is(err, fs.ErrNotExist):
		c.tell(TreeDifference{f.entry.Path, Missing, EntryFile, nil})
	case err != nil:
		c.fail(f.entry.Path, LocalError("read it", disk.Cause(err)))
	case !isEqual:
		c.differ(f.entry, "it has other content")
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if isEqual {
		c.result.Equal++
		c.result.Bytes += f.tree.Size()
	}
	c.result.checked += f.entry.Size
	if time.Since(c.reported) >= observeInterval {
		c.reported = time.Now()
		c.observer.checking(c.result.checked, c.result.selected)
	}
}

// hasContent reports whether a local file has the content of the server's.
func (c *treeComparer) hasContent(ctx context.Context, f *mirrorFile) (bool, error) {
	h, err := c.cache.Acquire(disk.Parent(f.entry.Path))
	if err != nil {
		return false, err
	}
	file, err := h.Open(disk.Base(f.entry.Path))
	c.cache.Release(h)
	if err != nil {
		return false, err
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return false, err
	}
	w := &wholly{File: file}
	isEqual, err := partfile.Matches(ctx, w, info.Size(), f.tree, nil)
	if w.err != nil {
		err = w.err
	}
	return isEqual, err
}
