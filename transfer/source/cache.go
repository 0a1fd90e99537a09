package source

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"math/rand/v2"
	"sync"
	"time"

	"kwikcp/internal/backoff"
	"kwikcp/transfer/disk"
)

const (
	// MinCache is the least size of a cache, in bytes.
	MinCache = 4 * blockSize
	// maxFlights bounds the blocks that are fetched ahead at once, for all readers.
	maxFlights = 32
	// notifySize is the number of bytes after whose arrival waiting reads are woken.
	notifySize = 64 << 10
	// stallTimeout is how long a fetch may go without a byte before it is repeated.
	stallTimeout = 20 * time.Second
	// maxBodyFailures is the number of answers that may break off in a row, without a byte.
	maxBodyFailures = 4
	// idleTimeout is how long a reader that does not read keeps what was read ahead for it.
	idleTimeout = 30 * time.Second
)

var errStalled = errors.New("the store sends no more bytes")

// A Cache holds blocks of the objects of remote roots. One is for all roots of a server. Each block
// is fetched once, however many readers want it.
type Cache struct {
	ctx    context.Context // ends with Close
	cancel context.CancelFunc
	wg     sync.WaitGroup // of the fetches

	mu       sync.Mutex // guards the fields below, and the blocks and readers. It is not held over a request.
	table    *blockTable
	readers  map[*reader]bool
	openings map[nameKey]*opening
	latest   map[nameKey]objectInfo // the versions of which the table has the first block
	free     [][]byte               // buffers of blockSize, which count beside the table
	flights  int                    // fetches ahead
	waiting  int                    // reads that wait for room
	room     chan struct{}          // closed when there may be more room
	expired  time.Time              // when windows were last looked through
	fetched  int64                  // bytes from stores
}

// A nameKey is the name of an object, whatever its version.
type nameKey struct {
	root *remote
	name string
}

// A blockFetch is what a cache knows about the bytes of a block.
type blockFetch struct {
	data     []byte        // all bytes; those before filled have arrived, and do not change
	filled   int           // bytes
	progress chan struct{} // closed when more have arrived or the fetch has failed
	err      error         // of a fetch that ended
	cancel   context.CancelFunc
}

// NewCache returns a cache that holds at most so many bytes, with those that are being fetched, and
// at least two blocks. The caller closes it after its roots.
func NewCache(bytes int64) *Cache { return newCache(blockSize, bytes) }

func newCache(blockSize, bytes int64) *Cache {
	c := &Cache{
		table: newBlockTable(blockSize, bytes), readers: make(map[*reader]bool),
		openings: make(map[nameKey]*opening), latest: make(map[nameKey]objectInfo), room: make(chan struct{}),
	}
	c.ctx, c.cancel = context.WithCancel(context.Background())
	return c
}

// Close ends all fetches and waits for them.
func (c *Cache) Close() {
	c.cancel()
	c.wg.Wait()
}

// Fetched returns how many bytes the cache has received from stores.
func (c *Cache) Fetched() int64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.fetched
}

// makeRoom makes room for a block, and reports whether there is. The lock must be held.
func (c *Cache) makeRoom(cost int64, isAhead bool) bool {
	dropped, ok := c.table.makeRoom(cost, isAhead)
	for _, b := range dropped {
		c.dispose(b)
	}
	return ok
}

// awaitRoom makes room for a block, and waits for it until ctx ends. It returns early with false if
// the table has the block meanwhile. The lock must be held; it is released while it waits.
func (c *Cache) awaitRoom(ctx context.Context, key blockKey, cost int64) (ok bool, err error) {
	for c.table.blocks[key] == nil {
		if c.makeRoom(cost, false) {
			return true, nil
		}
		room := c.room
		c.waiting++
		c.mu.Unlock()
		select {
		case <-room:
		case <-ctx.Done():
		case <-c.ctx.Done():
		}
		c.mu.Lock()
		c.waiting--
		if ctx.Err() != nil || c.ctx.Err() != nil {
			return false, fs.ErrClosed
		}
	}
	return false, nil
}

// signalRoom wakes the reads that wait for room. The lock must be held.
func (c *Cache) signalRoom() {
	if c.waiting > 0 {
		close(c.room)
		c.room = make(chan struct{})
	}
}

// dispose ends the use of a block that is no longer in the table. The lock must be held.
func (c *Cache) dispose(b *block) {
	if name := (nameKey{b.key.object.root, b.key.object.name}); b.key.index == 0 {
		if info, ok := c.latest[name]; ok && info.key(name.root) == b.key.object {
			delete(c.latest, name)
		}
	}
	size := c.table.blockSize
	isFree := b.pins == 0 && int64(len(b.fetch.data)) == size
	if isFree && c.table.used+int64(len(c.free)+1)*size <= c.table.limit {
		c.free = append(c.free, b.fetch.data)
		b.fetch.data = nil
	}
}

// buffer returns a buffer for a block that is in the table. The lock must be held.
func (c *Cache) buffer(size int64) []byte {
	if n := len(c.free); n > 0 && size == c.table.blockSize {
		last := c.free[n-1]
		c.free = c.free[:n-1]
		return last
	}
	for len(c.free) > 0 && c.table.used+int64(len(c.free))*c.table.blockSize > c.table.limit {
		c.free = c.free[:len(c.free)-1]
	}
	return make([]byte, size)
}

// start begins to fetch a block, for which there is room. The lock must be held.
func (c *Cache) start(o *object, index int64, isAhead bool) *block {
	length := c.table.blockLength(o.info.size, index)
	b := c.table.add(blockKey{o.reader.object, index}, costOf(length), time.Now())
	ctx, cancel := context.WithCancel(c.ctx)
	b.fetch = blockFetch{data: c.buffer(length), progress: make(chan struct{}), cancel: cancel}
	if isAhead {
		c.flights++
	}
	c.wg.Go(func() {
		defer cancel()
		err := c.fill(ctx, b, o.root, &o.info.objectInfo, index*c.table.blockSize, nil)
		c.mu.Lock()
		defer c.mu.Unlock()
		if isAhead {
			c.flights--
		}
		c.finish(b, o.root, o.info.objectInfo, err)
	})
	return b
}

// finish records the end of a fetch. The lock must be held.
func (c *Cache) finish(b *block, r *remote, info objectInfo, err error) {
	b.fetch.err = err
	c.table.finish(b, err == nil, time.Now())
	switch {
	case b.state == blockDropped:
		c.dispose(b)
	case b.key.index == 0:
		c.latest[nameKey{r, info.name}] = info
	}
	b.wake()
	c.signalRoom()
}

// wake wakes the reads that wait for bytes of a block. The lock of the cache must be held.
func (b *block) wake() {
	close(b.fetch.progress)
	b.fetch.progress = make(chan struct{})
}

// cancelAll ends fetches that no reader wants. The lock must be held.
func (c *Cache) cancelAll(abandoned []*block) {
	for _, b := range abandoned {
		b.fetch.cancel()
	}
}

// fill fetches the bytes of a block, which begin at an offset. body is an answer that has them, or
// nil. An answer that breaks off is repeated from there on.
func (c *Cache) fill(
	ctx context.Context, b *block, r *remote, info *objectInfo, start int64, body io.ReadCloser,
) error {
	policy := backoff.Policy{Min: 100 * time.Millisecond, Max: 2 * time.Second, Random: rand.Float64}
	failures, end := 0, start+int64(len(b.fetch.data))
	for b.fetch.filled < len(b.fetch.data) {
		before := b.fetch.filled // only this goroutine changes it
		err := c.receive(ctx, b, r, info, start+int64(before), end, body)
		body = nil
		switch {
		case err == nil:
			return nil
		case ctx.Err() != nil:
			return fs.ErrClosed
		case errors.Is(err, fs.ErrNotExist): // it was there when the object was opened
			return disk.ErrChanged
		case !errors.Is(err, errBroken):
			return err
		case b.fetch.filled > before:
			failures = 0
		}
		if failures++; failures > maxBodyFailures {
			return &Unavailable{Root: r.store.describe(), Err: err}
		}
		delay := time.NewTimer(policy.Delay(failures))
		select {
		case <-delay.C:
		case <-ctx.Done():
			delay.Stop()
			return fs.ErrClosed
		}
	}
	return nil
}

// errBroken marks the error of an answer that broke off.
var errBroken = errors.New("the store's answer broke off")

// receive requests bytes of a block and receives them.
func (c *Cache) receive(
	ctx context.Context, b *block, r *remote, info *objectInfo, start, end int64, body io.ReadCloser,
) (err error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	if body == nil {
		var now objectInfo
		body, now, err = r.store.get(ctx, info.name, info, start, end)
		if err != nil {
			return err
		}
		if now.size != info.size || now.identity() != info.identity() {
			body.Close()
			return disk.ErrChanged
		}
	}
	defer body.Close()
	// A read may block for as long as the server keeps the connection.
	stalled := time.AfterFunc(stallTimeout, func() {
		cancel(errStalled)
		body.Close()
	})
	defer stalled.Stop()
	data := b.fetch.data
	for filled := b.fetch.filled; filled < len(data); {
		n, err := io.ReadAtLeast(body, data[filled:], min(notifySize, len(data)-filled))
		if n > 0 {
			stalled.Reset(stallTimeout)
			filled += n
			c.mu.Lock()
			b.fetch.filled = filled
			b.mustArrive = b.mustArrive || filled == len(data) // it has
			c.fetched += int64(n)
			if b.pins > 0 {
				b.wake()
			}
			c.mu.Unlock()
		}
		if err != nil && filled < len(data) {
			return errors.Join(errBroken, err)
		}
	}
	return nil
}

// acquire returns the block of an object with an index, pinned, when its bytes before need are
// there. It begins to read ahead.
func (c *Cache) acquire(o *object, index int64, need int) (*block, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if o.ctx.Err() != nil {
		return nil, fs.ErrClosed
	}
	key := blockKey{o.reader.object, index}
	c.cancelAll(o.reader.prepare(index))
	hasRoom, err := c.awaitRoom(o.ctx, key, costOf(c.table.blockLength(o.info.size, index)))
	if err != nil {
		return nil, err
	}
	b := c.table.blocks[key]
	if hasRoom {
		b = c.start(o, index, false)
	}
	c.table.pin(b)
	c.readAhead(o, o.reader.reach(b, b.fetch.filled < need, time.Now()))
	for b.fetch.filled < need && b.fetch.err == nil && o.ctx.Err() == nil {
		progress := b.fetch.progress
		c.mu.Unlock()
		select {
		case <-progress:
		case <-o.ctx.Done():
		}
		c.mu.Lock()
	}
	switch {
	case o.ctx.Err() != nil:
		err = fs.ErrClosed
	case b.fetch.filled < need:
		err = b.fetch.err
	default:
		return b, nil
	}
	c.unpin(b)
	return nil, err
}

// unpin ends a read from a block. The lock must be held.
func (c *Cache) unpin(b *block) {
	if c.table.unpin(b) {
		b.fetch.cancel()
	}
	if b.pins == 0 {
		c.signalRoom()
	}
}

// release is unpin without the lock.
func (c *Cache) release(b *block) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.unpin(b)
}

// readAhead fetches what is to be read next at a position. The lock must be held.
func (c *Cache) readAhead(o *object, p *position) {
	for c.flights < maxFlights && c.waiting == 0 {
		index, ok := o.reader.next(p)
		if !ok {
			return
		}
		b := c.table.blocks[blockKey{o.reader.object, index}]
		switch {
		case b != nil && !c.table.mayHoldAhead(b):
			c.expire(time.Now())
			return
		case b == nil && !c.makeRoom(costOf(c.table.blockLength(o.info.size, index)), true):
			c.expire(time.Now())
			return
		case b == nil:
			b = c.start(o, index, true)
		}
		o.reader.extend(p, b)
	}
}

// expire ends the holds of readers that do not read. The lock must be held.
func (c *Cache) expire(now time.Time) {
	if now.Sub(c.expired) < time.Second {
		return
	}
	c.expired = now
	for r := range c.readers {
		if r.ahead > 0 && now.Sub(r.used) >= idleTimeout {
			c.cancelAll(r.close())
		}
	}
}
