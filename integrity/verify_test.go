package integrity

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
)

func isGroupError(err error, off, length int64) bool {
	var ge *GroupError
	return errors.As(err, &ge) && *ge == GroupError{Offset: off, Length: length}
}

func TestVerifyEveryRange(t *testing.T) {
	for _, g := range []GroupSize{0, 3, 4, 5} {
		unit := int(g.Bytes())
		for _, size := range []int{1, unit - 1, unit, unit + 1, 4*unit + 100, 5 * unit} {
			data := pattern(size)
			tree := build(t, data, g)
			for from := 0; from < size; from += unit {
				for to := from; to < size; {
					to = min(to+unit, size)
					if err := tree.Verify(int64(from), slices.Clip(data[from:to])); err != nil {
						t.Errorf("group size %d, [%d,%d) of %d: %v", g, from, to, size, err)
					}
				}
			}
		}
	}
	if err := build(t, nil, 6).Verify(0, nil); err != nil {
		t.Errorf("empty file: %v", err)
	}
}

func TestVerifyRefusesEveryBitFlip(t *testing.T) {
	for _, c := range []struct {
		g    GroupSize
		size int64
	}{{0, 700}, {0, 4*1024 + 100}, {1, 4*2048 + 1100}} { // one group, and five with a ragged tail
		data := pattern(int(c.size))
		tree := build(t, data, c.g)
		for i := range 8 * c.size {
			data[i/8] ^= 1 << (i % 8)
			first := i / 8 / c.g.Bytes() * c.g.Bytes()
			length := min(c.g.Bytes(), c.size-first)
			if err := tree.Verify(0, data); !isGroupError(err, first, length) {
				t.Fatalf("group size %d, bit %d of byte %d: %v", c.g, i%8, i/8, err)
			}
			data[i/8] ^= 1 << (i % 8)
		}
		if err := tree.Verify(0, data); err != nil {
			t.Fatal(err)
		}
	}
}

func TestVerifyNamesTheFirstBadGroup(t *testing.T) {
	data := pattern(5*1024 - 1)
	tree := build(t, data, 0)
	for _, i := range []int{4 * 1024, 3*1024 + 1023, 2 * 1024} { // from the last on down
		data[i]++
		group := int64(i / 1024 * 1024)
		err := tree.Verify(1024, data[1024:])
		if !isGroupError(err, group, min(1024, int64(len(data))-group)) {
			t.Errorf("byte %d: %v", i, err)
		}
	}
	if err := tree.Verify(0, data[:2048]); err != nil {
		t.Errorf("groups before the bad ones: %v", err)
	}
	// True bytes at the wrong offset are refused.
	if err := tree.Verify(0, data[1024:2048]); !isGroupError(err, 0, 1024) {
		t.Errorf("group 1 in place of group 0: %v", err)
	}
}

func TestVerifyMisuse(t *testing.T) {
	data := pattern(10_000)
	check := func(size int, off int64, n int) {
		t.Helper()
		err := build(t, data[:size], 1).Verify(off, data[:n])
		var ge *GroupError
		if err == nil || errors.As(err, &ge) {
			t.Errorf("%d bytes at %d of %d: %v", n, off, size, err)
		}
	}
	const size = 4*2048 + 100
	for _, off := range []int64{-1, -2048, 1, 1024, 2047, size, size + 1, 5 * 2048, 1 << 62, -1 << 63} {
		for _, n := range []int{0, 100, 2048} {
			check(size, off, n)
		}
	}
	for _, n := range []int{0, 1, 1024, 2047, 2049, size - 1, size + 1} {
		check(size, 0, n)
	}
	for _, n := range []int{0, 99, 101, 2048} {
		check(size, 4*2048, n)
	}
	check(2048, 2048, 0)
	check(1, 0, 0)
	check(0, 0, 1)
	check(0, 1, 0)
	check(0, -1, 0)
}

// guts takes 16 KiB arrays only. Verify must not pass it memory beyond the end of p.
// Here p has no capacity beyond its length.
func TestVerifyExactCapacity(t *testing.T) {
	sizes := []int{1, 1024, 1025, 15 * 1024, 16*1024 - 1, 16*1024 + 1, 31*1024 + 5, 64*1024 - 1, 64*1024 + 3000}
	for _, n := range sizes {
		p := make([]byte, n)
		copy(p, pattern(n))
		if err := build(t, p, 6).Verify(0, slices.Clip(p)); err != nil {
			t.Errorf("%d bytes: %v", n, err)
		}
	}
}

func TestVerifyAllocatesNothing(t *testing.T) {
	for _, n := range []int{0, 1, 1024, 5000, 64 << 10, 64<<10 + 1, 300_001} {
		for _, g := range testGroupSizes {
			data := pattern(n)
			tree := build(t, data, g)
			if got := testing.AllocsPerRun(20, func() {
				if err := tree.Verify(0, data); err != nil {
					t.Error(err)
				}
			}); got != 0 {
				t.Errorf("%d bytes, group size %d: %v allocations", n, g, got)
			}
		}
	}
}

func TestVerifyConcurrently(t *testing.T) {
	data := pattern(2<<20 + 12345)
	tree := build(t, data, 4)
	bad := bytes.Clone(data)
	bad[len(bad)-1]++
	last := int64(len(data)-1) / tree.g.Bytes() * tree.g.Bytes()
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			if err := tree.Verify(0, data); err != nil {
				t.Error(err)
			}
			if err := tree.Verify(last, bad[last:]); !isGroupError(err, last, tree.size-last) {
				t.Error(err)
			}
			if _, err := FromCVs(tree.Size(), tree.GroupSize(), tree.CVs(), tree.Root()); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
}

func FuzzVerify(f *testing.F) {
	f.Add([]byte{}, uint8(0), int64(0), 0, 0)
	f.Add([]byte("abc"), uint8(6), int64(0), 3, 1)
	f.Add(pattern(5000), uint8(0), int64(1024), 2048, 1500)
	f.Add(pattern(5000), uint8(1), int64(4096), 904, 4999)
	f.Add(pattern(5000), uint8(1), int64(-1<<63), 904, 4999)
	f.Fuzz(func(t *testing.T, data []byte, g uint8, off int64, n, flip int) {
		g %= 11
		size, unit := int64(len(data)), int64(1024)<<g
		tree := build(t, data, GroupSize(g))
		if !equal(tree, refTree(data, g)) {
			t.Fatalf("%d bytes, group size %d: not the reference's tree", size, g)
		}
		p := make([]byte, min(max(n, 0), len(data)+1))
		if off >= 0 && off < size {
			copy(p, data[off:])
		}
		end := off + int64(len(p))
		within := off >= 0 && end > off && end <= size
		wholeGroups := off%unit == 0 && (end%unit == 0 || end == size)
		emptyFile := size == 0 && off == 0 && len(p) == 0
		right := within && wholeGroups || emptyFile
		err := tree.Verify(off, p)
		if right != (err == nil) {
			t.Fatalf("%d bytes at %d of %d, group size %d: %v", len(p), off, size, g, err)
		}
		var ge *GroupError
		if errors.As(err, &ge) {
			t.Fatalf("%d bytes at %d of %d, group size %d: true bytes or misuse gave %v", len(p), off, size, g, err)
		}
		if !right || len(p) == 0 {
			return
		}
		i := int64(uint(flip) % uint(len(p)))
		p[i] ^= byte(flip) | 1
		first := (off + i) / unit * unit
		if err := tree.Verify(off, p); !isGroupError(err, first, min(unit, size-first)) {
			t.Fatalf("%d bytes at %d of %d, group size %d, byte %d wrong: %v", len(p), off, size, g, i, err)
		}
	})
}

func BenchmarkVerify(b *testing.B) {
	data := pattern(16 << 20)
	for _, g := range []GroupSize{0, 2, 4, 6, 10} {
		b.Run(fmt.Sprintf("group=%dKiB", g.Bytes()>>10), func(b *testing.B) {
			tree := build(b, data, g)
			b.SetBytes(int64(len(data)))
			b.ReportAllocs()
			for b.Loop() {
				if err := tree.Verify(0, data); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
