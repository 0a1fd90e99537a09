package kwik

import (
	"sync"
	"sync/atomic"
)

// blockSizes are the sizes of blocks, in bytes. The usual DATA frame fills a block of the middle
// size, a large unit of a local stream one of the last.
var blockSizes = [...]int{64 << 10, 256 << 10, maxDataPayload, MaxLocalUnit}

var blockPools [len(blockSizes)]sync.Pool

// blocksHeld is the number of blocks that have a holder, in the whole process. It is 0 when no
// transfer runs; tests check that.
var blocksHeld atomic.Int64

// A block is a pooled buffer with the payload of DATA frames. It counts its holders; the last one
// to release it returns it to its pool.
type block struct {
	room    []byte // the whole buffer: blockHeadroom bytes, then those of data
	data    []byte // the payload
	class   int
	pooled  bool // made by newBlock
	holders atomic.Int32
}

// newBlock returns a block of n bytes, 0 < n <= MaxLocalUnit, with one holder.
func newBlock(n int) *block {
	class := blockClass(n)
	b, ok := blockPools[class].Get().(*block)
	if !ok {
		b = &block{room: make([]byte, blockHeadroom+blockSizes[class]), class: class, pooled: true}
	}
	b.data = b.room[blockHeadroom : blockHeadroom+n]
	b.holders.Store(1)
	blocksHeld.Add(1)
	return b
}

// blockClass returns the class of blocks for n bytes.
func blockClass(n int) (class int) {
	for n > blockSizes[class] {
		class++
	}
	return class
}

// payloadSize returns the greatest payload that fits, in bytes.
func (b *block) payloadSize() int64 { return int64(len(b.room) - blockHeadroom) }

// hold adds a holder.
func (b *block) hold() { b.holders.Add(1) }

// release removes a holder, which must not use the block afterwards.
func (b *block) release() {
	switch left := b.holders.Add(-1); {
	case left == 0 && b.pooled:
		blocksHeld.Add(-1)
		blockPools[b.class].Put(b)
	case left < 0:
		panic("kwik: internal error: block released twice")
	}
}
