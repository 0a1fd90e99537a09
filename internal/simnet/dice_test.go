package simnet

import (
	"fmt"
	"hash/fnv"
	"testing"
)

// TestDiceSequence holds the sequence of draws: recorded seeds keep their meaning only while
// it stays.
func TestDiceSequence(t *testing.T) {
	h := fnv.New64a()
	for seed := range uint64(1000) {
		link := NewDice(seed, 1).Links()
		for range 3 {
			l := link()
			fmt.Fprintf(h, "%.6g %.6g %.6g %.6g %.6g %.6g %.6g\n",
				l.Latency.Seconds(), l.Jitter.Seconds(), l.Rate, l.Loss, l.Reorder, l.Duplicate, l.Flip)
		}
	}
	const want = 0x834ef4e3365241ae
	if got := h.Sum64(); got != want {
		t.Errorf("1,000 seeds draw links of hash %#x, want %#x", got, uint64(want))
	}
}
