package integrity

import (
	"math"
	"testing"
)

func TestGroupSizeFor(t *testing.T) {
	const gib = 1 << 30
	for _, c := range []struct {
		size int64
		want GroupSize
	}{
		{math.MinInt64, 6}, {-1, 6}, {0, 6}, {1, 6}, {4*gib - 1, 6}, {4 * gib, 6},
		{4*gib + 1, 7}, {8 * gib, 7}, {8*gib + 1, 8}, {16 * gib, 8}, {16*gib + 1, 9}, {32 * gib, 9},
		{32*gib + 1, 10}, {64 * gib, 10}, {64*gib + 1, 10}, {math.MaxInt64, 10},
	} {
		got := GroupSizeFor(c.size)
		if got != c.want {
			t.Errorf("GroupSizeFor(%d) = %d, want %d", c.size, got, c.want)
		}
		if n := got.Groups(c.size); n > 65536 && got != maxGroupSize {
			t.Errorf("GroupSizeFor(%d): %d groups", c.size, n)
		}
	}
}

func TestGroups(t *testing.T) {
	for g := GroupSize(0); g.Valid(); g++ {
		unit := int64(1024) << g
		if g.Bytes() != unit {
			t.Fatalf("GroupSize(%d).Bytes() = %d", g, g.Bytes())
		}
		for size, want := range map[int64]int64{
			math.MinInt64: 0, -1: 0, 0: 0, 1: 1,
			unit - 1: 1, unit: 1, unit + 1: 2, 5*unit - 1: 5, 5 * unit: 5, 5*unit + 1: 6,
			math.MaxInt64: 1 << (53 - g),
		} {
			if got := g.Groups(size); got != want {
				t.Errorf("GroupSize(%d).Groups(%d) = %d, want %d", g, size, got, want)
			}
		}
		for n := range groupNum(5) {
			first, last := n.offset(g), n.offset(g)+unit-1
			if first != int64(n)*unit || n.firstChunk(g).offset() != first {
				t.Errorf("group %d of size %d: starts at %d, its first chunk at %d",
					n, g, first, n.firstChunk(g).offset())
			}
			if g.groupAt(first) != n || g.groupAt(last) != n {
				t.Errorf("group %d of size %d: bytes %d to %d are in groups %d to %d",
					n, g, first, last, g.groupAt(first), g.groupAt(last))
			}
		}
	}
	if GroupSize(11).Valid() || GroupSize(255).Valid() {
		t.Error("group sizes above 1 MiB are valid")
	}
}

func TestCover(t *testing.T) {
	for g := GroupSize(0); g.Valid(); g++ {
		unit := g.Bytes()
		for _, c := range []struct{ start, end, size, coverStart, coverEnd int64 }{
			{0, 1, 1, 0, 1},
			{0, 1, unit, 0, unit},
			{unit - 1, unit, 3 * unit, 0, unit},
			{unit - 1, unit + 1, 3 * unit, 0, 2 * unit},
			{unit, unit + 1, 3 * unit, unit, 2 * unit},
			{2*unit - 1, 2 * unit, 2*unit + 1, unit, 2 * unit},
			{2 * unit, 2*unit + 1, 2*unit + 1, 2 * unit, 2*unit + 1},
			{1, 5 * unit, 5*unit + 7, 0, 5 * unit},
			{0, math.MaxInt64, math.MaxInt64, 0, math.MaxInt64},
			{math.MaxInt64 - 1, math.MaxInt64, math.MaxInt64, math.MaxInt64 / unit * unit, math.MaxInt64},
		} {
			if start, end := g.Cover(c.start, c.end, c.size); start != c.coverStart || end != c.coverEnd {
				t.Errorf("group size %d: [%d,%d) of %d is covered by [%d,%d), want [%d,%d)",
					g, c.start, c.end, c.size, start, end, c.coverStart, c.coverEnd)
			}
		}
	}
}
