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
		if len(b.data) != n || b.class != class {
			t.Errorf("block of %d: %d bytes, class %d", n, len(b.data), b.class)
		}
		if want := blockHeadroom + blockSizes[class]; len(b.room) != want {
			t.Errorf("block of %d: buffer of %d bytes, want %d", n, len(b.room), want)
		}
		if &b.room[blockHeadroom] != &b.data[0] {
			t.Errorf("block of %d: the payload does not follow the headroom", n)
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
	b.holders.Store(0) // even if the pool gave it to another test meanwhile
	b.release()
}

// A block returns to the pool with its last holder, and not before.
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
						t.Error("a block that has a holder was overwritten")
						break
					}
				}
				b.release()
			}
		})
	}
	wg.Wait()
}
