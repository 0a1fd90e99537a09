package cmd

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"time"

	"kwikcp/internal/webfile"
	"kwikcp/transfer"
	"kwikcp/transfer/disk"
	"kwikcp/transfer/source"
)

// This file opens the served directory, and keeps it the one to which its path leads.

const (
	// rootInterval is how often a server without requests looks for its root.
	rootInterval = time.Second
	// emptyTicks is the number of these intervals after which it looks whether the root is empty,
	// which may read many names.
	emptyTicks = 5
)

// openServed opens the root, and returns the function that watches it until its context ends. The
// caller closes the root.
func (c *serveConfig) openServed(ctx context.Context) (root source.Root, watch func(context.Context), err error) {
	if c.bucket != nil {
		bucket, err := c.openBucket(ctx)
		if err != nil {
			return nil, nil, err
		}
		return bucket, func(ctx context.Context) { watchRemote(ctx, bucket) }, nil
	}
	if c.web != nil {
		web, err := c.openWeb(ctx)
		if err != nil {
			return nil, nil, err
		}
		return web, func(ctx context.Context) { watchRemote(ctx, web) }, nil
	}
	if info, err := os.Stat(c.root); err == nil && !info.IsDir() { // opening a FIFO would block
		return nil, nil, transfer.LocalError(c.op(), errors.New("not a directory"))
	}
	dir, err := c.openRoot()
	if err != nil {
		return nil, nil, err
	}
	watch = func(ctx context.Context) { watchRoot(ctx, dir, absolute(c.root), c.log) }
	return source.Local(dir), watch, nil
}

// isRemote reports whether the root is on another machine.
func (c *serveConfig) isRemote() bool { return c.bucket != nil || c.web != nil }

// rootName returns the name of the root, for the log.
func (c *serveConfig) rootName() string {
	if c.bucket != nil {
		return c.bucket.location.String()
	}
	if c.web != nil {
		return webfile.Shown(c.web.base)
	}
	return absolute(c.root)
}

// openRoot opens the served directory without the secrets in it. It makes that of a mirror if it is
// missing. The caller closes it.
func (c *serveConfig) openRoot() (*disk.FollowedDir, error) {
	mayCreate := c.mirror != nil
	open := func(path string) (disk.TreeDir, error) {
		dir, err := disk.OpenTree(path, mayCreate)
		if err != nil {
			return nil, err
		}
		mayCreate = false // a root that is gone is not made again
		hiding, err := c.secrets.Hide(dir)
		if err != nil {
			dir.Close()
			return nil, err
		}
		return hiding, nil
	}
	dir, err := disk.Follow(absolute(c.root), open, rootLog(c.log, absolute(c.root)))
	if err != nil {
		return nil, transfer.LocalError(c.op(), err)
	}
	return dir, nil
}

// rootLog returns a function that logs what happens to the root.
func rootLog(log *slog.Logger, root string) func(disk.FollowReport) {
	return func(r disk.FollowReport) {
		switch {
		case r.Gone != nil:
			log.Error("root is gone; requests fail until it is back", "root", root, "err", errors.Unwrap(r.Gone))
		case r.Replaced:
			log.Warn("root was replaced; the directory that is there now is served", "root", root)
		default:
			log.Info("root is back", "root", root)
		}
	}
}

// watchRoot follows the root until ctx ends, so that its loss is logged without a request. It logs
// as well that a root with entries has become empty: clients are then told that their files are
// missing.
func watchRoot(ctx context.Context, dir *disk.FollowedDir, root string, log *slog.Logger) {
	wasEmpty := dir.IsEmpty()
	ticker := time.NewTicker(rootInterval)
	defer ticker.Stop()
	for ticks := 1; ; ticks++ {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		if dir.Check() != nil || ticks%emptyTicks != 0 {
			continue
		}
		empty := dir.IsEmpty()
		if empty && !wasEmpty {
			log.Warn("root has become empty", "root", root)
		}
		wasEmpty = empty
	}
}
