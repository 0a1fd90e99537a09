package integrity

import (
	"testing"

	"lukechampine.com/blake3/guts"
)

// Files over 4 TiB have chunk counters of more than 32 bits.
func TestSubtreeAtHighChunks(t *testing.T) {
	data := pattern(64 << 10)
	for _, first := range []chunkNum{1 << 32, 1<<32 - 64, 1 << 52, 1<<53 - 64} {
		for _, n := range []int{1, 1024, 1025, 16 << 10, 16<<10 + 1, 40_000, 64 << 10} {
			if got, want := nodeCV(subtreeNode(data[:n], first)), refHash(data[:n], uint64(first), 0); got != want {
				t.Errorf("%d bytes at chunk %d: %x, want %x", n, first, got, want)
			}
		}
	}
}

func TestLeftLeaves(t *testing.T) {
	for n := 2; n < 2000; n++ {
		if got := leftLeaves(int64(n)); got != int64(refSplit(n)) {
			t.Errorf("leftLeaves(%d) = %d, want %d", n, got, refSplit(n))
		}
	}
}

// BenchmarkGuts measures the library on one core without the tree: the upper limit
// of BenchmarkVerify.
func BenchmarkGuts(b *testing.B) {
	data := pattern(16 << 20)
	b.SetBytes(int64(len(data)))
	for b.Loop() {
		for off := 0; off < len(data); off += laneBytes {
			guts.CompressBuffer((*[laneBytes]byte)(data[off:]), laneBytes, &guts.IV, uint64(off/chunkSize), 0)
		}
	}
}
