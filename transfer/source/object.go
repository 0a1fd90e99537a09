package source

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"time"

	"kwikcp/transfer/disk"
)

// An object is an open object of a store.
type object struct {
	root   *remote
	info   remoteInfo
	reader *reader         // guarded by the lock of the cache
	ctx    context.Context // ends when the object is closed, while the lock of the cache is held
	cancel context.CancelFunc
}

// newObject returns an open object. The lock of the cache must be held.
func (c *Cache) newObject(r *remote, info objectInfo) *object {
	o := &object{root: r, info: remoteInfo{disk.Base(info.name), info}}
	o.reader = &reader{table: c.table, object: info.key(r), used: time.Now()}
	o.reader.count = (info.size + c.table.blockSize - 1) / c.table.blockSize
	o.ctx, o.cancel = context.WithCancel(c.ctx)
	c.readers[o.reader] = true
	return o
}

// Stat implements Object. It describes the version that was opened.
func (o *object) Stat() (fs.FileInfo, error) { return &o.info, nil }

// Close implements Object.
func (o *object) Close() error {
	c := o.root.cache
	c.mu.Lock()
	defer c.mu.Unlock()
	o.cancel()
	c.cancelAll(o.reader.close())
	delete(c.readers, o.reader)
	c.signalRoom()
	return nil
}

// ReadAt implements io.ReaderAt.
func (o *object) ReadAt(p []byte, off int64) (n int, err error) {
	if off < 0 {
		return 0, &fs.PathError{Op: "read", Path: o.info.name, Err: fs.ErrInvalid}
	}
	for n < len(p) && off < o.info.size {
		m, err := o.readBlock(p[n:], off)
		if err != nil {
			return n, o.failed(err)
		}
		n, off = n+m, off+int64(m)
	}
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

// readBlock reads up to the end of a block.
func (o *object) readBlock(p []byte, off int64) (int, error) {
	c := o.root.cache
	index := off / c.table.blockSize
	at := off - index*c.table.blockSize
	n := min(int64(len(p)), c.table.blockLength(o.info.size, index)-at)
	b, err := c.acquire(o, index, int(at+n))
	if err != nil {
		return 0, err
	}
	defer c.release(b)
	return copy(p[:n], b.fetch.data[at:]), nil
}

// failed returns the error of a read.
func (o *object) failed(err error) error {
	if errors.Is(err, disk.ErrChanged) {
		o.root.know(func(n *names, _ time.Time) { n.forget(o.info.objectInfo.name) })
		return err
	}
	return o.root.failed("read", o.info.name, err)
}

// Prefetch implements Prefetcher.
func (o *object) Prefetch(start, end int64) {
	start, end = max(start, 0), min(end, o.info.size)
	if start >= end {
		return
	}
	c := o.root.cache
	c.mu.Lock()
	defer c.mu.Unlock()
	if o.ctx.Err() != nil {
		return
	}
	now, size := time.Now(), c.table.blockSize
	p, abandoned := o.reader.announce(start/size, (end+size-1)/size, now)
	o.reader.used = now
	c.cancelAll(abandoned)
	c.readAhead(o, p)
}
