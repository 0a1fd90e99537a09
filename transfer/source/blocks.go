package source

import (
	"container/list"
	"time"
)

// This file decides which blocks a cache holds. It has no goroutine, clock or lock: its owner has
// them.

const (
	// blockSize is the size of the blocks of a Cache, in bytes; the last one of an object is
	// shorter. A request of 4 MiB costs a store little beside its bytes. Eight of them at once
	// fill a line that is 30 ms long.
	blockSize = 4 << 20
	// minBlockCost is the least that a block counts, in bytes: it has an entry in the tables.
	minBlockCost = 4 << 10
)

// A blockKey identifies a block: its object and its number in it.
type blockKey struct {
	object objectKey
	index  int64
}

// A blockState is where a block is in its life.
type blockState int

const (
	blockFetching blockState = iota
	blockComplete
	// blockAbandoned is being fetched, but no longer wanted. It is not in the table, and counts
	// until the fetch has ended.
	blockAbandoned
	blockDropped // no longer in the cache
)

// A block is a part of an object in a cache.
type block struct {
	key   blockKey
	state blockState
	cost  int64 // bytes that count in the table
	// holders are the positions of readers that read it or will. Their block stays, unless a read
	// finds no other room.
	holders int
	// ahead counts those of the holders that have not read from it yet.
	ahead int
	// pins are the reads that wait for bytes of it, or copy them. Their block stays.
	pins int
	// mustArrive is set if the block is fetched to its end although no reader wants it now. It is
	// the answer to an open, whose object is read soon, or all its bytes are there already.
	mustArrive bool

	began time.Time     // the fetch
	took  time.Duration // the fetch, of a complete block
	queue *list.List    // the one of the table in which it is; nil if it must stay
	place *list.Element

	fetch blockFetch // belongs to the owner of the table
}

// A blockTable holds the blocks of a cache.
type blockTable struct {
	blockSize int64 // bytes
	limit     int64 // bytes of all blocks, with those that are fetched
	used      int64
	ahead     int64 // of these, the bytes of blocks with readers ahead

	readersAhead int // readers with blocks ahead

	blocks map[blockKey]*block
	idle   list.List // complete blocks without holders, the least recently used first
	held   list.List // complete blocks with holders and without pins, in the same order
}

func newBlockTable(blockSize, limit int64) *blockTable {
	return &blockTable{blockSize: blockSize, limit: max(limit, 2*blockSize), blocks: make(map[blockKey]*block)}
}

// blockLength returns the number of bytes in a block of an object.
func (t *blockTable) blockLength(size, index int64) int64 {
	return min(t.blockSize, size-index*t.blockSize)
}

// costOf returns what a block of some bytes counts.
func costOf(bytes int64) int64 { return max(bytes, minBlockCost) }

// maxAhead returns how many bytes may be read ahead by all readers together. The other half is for
// the blocks that readers read from. So with two blocks for each reader none is dropped before its
// reader has read it.
func (t *blockTable) maxAhead() int64 { return t.limit / 2 }

// mayHoldAhead reports whether one more reader may have a block of the table ahead.
func (t *blockTable) mayHoldAhead(b *block) bool {
	return b.ahead > 0 || t.ahead+b.cost <= t.maxAhead()
}

// makeRoom drops blocks until one more of a cost fits, and returns them. It reports whether that
// succeeded. Reading ahead drops no block that has a holder.
func (t *blockTable) makeRoom(cost int64, isAhead bool) (dropped []*block, ok bool) {
	if isAhead && t.ahead+cost > t.maxAhead() {
		return nil, false
	}
	for t.used+cost > t.limit {
		oldest := t.idle.Front()
		if oldest == nil && !isAhead {
			oldest = t.held.Front()
		}
		if oldest == nil {
			return dropped, false
		}
		b := oldest.Value.(*block)
		t.drop(b)
		dropped = append(dropped, b)
	}
	return dropped, true
}

// add adds a block that is about to be fetched. There must be room. The caller pins or holds it.
// A zero key keeps it out of the table until name.
func (t *blockTable) add(key blockKey, cost int64, now time.Time) *block {
	b := &block{key: key, cost: cost, began: now}
	t.used += cost
	if key != (blockKey{}) {
		t.blocks[key] = b
	}
	return b
}

// name gives a block without one its key, and its cost, which must not be more than it was. It
// reports false, and abandons the block, if the table has one with this key.
func (t *blockTable) name(b *block, key blockKey, cost int64) bool {
	if t.blocks[key] != nil {
		b.state = blockAbandoned
		return false
	}
	t.used += cost - b.cost
	b.key, b.cost = key, cost
	t.blocks[key] = b
	return true
}

// finish records that the fetch of a block ended. A block that failed is dropped.
func (t *blockTable) finish(b *block, isComplete bool, now time.Time) {
	if b.state != blockFetching || !isComplete {
		t.drop(b)
		return
	}
	b.state, b.took = blockComplete, now.Sub(b.began)
	t.enqueue(b)
}

// drop removes a block, whoever holds it.
func (t *blockTable) drop(b *block) {
	t.dequeue(b)
	if t.blocks[b.key] == b {
		delete(t.blocks, b.key)
	}
	t.used -= b.cost
	if b.ahead > 0 && b.state != blockAbandoned {
		t.ahead -= b.cost
	}
	b.state = blockDropped
}

// pin keeps a block until unpin.
func (t *blockTable) pin(b *block) {
	b.pins++
	t.enqueue(b)
}

// unpin reports whether the fetch of the block is to end, because no reader wants it.
func (t *blockTable) unpin(b *block) (isAbandoned bool) {
	b.pins--
	return t.released(b)
}

// hold keeps a block for a position of a reader, until unhold.
func (t *blockTable) hold(b *block, isAhead bool) {
	b.holders++
	if isAhead {
		if b.ahead++; b.ahead == 1 {
			t.ahead += b.cost
		}
	}
	t.enqueue(b)
}

// unhold ends a hold. It reports what unpin does.
func (t *blockTable) unhold(b *block, isAhead bool) (isAbandoned bool) {
	b.holders--
	if isAhead {
		t.arrive(b)
	}
	return t.released(b)
}

// arrive records that a reader which held the block ahead has reached it, and holds it still.
func (t *blockTable) arrive(b *block) {
	b.ahead--
	if isCounted := b.state == blockFetching || b.state == blockComplete; b.ahead == 0 && isCounted {
		t.ahead -= b.cost
	}
}

// released puts a block where it may be dropped, if it may.
func (t *blockTable) released(b *block) (isAbandoned bool) {
	if b.state == blockFetching && b.pins == 0 && b.holders == 0 && !b.mustArrive {
		delete(t.blocks, b.key)
		b.state = blockAbandoned
		return true
	}
	t.enqueue(b)
	return false
}

// enqueue puts a complete block at the end of the queue in which it belongs.
func (t *blockTable) enqueue(b *block) {
	t.dequeue(b)
	switch {
	case b.state != blockComplete || b.pins > 0:
		return
	case b.holders > 0:
		b.queue = &t.held
	default:
		b.queue = &t.idle
	}
	b.place = b.queue.PushBack(b)
}

func (t *blockTable) dequeue(b *block) {
	if b.queue != nil {
		b.queue.Remove(b.place)
		b.queue, b.place = nil, nil
	}
}
