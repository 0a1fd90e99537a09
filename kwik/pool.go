package kwik

import (
	"sync"
	"sync/atomic"
)

// blockSizes are the sizes, in bytes, in which payload is held between a secondary stream and its place. The usual
// DATA frame fills one of the middle size.
var blockSizes = [...]int{64 << 10, 256 << 10, maxDataPayload}

var blockPools [len(blockSizes)]sync.Pool

// blocksHeld is how many blocks have a holder, in the whole process: 0 when nothing is under way. Tests check it.
var blocksHeld atomic.Int64

// A block is a pooled buffer that holds the payload of one DATA frame. Its holders count: the last one to release it
// returns it to its pool.
type block struct {
	room    []byte // the whole buffer: blockHeadroom bytes, then what data is a part of
	data    []byte // the payload
	class   int
	pooled  bool // made by newBlock
	holders atomic.Int32
}

// newBlock returns a block of n bytes, 0 < n <= maxDataPayload, with one holder.
func newBlock(n int) *block {
	class := 0
	for n > blockSizes[class] {
		class++
	}
	b, ok := blockPools[class].Get().(*block)
	if !ok {
		b = &block{room: make([]byte, blockHeadroom+blockSizes[class]), class: class, pooled: true}
	}
	b.data = b.room[blockHeadroom : blockHeadroom+n]
	b.holders.Store(1)
	blocksHeld.Add(1)
	return b
}

// hold adds a holder.
func (b *block) hold() { b.holders.Add(1) }

// release gives the block up; the caller must not touch it afterwards.
func (b *block) release() {
	switch left := b.holders.Add(-1); {
	case left == 0 && b.pooled:
		blocksHeld.Add(-1)
		blockPools[b.class].Put(b)
	case left < 0:
		panic("kwik: internal error: block released twice")
	}
}
