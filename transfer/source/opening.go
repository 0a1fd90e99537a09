package source

import (
	"context"
	"io/fs"
	"time"

	"kwikcp/transfer/disk"
)

// This file opens objects. The request that opens one fetches its first block, so that a small
// object costs one request.

// An opening is a request that opens an object, for all who want it meanwhile.
type opening struct {
	done   chan struct{}
	cancel context.CancelFunc

	// Guarded by the lock of the cache.
	waiters int
	info    objectInfo
	err     error
	first   *block // pinned once until the last waiter has left; nil if it was not fetched
	isDone  bool
}

// open opens an object with one request, or without any if its description is fresh.
func (r *remote) open(ctx context.Context, name string) (Object, error) {
	info, isKnown := r.answered(name)
	if !isKnown && r.prefersStat(name) {
		var err error
		if info, err = r.store.stat(ctx, name); err != nil {
			return nil, r.refineMissing(ctx, name, err)
		}
		info.name = name
		r.know(func(n *names, now time.Time) { n.learn(info, false, now) })
		isKnown = true
	}
	if isKnown {
		if info.isDir {
			return nil, disk.ErrNotAFile
		}
		c := r.cache
		c.mu.Lock()
		defer c.mu.Unlock()
		return c.newObject(r, info), nil
	}
	o, err := r.cache.open(ctx, r, name)
	if err != nil {
		return nil, r.refineMissing(ctx, name, err)
	}
	return o, nil
}

// answered returns what the store answered shortly before about a name.
func (r *remote) answered(name string) (info objectInfo, ok bool) {
	r.know(func(n *names, now time.Time) {
		var isListed bool
		info, isListed, ok = n.find(name, now)
		ok = ok && (!isListed || info.isDir)
	})
	return info, ok
}

// prefersStat reports whether the bytes of the first block are probably not needed: the cache has
// them, or the object has other blocks.
func (r *remote) prefersStat(name string) bool {
	isLarge := false
	r.know(func(n *names, now time.Time) {
		info, _, ok := n.find(name, now)
		isLarge = ok && info.size > r.cache.table.blockSize
	})
	r.cache.mu.Lock()
	defer r.cache.mu.Unlock()
	_, isCached := r.cache.latest[nameKey{r, name}]
	return isLarge || isCached
}

// refineMissing returns disk.ErrNotAFile if a missing object is a directory.
func (r *remote) refineMissing(ctx context.Context, name string, err error) error {
	if disk.ClassOf(err) != disk.CauseAbsent {
		return err
	}
	if isDir, _ := r.isDir(ctx, name); isDir {
		return disk.ErrNotAFile
	}
	return err
}

// open opens an object whose version is not known.
func (c *Cache) open(ctx context.Context, r *remote, name string) (*object, error) {
	key := nameKey{r, name}
	c.mu.Lock()
	defer c.mu.Unlock()
	op := c.openings[key]
	if op == nil {
		op = &opening{done: make(chan struct{})}
		var opCtx context.Context
		opCtx, op.cancel = context.WithCancel(c.ctx)
		c.openings[key] = op
		c.wg.Go(func() {
			defer op.cancel()
			c.runOpening(opCtx, r, name, op)
		})
	}
	op.waiters++
	c.mu.Unlock()
	select {
	case <-op.done:
	case <-ctx.Done():
	}
	c.mu.Lock()
	op.waiters--
	isLast := op.waiters == 0
	if !op.isDone {
		if isLast {
			c.close(key, op)
			op.cancel()
		}
		return nil, context.Cause(ctx)
	}
	if isLast && op.first != nil {
		defer c.unpin(op.first)
	}
	if op.err != nil {
		return nil, op.err
	}
	o := c.newObject(r, op.info)
	if op.first != nil {
		o.reader.open(op.first, time.Now())
	}
	return o, nil
}

// close makes others that want the object open it themselves. The lock must be held.
func (c *Cache) close(key nameKey, op *opening) {
	if c.openings[key] == op {
		delete(c.openings, key)
	}
}

// runOpening requests an object and its first block.
func (c *Cache) runOpening(ctx context.Context, r *remote, name string, op *opening) {
	reserved := c.table.blockSize
	r.know(func(n *names, now time.Time) {
		if info, _, ok := n.find(name, now); ok {
			reserved = min(max(info.size, 1), c.table.blockSize)
		}
	})
	c.mu.Lock()
	_, err := c.awaitRoom(ctx, blockKey{}, costOf(reserved))
	if err != nil {
		defer c.mu.Unlock()
		c.opened(r, name, op, objectInfo{}, nil, err)
		return
	}
	b := c.table.add(blockKey{}, costOf(reserved), time.Now())
	c.table.pin(b)
	c.mu.Unlock()

	body, info, err := r.store.get(ctx, name, nil, 0, reserved)
	info.name = name
	if err == nil {
		r.know(func(n *names, now time.Time) { n.learn(info, false, now) })
	}
	length := min(info.size, c.table.blockSize)
	c.mu.Lock()
	if err != nil {
		defer c.mu.Unlock()
		c.table.finish(b, false, time.Now())
		c.signalRoom()
		c.opened(r, name, op, info, nil, err)
		return
	}
	key := blockKey{info.key(r), 0}
	if isOther := length > reserved || length == 0 || !c.table.name(b, key, costOf(length)); isOther {
		defer body.Close()
		defer c.mu.Unlock()
		c.table.finish(b, false, time.Now())
		c.signalRoom()
		first := c.table.blocks[key]
		if first != nil {
			c.table.pin(first)
		}
		c.opened(r, name, op, info, first, nil)
		return
	}
	b.fetch = blockFetch{data: c.buffer(length), progress: make(chan struct{}), cancel: op.cancel}
	b.mustArrive = true
	c.signalRoom() // the rest of the reservation
	c.opened(r, name, op, info, b, nil)
	c.mu.Unlock()
	err = c.fill(ctx, b, r, &info, 0, body)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.finish(b, r, info, err)
}

// opened ends an opening. first is pinned, or nil. The lock must be held.
func (c *Cache) opened(r *remote, name string, op *opening, info objectInfo, first *block, err error) {
	op.info, op.first, op.err, op.isDone = info, first, err, true
	if op.waiters == 0 && first != nil { // all have left
		c.unpin(first)
		op.first = nil
	}
	if op.err == fs.ErrClosed && c.ctx.Err() == nil {
		op.err = context.Canceled
	}
	c.close(nameKey{r, name}, op)
	close(op.done)
}
