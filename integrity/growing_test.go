package integrity

import (
	"bytes"
	"errors"
	"math"
	"sync"
	"testing"
)

func growing(t testing.TB, size int64, g GroupSize) *GrowingTree {
	t.Helper()
	tree, err := NewGrowingTree(size, g)
	if err != nil {
		t.Fatal(err)
	}
	if tree.End() != 0 || tree.Size() != size || tree.GroupSize() != g {
		t.Fatalf("a new tree of %d bytes ends at %d, has %d bytes in groups of %d",
			size, tree.End(), tree.Size(), tree.GroupSize().Bytes())
	}
	return tree
}

func isMisuse(err error) bool {
	var ge *GroupError
	var pe *ProofError
	return err != nil && !errors.As(err, &ge) && !errors.As(err, &pe)
}

// Values are appended one by one. Bytes before the end are verified, bytes beyond
// are refused, and Finish fails until the last value is there.
func TestGrowingTree(t *testing.T) {
	for _, g := range []GroupSize{0, 1, 4} {
		unit := g.Bytes()
		for _, size := range []int64{0, 1, unit - 1, unit, unit + 1, 2 * unit, 2*unit + 1, 5*unit - 1, 8 * unit} {
			data := pattern(int(size))
			made := build(t, data, g)
			tree := growing(t, size, g)
			cvs := made.CVs()
			for n := int64(0); ; n++ {
				end := min(n*unit, size)
				if len(made.CVs()) == 0 {
					end = 0
				}
				if tree.End() != end {
					t.Fatalf("%d of %d bytes, group size %d: end %d, want %d", end, size, g, tree.End(), end)
				}
				if end > 0 {
					if err := tree.Verify(0, data[:end]); err != nil {
						t.Errorf("%d of %d bytes, group size %d: %v", end, size, g, err)
					}
					data[end-1]++
					last := (end - 1) / unit * unit
					if err := tree.Verify(0, data[:end]); !isGroupError(err, last, end-last) {
						t.Errorf("%d of %d bytes, group size %d, last byte wrong: %v", end, size, g, err)
					}
					data[end-1]--
				}
				next := min(end+unit, size)
				if next > end || size == 0 {
					for _, from := range []int64{0, end} {
						if err := tree.Verify(from, data[from:next]); !isMisuse(err) {
							t.Errorf("%d of %d bytes, group size %d: [%d,%d) gave %v", end, size, g, from, next, err)
						}
					}
				}
				if len(cvs) == 0 {
					break
				}
				got, err := tree.Finish(made.Root())
				wantProblem(t, got, err, BadLength)
				if err := tree.Append(cvs[:hashSize]); err != nil {
					t.Fatal(err)
				}
				cvs = cvs[hashSize:]
			}
			wantProblem(t, nil, tree.Append(make([]byte, hashSize)), BadLength)
			wrong := made.Root()
			wrong[0] ^= 1
			if got, err := tree.Finish(wrong); made.Groups() != 1 { // one group may have any root
				wantProblem(t, got, err, BadRoot)
			}
			if got, err := tree.Finish(made.Root()); err != nil || !equal(got, made) {
				t.Errorf("%d bytes, group size %d: %v", size, g, err)
			}
		}
	}
}

func TestGrowingTreeRefusesBadShape(t *testing.T) {
	for _, c := range []struct {
		size int64
		g    GroupSize
		want Problem
	}{
		{-1, 0, BadSize}, {math.MinInt64, 10, BadSize}, {1, 11, BadGroupSize},
		{1, 255, BadGroupSize}, {-1, 11, BadGroupSize},
		{math.MaxInt64, 10, BadSize}, {math.MaxInt64, 0, BadSize}, {MaxGroups<<10 + 1, 0, BadSize},
	} {
		tree, err := NewGrowingTree(c.size, c.g)
		if tree != nil {
			t.Errorf("size %d, group size %d: a tree", c.size, c.g)
		}
		wantProblem(t, nil, err, c.want)
	}
	growing(t, MaxGroups<<20, 10) // a claim costs nothing
	tree := growing(t, 3*1024, 0)
	for _, n := range []int{1, 31, 33, 95, 97, 128, 1 << 20} {
		wantProblem(t, nil, tree.Append(make([]byte, n)), BadLength)
	}
	if err := tree.Append(nil); err != nil || tree.End() != 0 {
		t.Errorf("nothing appended: %v, end %d", err, tree.End())
	}
	if err := tree.Append(make([]byte, 64)); err != nil || tree.End() != 2048 {
		t.Errorf("two values: %v, end %d", err, tree.End())
	}
	for _, n := range []int{33, 63, 64} {
		wantProblem(t, nil, tree.Append(make([]byte, n)), BadLength)
	}
	if tree.End() != 2048 {
		t.Errorf("refused values moved the end to %d", tree.End())
	}
}

// Verify refuses the group of each flipped value, and Finish refuses the tree.
func TestGrowingTreeRefusesEveryBitFlip(t *testing.T) {
	const size = 4*1024 + 100
	data := pattern(size)
	made := build(t, data, 0)
	for i := range 8 * len(made.CVs()) {
		cvs := made.CVs()
		cvs[i/8] ^= 1 << (i % 8)
		tree := growing(t, size, 0)
		if err := tree.Append(cvs); err != nil {
			t.Fatal(err)
		}
		bad := int64(i / 8 / hashSize * 1024)
		if err := tree.Verify(0, data); !isGroupError(err, bad, min(1024, size-bad)) {
			t.Fatalf("bit %d of byte %d: %v", i%8, i/8, err)
		}
		got, err := tree.Finish(made.Root())
		wantProblem(t, got, err, BadRoot)
	}
}

func TestGrowingTreeKeepsNoReference(t *testing.T) {
	data := pattern(5000)
	made := build(t, data, 0)
	tree, cvs := growing(t, 5000, 0), made.CVs()
	if err := tree.Append(cvs); err != nil {
		t.Fatal(err)
	}
	clear(cvs)
	if got, err := tree.Finish(made.Root()); err != nil || !equal(got, made) {
		t.Error("a tree changed with a slice outside it")
	}
}

// Build appends to a GrowingTree while other goroutines verify against it.
func TestGrowingTreeIsSafeForConcurrentUse(t *testing.T) {
	manyWorkers(t, 4)
	data := pattern(6<<20 + 1)
	size := int64(len(data))
	tree := growing(t, size, 4)
	steps := make(chan int64, 8) // as many as there are blocks
	var wg sync.WaitGroup
	for range 3 {
		wg.Go(func() {
			from := int64(0)
			for range steps {
				end := tree.End()
				if err := tree.Verify(from, data[from:end]); err != nil && from < end {
					t.Error(err)
				}
				tree.Finish(Root{})
				from = end
			}
		})
	}
	made, err := Build(t.Context(), bytes.NewReader(data), size, 4, func(end int64, cvs []byte) {
		if err := tree.Append(cvs); err != nil || tree.End() != end {
			t.Errorf("end %d, want %d: %v", tree.End(), end, err)
		}
		steps <- end
	})
	close(steps)
	wg.Wait()
	if err != nil {
		t.Fatal(err)
	}
	if got, err := tree.Finish(made.Root()); err != nil || !equal(got, made) {
		t.Errorf("not the tree that was built: %v", err)
	}
}

// Finish equals FromCVs of all values, however they were cut into pieces.
func FuzzGrowingTree(f *testing.F) {
	f.Add(int64(0), uint8(6), []byte{}, uint16(1))
	f.Add(int64(1<<40), uint8(0), make([]byte, 96), uint16(32))
	f.Add(int64(math.MaxInt64), uint8(10), make([]byte, 64), uint16(64))
	for _, n := range []int{1, 2, 3, 5, 8} {
		f.Add(int64(n*1024), uint8(0), build(f, pattern(n*1024), 0).CVs(), uint16(64))
	}
	f.Fuzz(func(t *testing.T, size int64, g uint8, cvs []byte, piece uint16) {
		tree, err := NewGrowingTree(size, GroupSize(g))
		if bad := g > 10 || size < 0 || GroupSize(g).Groups(size) > MaxGroups; bad != (err != nil) {
			t.Fatalf("size %d, group size %d: %v", size, g, err)
		}
		if err != nil {
			return
		}
		var taken []byte
		for len(cvs) > 0 {
			next := cvs[:min(len(cvs), int(piece)+1)]
			cvs = cvs[len(next):]
			groups := tree.g.Groups(size)
			fits := len(next)%32 == 0 && groups > 1 && int64(len(taken)+len(next))/32 <= groups
			if err := tree.Append(next); fits != (err == nil) {
				t.Fatalf("%d bytes after %d, size %d, group size %d: %v", len(next), len(taken), size, g, err)
			}
			if fits {
				taken = append(taken, next...)
			}
			if end := tree.End(); end != min(size, int64(len(taken)/32)*tree.g.Bytes()) {
				t.Fatalf("end %d after %d bytes, size %d, group size %d", end, len(taken), size, g)
			}
		}
		root := Root{1}
		if len(taken) > 0 {
			root = refMerge(taken, refRoot)
		}
		got, err := tree.Finish(root)
		want, wantErr := FromCVs(size, GroupSize(g), taken, root)
		if (err == nil) != (wantErr == nil) || err == nil && !equal(got, want) {
			t.Fatalf("size %d, group size %d, %d bytes: %v, FromCVs says %v", size, g, len(taken), err, wantErr)
		}
	})
}
