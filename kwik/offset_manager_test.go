package kwik

import (
	"fmt"
	"math/rand/v2"
	"testing"
)

func TestOffsetManagement(t *testing.T) {
	m := newOffsetManager(ConflictResolutionFirstWins)
	for _, tt := range []struct {
		name       string
		source     PathID
		start, end int64
		fresh      string
		next       int64
		conflicts  int
		wasted     int64
	}{
		{"nothing", "a", 0, 0, "[]", 0, 0, 0},
		{"ahead of the next offset", "a", 100, 200, "[[100,200)]", 0, 0, 0},
		{"the hole at the next offset", "b", 0, 100, "[[0,100)]", 200, 0, 0},
		{"the same again", "c", 0, 100, "[]", 200, 1, 100},
		{"the next byte", "a", 200, 201, "[[200,201)]", 201, 1, 100},
		{"a byte that was delivered", "b", 200, 201, "[]", 201, 2, 101},
		{"behind a hole", "a", 300, 310, "[[300,310)]", 201, 2, 101},
		{"behind another", "a", 320, 330, "[[320,330)]", 201, 2, 101},
		{"across both holes", "b", 290, 340, "[[290,300) [310,320) [330,340)]", 201, 3, 121},
		{"the rest", "b", 201, 290, "[[201,290)]", 340, 3, 121},
	} {
		fresh, _, _ := m.claim(tt.source, false, tt.start, tt.end)
		if got := fmt.Sprint(fresh); got != tt.fresh {
			t.Errorf("%s: fresh %v, want %v", tt.name, got, tt.fresh)
		}
		if got := m.sourceOffsets[tt.source]; m.next != tt.next || got != tt.end {
			t.Errorf("%s: next %d, want %d; source at %d, want %d", tt.name, m.next, tt.next, got, tt.end)
		}
		if m.conflicts != tt.conflicts || m.wasted != tt.wasted {
			t.Errorf("%s: conflicts %d, want %d; wasted %d, want %d", tt.name, m.conflicts, tt.conflicts, m.wasted, tt.wasted)
		}
	}
	if m.discard(340, 350); m.wasted != 131 || m.next != 340 {
		t.Errorf("discarded bytes: wasted %d, next %d", m.wasted, m.next)
	}
	m.consume(40)
	if m.consume(0); m.read != 40 {
		t.Errorf("read %d", m.read)
	}
}

// Every byte is claimed once, in any order of deliveries from any sources; the other bytes are
// wasted.
func TestOffsetsAreClaimedOnce(t *testing.T) {
	const size = 200
	for seed := range uint64(300) {
		random := rand.New(rand.NewPCG(seed, 0))
		m := newOffsetManager(ConflictResolutionFirstWins)
		var taken [size]bool
		var delivered, counted int64
		for range 40 {
			start := random.Int64N(size)
			end := start + random.Int64N(size-start+1)
			delivered += end - start
			last := start
			fresh, _, _ := m.claim("a", false, start, end)
			for _, r := range fresh {
				if r.Start < last || r.End > end || r.Empty() {
					t.Fatalf("seed %d: %v in [%d, %d)", seed, r, start, end)
				}
				for off := r.Start; off < r.End; off++ {
					if taken[off] {
						t.Fatalf("seed %d: byte %d was claimed twice", seed, off)
					}
					taken[off] = true
				}
				counted += r.Len()
				last = r.End
			}
			for off := start; off < end; off++ {
				if !taken[off] {
					t.Fatalf("seed %d: byte %d was not claimed", seed, off)
				}
			}
		}
		next := int64(0)
		for next < size && taken[next] {
			next++
		}
		if m.next != next || m.wasted != delivered-counted {
			t.Fatalf("seed %d: next %d, want %d; wasted %d of %d", seed, m.next, next, m.wasted, delivered-counted)
		}
	}
}
