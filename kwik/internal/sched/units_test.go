package sched

import (
	"math"
	"slices"
	"testing"
)

func TestNewUnits(t *testing.T) {
	for _, tt := range []struct {
		name             string
		total, alignment uint64
		segments         []uint64
		ok               bool
	}{
		{"one byte", 1, 0, nil, true},
		{"no byte", 0, 0, nil, false},
		{"the largest stream", MaxStreamSize, 1, nil, true},
		{"a byte more", MaxStreamSize + 1, 1, nil, false},
		{"more than an int64", math.MaxUint64, 1, nil, false},
		{"the largest unit", 10, MaxUnit, nil, true},
		{"a byte more in a unit", 10, MaxUnit + 1, nil, false},
		{"one segment of all", 10, 4, []uint64{10}, true},
		{"one segment of less", 10, 4, []uint64{9}, false},
		{"one segment of more", 10, 4, []uint64{11}, false},
		{"two segments", 10, 4, []uint64{3, 7}, true},
		{"two that are less", 10, 4, []uint64{3, 6}, false},
		{"two that are more", 10, 4, []uint64{3, 8}, false},
		{"the most segments", MaxSegments, 1, slices.Repeat([]uint64{1}, MaxSegments), true},
		{"one segment too many", MaxSegments + 1, 1, slices.Repeat([]uint64{1}, MaxSegments+1), false},
		{"an empty segment", 10, 4, []uint64{10, 0}, false},
		{"an empty segment in front", 10, 4, []uint64{0, 10}, false},
		{"a sum that overflows", 10, 4, []uint64{math.MaxUint64, 11}, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			u, err := NewUnits(tt.total, tt.alignment, tt.segments)
			if (err == nil) != tt.ok {
				t.Fatalf("error %v", err)
			}
			if got := u.Segments(); err == nil && len(tt.segments) > 1 && !slices.Equal(got, tt.segments) {
				t.Errorf("segments %v, want %v", got, tt.segments)
			}
		})
	}
}

// slowBoundaries lists every unit boundary of a stream.
func slowBoundaries(size int64, segments ...int64) (all []int64) {
	start := int64(0)
	for _, n := range segments {
		for off := start; off < start+n; off += size {
			all = append(all, off)
		}
		start += n
	}
	return append(all, start)
}

func checkUnits(t *testing.T, size int64, segments ...int64) {
	t.Helper()
	total, wire := int64(0), []uint64(nil)
	for _, n := range segments {
		total += n
		wire = append(wire, uint64(n))
	}
	u, err := NewUnits(uint64(total), uint64(size), wire)
	if err != nil {
		t.Fatal(err)
	}
	boundaries := slowBoundaries(size, segments...)
	for off := int64(-2); off <= total+2; off++ {
		clipped := min(max(off, 0), total)
		i, is := slices.BinarySearch(boundaries, clipped)
		ceil, floor := boundaries[i], boundaries[i]
		if !is {
			floor = boundaries[i-1]
		}
		if got := u.Floor(off); got != floor {
			t.Errorf("size %d of %v: floor(%d) = %d, want %d", size, segments, off, got, floor)
		}
		if got := u.Ceil(off); got != ceil {
			t.Errorf("size %d of %v: ceil(%d) = %d, want %d", size, segments, off, got, ceil)
		}
		if got, want := u.IsBoundary(off), is && off == clipped; got != want {
			t.Errorf("size %d of %v: isBoundary(%d) = %v", size, segments, off, got)
		}
	}
	for i, off := range boundaries[:len(boundaries)-1] {
		for j, limit := range boundaries[i+1:] {
			for most := range limit - off + 2 {
				want := boundaries[i+1] // one unit at least
				for _, end := range boundaries[i+1 : i+j+2] {
					if end-off <= most {
						want = end
					}
				}
				if got := u.Cut(off, most, limit); got != want {
					t.Errorf("size %d of %v: cut(%d, %d, %d) = %d, want %d", size, segments, off, most, limit, got, want)
				}
			}
		}
	}
}

func TestUnits(t *testing.T) {
	for _, segments := range [][]int64{{1}, {2}, {7}, {8}, {9}, {16}, {17}, {1, 1}, {8, 8}, {7, 9}, {9, 7}, {1, 8, 1}, {3, 3, 3, 20, 1}} {
		for _, size := range []int64{1, 2, 3, 7, 8, 9, 100} {
			checkUnits(t, size, segments...)
		}
	}
}

func TestUnitsOfTheLargestStream(t *testing.T) {
	u, err := NewUnits(MaxStreamSize, MaxUnit, nil)
	if err != nil {
		t.Fatal(err)
	}
	const last = MaxStreamSize / MaxUnit * MaxUnit
	for off, want := range map[int64][2]int64{
		last - 1:          {last - MaxUnit, last},
		last:              {last, last},
		last + 1:          {last, MaxStreamSize},
		MaxStreamSize:     {MaxStreamSize, MaxStreamSize},
		MaxStreamSize + 1: {MaxStreamSize, MaxStreamSize},
		math.MaxInt64:     {MaxStreamSize, MaxStreamSize},
		math.MinInt64:     {0, 0},
	} {
		if got := [2]int64{u.Floor(off), u.Ceil(off)}; got != want {
			t.Errorf("floor and ceil of %d: %d, want %d", off, got, want)
		}
	}
	if got := u.Cut(0, math.MaxInt64, MaxStreamSize); got != MaxStreamSize {
		t.Errorf("cut %d", got)
	}
	if got := u.Cut(last-MaxUnit, MaxUnit, MaxStreamSize); got != last {
		t.Errorf("cut %d", got)
	}
}

func FuzzUnits(f *testing.F) {
	f.Add(uint8(4), []byte{3, 9, 1})
	f.Fuzz(func(t *testing.T, size uint8, lengths []byte) {
		var segments []int64
		for _, n := range lengths[:min(len(lengths), 6)] {
			if n > 0 {
				segments = append(segments, int64(n%24)+1)
			}
		}
		if len(segments) > 0 {
			checkUnits(t, max(1, int64(size)), segments...)
		}
	})
}
