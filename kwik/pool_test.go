package kwik

import (
	"sync"
	"testing"
)

func TestBlockSizes(t *testing.T) {
	for n, class := range map[int]int{
		1: 0, 64<<10 - 1: 0, 64 << 10: 0, 64<<10 + 1: 1,
		256<<10 - 1: 1, 256 << 10: 1, 256<<10 + 1: 2,
		maxDataPayload - 1: 2, maxDataPayload: 2,
	} {
		b := newBlock(n)
		if len(b.data) != n || b.class != class || len(b.room) != blockHeadroom+blockSizes[class] || &b.room[blockHeadroom] != &b.data[0] {
			t.Errorf("block of %d: %d bytes, class %d, room %d", n, len(b.data), b.class, len(b.room))
		}
		b.release()
	}
}

func TestBlockHolders(t *testing.T) {
	held := blocksHeld.Load()
	b := newBlock(1)
	b.hold()
	b.release()
	if n := blocksHeld.Load(); n != held+1 {
		t.Errorf("%d blocks are held, want %d", n, held+1)
	}
	if n := b.holders.Load(); n != 1 {
		t.Errorf("%d holders", n)
	}
	b.release()
	defer func() {
		if recover() == nil {
			t.Error("a block was released twice without a panic")
		}
	}()
	b.holders.Store(0) // whoever got it from the pool meanwhile has released it, too
	b.release()
}

// The last of many holders gives a block back, and nobody gets it before.
func TestBlockIsNotReusedEarly(t *testing.T) {
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			for range 200 {
				b := newBlock(100)
				b.hold()
				for j := range b.data {
					b.data[j] = byte(i)
				}
				wg.Go(b.release)
				for _, x := range b.data {
					if x != byte(i) {
						t.Error("somebody else wrote to a block that is held")
						break
					}
				}
				b.release()
			}
		})
	}
	wg.Wait()
}
