package integrity

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"testing"
)

func wantProblem(t *testing.T, tree *Tree, err error, want Problem) {
	t.Helper()
	if tree != nil || !isProblem(err, want) {
		t.Errorf("got %v, %v; want problem %d", tree, err, want)
	}
}

func TestFromCVsRoundTrip(t *testing.T) {
	data := pattern(1<<20 + 1000)
	for _, g := range testGroupSizes {
		unit := int(g.Bytes())
		for _, n := range []int{0, 1, unit - 1, unit, unit + 1, 2 * unit, 3*unit - 1, 5*unit + 1, 8 * unit, len(data)} {
			made := build(t, data[:n], g)
			got, err := FromCVs(made.Size(), g, made.CVs(), made.Root())
			if err != nil || !equal(got, made) {
				t.Errorf("%d bytes, group size %d: %v", n, g, err)
				continue
			}
			if err := got.Verify(0, data[:n]); err != nil {
				t.Errorf("%d bytes, group size %d: %v", n, g, err)
			}
			wantLen := int(made.Groups()) * 32
			if made.Groups() < 2 {
				wantLen = 0
			}
			if len(made.CVs()) != wantLen {
				t.Errorf("%d bytes, group size %d: %d bytes of CVs for %d groups", n, g, len(made.CVs()), made.Groups())
			}
		}
	}
}

func TestTreeKeepsNoReference(t *testing.T) {
	data := pattern(5000)
	made := build(t, data, 0)
	cvs := made.CVs()
	tree, err := FromCVs(5000, 0, cvs, made.Root())
	if err != nil {
		t.Fatal(err)
	}
	clear(cvs)
	clear(tree.CVs())
	if !equal(tree, made) || tree.Verify(0, data) != nil {
		t.Error("a tree changed with a slice outside it")
	}
}

func TestFromCVsRefusesEveryBitFlip(t *testing.T) {
	for _, size := range []int{1025, 2048, 4*1024 + 100, 8 * 1024, 9*1024 - 1} {
		made := build(t, pattern(size), 0)
		cvs, root := made.CVs(), made.Root()
		for i := range 8 * len(cvs) {
			cvs[i/8] ^= 1 << (i % 8)
			tree, err := FromCVs(int64(size), 0, cvs, root)
			wantProblem(t, tree, err, BadRoot)
			cvs[i/8] ^= 1 << (i % 8)
		}
		for i := range 8 * len(root) {
			root[i/8] ^= 1 << (i % 8)
			tree, err := FromCVs(int64(size), 0, cvs, root)
			wantProblem(t, tree, err, BadRoot)
			root[i/8] ^= 1 << (i % 8)
		}
	}
	// The root of an empty file is the one root that needs no data.
	root := build(t, nil, 6).Root()
	for i := range 8 * len(root) {
		root[i/8] ^= 1 << (i % 8)
		tree, err := FromCVs(0, 6, nil, root)
		wantProblem(t, tree, err, BadRoot)
		root[i/8] ^= 1 << (i % 8)
	}
}

func TestFromCVsRefusesOtherOrder(t *testing.T) {
	made := build(t, pattern(5*1024), 0)
	for i := range 4 {
		cvs := made.CVs()
		other := bytes.Clone(cvs[32*i : 32*i+32])
		copy(cvs[32*i:], cvs[32*i+32:32*i+64])
		copy(cvs[32*i+32:], other)
		tree, err := FromCVs(5*1024, 0, cvs, made.Root())
		wantProblem(t, tree, err, BadRoot)
	}
}

func TestFromCVsRefusesBadShape(t *testing.T) {
	made := build(t, pattern(5*1024), 0)
	cvs, root := made.CVs(), made.Root()
	for _, c := range []struct {
		size int64
		g    GroupSize
		cvs  []byte
		want Problem
	}{
		{-1, 0, cvs, BadSize}, {math.MinInt64, 0, nil, BadSize}, {math.MinInt64, 10, cvs, BadSize},
		{5 * 1024, 11, cvs, BadGroupSize}, {5 * 1024, 255, cvs, BadGroupSize}, {1, 64, nil, BadGroupSize},
		{0, 0, cvs, BadLength}, {1, 0, cvs[:32], BadLength}, {1024, 0, cvs, BadLength},
		{1025, 0, nil, BadLength}, {1025, 0, cvs[:32], BadLength},
		{2048, 0, cvs[:63], BadLength}, {2048, 0, cvs[:65], BadLength},
		{5 * 1024, 0, nil, BadLength}, {5 * 1024, 0, cvs[:159], BadLength}, {5 * 1024, 0, cvs[:128], BadLength},
		{5*1024 + 1, 0, cvs, BadLength}, {4 * 1024, 0, cvs, BadLength}, {10 * 1024, 0, cvs, BadLength},
		{5 * 1024, 1, cvs, BadLength}, {math.MaxInt64 - 1023, 0, nil, BadLength},
		{math.MaxInt64, 0, cvs, BadLength}, {math.MaxInt64, 10, cvs, BadLength}, {math.MaxInt64, 10, nil, BadLength},
	} {
		tree, err := FromCVs(c.size, c.g, c.cvs, root)
		wantProblem(t, tree, err, c.want)
	}
}

// Sizes that differ within the last group share their chaining values. So some wrong
// sizes pass FromCVs, but none passes the proof of the last group.
func TestWrongSizeIsNeverProved(t *testing.T) {
	for _, g := range []GroupSize{0, 1, 4, 6} {
		unit := g.Bytes()
		for _, size := range []int64{
			0, 1, 63, 64, 65, 1023,
			unit - 1, unit, unit + 1, 2*unit - 1, 2 * unit, 2*unit + 1, 4 * unit, 5*unit + 100, 8 * unit,
		} {
			data := pattern(int(2*size + 2*unit)) // an attacker's best guess beyond the end of the file
			made := build(t, data[:size], g)
			for _, wrong := range []int64{
				size - 1, size + 1, size * 2, size / 2, 0, size + 64, size - 64, size + 1024, size - 1024,
				size + unit, size - unit, math.MaxInt64, -size, math.MinInt64,
			} {
				if wrong == size {
					continue
				}
				tree, err := FromCVs(wrong, g, made.CVs(), made.Root())
				var pe *ProofError
				if errors.As(err, &pe) {
					continue
				}
				if err != nil || wrong <= 0 {
					t.Errorf("size %d claimed as %d, group size %d: %v, %v", size, wrong, g, tree, err)
					continue
				}
				if wrong > int64(len(data)) {
					if made.Groups() > 1 || wrong > unit {
						t.Errorf("size %d claimed as %d, group size %d: accepted", size, wrong, g)
					}
					continue
				}
				last := (wrong - 1) / unit * unit
				if err := tree.Verify(last, data[last:wrong]); !isGroupError(err, last, wrong-last) {
					t.Errorf("size %d claimed as %d, group size %d: last group: %v", size, wrong, g, err)
				}
			}
		}
	}
}

// Inner nodes of a true tree that are presented as the groups of a smaller file hash
// to the root. No data proves the last of them.
func TestInnerNodesAsGroups(t *testing.T) {
	data := pattern(8 * 1024)
	made := build(t, data, 0)
	pairs := build(t, data, 1) // their CVs are the parents of made's
	for _, size := range []int64{3*1024 + 1, 4*1024 - 1, 4 * 1024} {
		tree, err := FromCVs(size, 0, pairs.CVs(), made.Root())
		if err != nil {
			t.Fatal(err)
		}
		last := int64(3 * 1024)
		for from := int64(0); from+size-last <= int64(len(data)); from += 1024 {
			if err := tree.Verify(last, data[from:from+size-last]); !isGroupError(err, last, size-last) {
				t.Errorf("size %d: last group from %d: %v", size, from, err)
			}
		}
	}
}

// With the right chaining values and a wrong group size no data proves any group.
func TestWrongGroupSize(t *testing.T) {
	data := pattern(10 * 1024)
	made := build(t, data[:5*1024], 0)
	tree, err := FromCVs(10*1024, 1, made.CVs(), made.Root())
	if err != nil {
		t.Fatal(err)
	}
	for off := int64(0); off < 10*1024; off += 2048 {
		if err := tree.Verify(off, data[off:off+2048]); !isGroupError(err, off, 2048) {
			t.Errorf("group at %d: %v", off, err)
		}
	}
}

// checkFromCVs compares FromCVs with the reference for any input.
func checkFromCVs(t *testing.T, size int64, g uint8, cvs []byte, root Root) {
	tree, err := FromCVs(size, GroupSize(g), cvs, root)
	ok := size >= 0 && g <= 10
	if ok {
		groups := uint64(size) / (1024 << g)
		if uint64(size)%(1024<<g) != 0 {
			groups++
		}
		switch {
		case groups > 1:
			ok = uint64(len(cvs)) == 32*groups && refMerge(cvs, refRoot) == root
		case groups == 1:
			ok = len(cvs) == 0
		default:
			ok = len(cvs) == 0 && refHash(nil, 0, refRoot) == root
		}
	}
	if !ok {
		var pe *ProofError
		if !errors.As(err, &pe) || tree != nil {
			t.Fatalf("size %d, group size %d, %d bytes of CVs: %v, %v; want a *ProofError",
				size, g, len(cvs), tree, err)
		}
		return
	}
	if err != nil {
		t.Fatalf("size %d, group size %d, %d bytes of CVs: %v", size, g, len(cvs), err)
	}
	if want := (&Tree{size: size, g: GroupSize(g), root: root, cvs: cvs}); !equal(tree, want) {
		t.Fatalf("size %d, group size %d: the tree is not what was given", size, g)
	}
}

func FuzzFromCVs(f *testing.F) {
	f.Add(int64(0), uint8(6), []byte{}, []byte{})
	f.Add(int64(1), uint8(0), []byte{}, []byte{1})
	f.Add(int64(math.MaxInt64), uint8(10), make([]byte, 64), []byte{})
	f.Add(int64(-1), uint8(255), make([]byte, 33), []byte{})
	for _, n := range []int{2, 3, 5, 8} {
		made := build(f, pattern(n*1024), 0)
		f.Add(made.Size(), uint8(0), made.CVs(), made.root[:])
	}
	f.Fuzz(func(t *testing.T, size int64, g uint8, cvs, rootBytes []byte) {
		var root Root
		copy(root[:], rootBytes)
		checkFromCVs(t, size, g, cvs, root)
		// The size and the root that fit cvs, which a fuzzer cannot guess.
		g %= 11
		if cvs = cvs[:len(cvs)/32*32]; len(cvs) >= 64 {
			fits := int64(len(cvs)/32) * (1024 << g)
			root = refMerge(cvs, refRoot)
			checkFromCVs(t, fits, g, cvs, root)
			checkFromCVs(t, fits+1, g, cvs, root)
			root[uint64(size)%32] ^= 1
			checkFromCVs(t, fits, g, cvs, root)
		} else {
			checkFromCVs(t, 0, g, nil, refHash(nil, 0, refRoot))
		}
	})
}

func BenchmarkFromCVs(b *testing.B) {
	made := build(b, pattern(1<<26), 0) // 65,536 groups, the most up to 64 GiB
	b.ReportAllocs()
	for b.Loop() {
		if _, err := FromCVs(made.size, 0, made.cvs, made.root); err != nil {
			b.Fatal(err)
		}
	}
}

func ExampleFromCVs() {
	root, _ := ParseRoot("af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262")
	_, err := FromCVs(0, DefaultGroupSize, nil, root)
	fmt.Println("empty file:", err)
	_, err = FromCVs(100_000, DefaultGroupSize, nil, root)
	fmt.Println(err)
	// Output:
	// empty file: <nil>
	// integrity: proof has 0 bytes of chaining values, which does not fit 100000 bytes in groups of 65536
}
