package integrity

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"sync"
	"testing"
)

// refRangeProof is the slow reference. It proves the groups [first, end) in the
// subtree over cvs, whose first group is at.
func refRangeProof(cvs []byte, at, first, end int) []byte {
	n := len(cvs) / 32
	switch {
	case n == 1:
		return cvs
	case at+n <= first || end <= at:
		cv := refMerge(cvs, 0)
		return cv[:]
	}
	left := refSplit(n)
	proof := bytes.Clone(refRangeProof(cvs[:32*left], at, first, end))
	return append(proof, refRangeProof(cvs[32*left:], at+left, first, end)...)
}

func isProblem(err error, want Problem) bool {
	var pe *ProofError
	return errors.As(err, &pe) && pe.Problem == want && pe.Error() != ""
}

// The test proves every range of groups in trees of every shape up to 17 groups.
func TestRangeProofEveryRange(t *testing.T) {
	for _, g := range []GroupSize{0, 1} {
		unit := g.Bytes()
		for groups := int64(1); groups <= 17; groups++ {
			for _, size := range []int64{(groups-1)*unit + 1, groups*unit - 1, groups * unit} {
				data := pattern(int(size))
				tree := build(t, data, g)
				for first := range groups {
					for end := first + 1; end <= groups; end++ {
						checkRangeProof(t, tree, data, first*unit, min(end*unit, size))
					}
				}
			}
		}
	}
}

// checkRangeProof proves the whole groups [start, end) of a file.
func checkRangeProof(t *testing.T, tree *Tree, data []byte, start, end int64) {
	t.Helper()
	name := fmt.Sprintf("[%d,%d) of %d bytes, group size %d", start, end, tree.size, tree.g)
	proof, err := tree.ProveRange(start, end)
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	unit := tree.g.Bytes()
	var want []byte // none for one group
	if tree.cvs != nil {
		want = refRangeProof(tree.cvs, 0, int(start/unit), int((end-1)/unit)+1)
	}
	if !bytes.Equal(proof, want) {
		t.Fatalf("%s: not the reference's proof", name)
	}
	if n := RangeProofLen(tree.size, tree.g, start, end); n != int64(len(proof)) {
		t.Fatalf("%s: RangeProofLen %d, and there are %d", name, n, len(proof))
	}
	part, err := FromRangeProof(tree.size, tree.g, start, end, proof, tree.root)
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	if s, e := part.Range(); s != start || e != end {
		t.Fatalf("%s: proves [%d,%d)", name, s, e)
	}
	if part.Size() != tree.size || part.GroupSize() != tree.g || part.Root() != tree.root {
		t.Fatalf("%s: of %d bytes in groups of %d, root %s", name, part.Size(), part.GroupSize().Bytes(), part.Root())
	}
	if err := part.Verify(start, data[start:end]); err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	for off := start; off < end; off += unit { // each group alone, and each with a wrong byte
		group := data[off:min(off+unit, end)]
		if err := part.Verify(off, group); err != nil {
			t.Fatalf("%s: group at %d: %v", name, off, err)
		}
		group[0]++
		if err := part.Verify(start, data[start:end]); !isGroupError(err, off, int64(len(group))) {
			t.Fatalf("%s: group at %d wrong: %v", name, off, err)
		}
		group[0]--
	}
	next := min(end+unit, tree.size)
	others := [][2]int64{{start - unit, start}, {start - unit, end}, {end, next}, {start, next}, {0, tree.size}}
	for _, r := range others {
		noGroups := r[0] < 0 || r[0] >= r[1]
		proved := r[0] >= start && r[1] <= end
		if noGroups || proved {
			continue
		}
		if err := part.Verify(r[0], data[r[0]:r[1]]); !isMisuse(err) {
			t.Fatalf("%s: verified [%d,%d): %v", name, r[0], r[1], err)
		}
	}
}

// The values that the first call caches serve all others. The test uses trees of
// several spans with made-up values.
func TestRangeProofSpans(t *testing.T) {
	made := pattern(1100 * 32)
	for _, n := range []int{
		spanGroups - 1, spanGroups, spanGroups + 1, 2*spanGroups - 1, 2 * spanGroups, 3*spanGroups + 1, 1024, 1100,
	} {
		cvs := made[:n*32]
		tree, err := FromCVs(int64(n)*1024, 0, cvs, refMerge(cvs, refRoot))
		if err != nil {
			t.Fatal(err)
		}
		var wg sync.WaitGroup
		for first := 0; first < n; first += 117 {
			for _, end := range []int{first + 1, min(first+300, n), n} {
				wg.Go(func() {
					got, err := tree.ProveRange(int64(first)*1024, int64(end)*1024)
					if err != nil || !bytes.Equal(got, refRangeProof(cvs, 0, first, end)) {
						t.Errorf("groups [%d,%d) of %d: not the reference's proof: %v", first, end, n, err)
					}
					start, stop := int64(first)*1024, int64(end)*1024
					if _, err := FromRangeProof(tree.size, 0, start, stop, got, tree.root); err != nil {
						t.Error(err)
					}
				})
			}
		}
		wg.Wait()
	}
}

// The proof of bytes that are not whole groups is the proof of the groups that
// contain them.
func TestRangeProofCoversTheGroups(t *testing.T) {
	const size = 5*1024 - 1
	tree := build(t, pattern(size), 0)
	for start := int64(0); start < size; start += 511 {
		for end := start + 1; end <= size; end += 255 {
			first, last := start/1024*1024, min((end+1023)/1024*1024, size)
			got, err := tree.ProveRange(start, end)
			want, _ := tree.ProveRange(first, last)
			if err != nil || !bytes.Equal(got, want) {
				t.Fatalf("[%d,%d): not the proof of [%d,%d): %v", start, end, first, last, err)
			}
			part, err := FromRangeProof(size, 0, start, end, got, tree.Root())
			if err != nil {
				t.Fatal(err)
			}
			if s, e := part.Range(); s != first || e != last {
				t.Fatalf("[%d,%d): proves [%d,%d), want [%d,%d)", start, end, s, e, first, last)
			}
		}
	}
}

func TestRangeProofRefusesEveryBitFlip(t *testing.T) {
	for _, groups := range []int64{1, 2, 3, 5} {
		size := groups*1024 - 100
		data := pattern(int(size))
		tree := build(t, data, 0)
		for first := range groups {
			start, end := first*1024, min(first*1024+2048, size)
			proof, _ := tree.ProveRange(start, end)
			root := tree.Root()
			flip := func(p []byte, check func(bit int)) {
				for i := range 8 * len(p) {
					p[i/8] ^= 1 << (i % 8)
					check(i)
					p[i/8] ^= 1 << (i % 8)
				}
			}
			refused := func(bit int) {
				part, err := FromRangeProof(size, 0, start, end, proof, root)
				if !isProblem(err, BadRoot) || part != nil {
					t.Fatalf("[%d,%d) of %d, bit %d: %v", start, end, size, bit, err)
				}
			}
			flip(proof, refused)
			if groups > 1 {
				flip(root[:], refused)
			}
			part, err := FromRangeProof(size, 0, start, end, proof, root)
			if err != nil {
				t.Fatal(err)
			}
			flip(data[start:end], func(bit int) {
				bad := start + int64(bit)/8/1024*1024
				if err := part.Verify(start, data[start:end]); !isGroupError(err, bad, min(1024, size-bad)) {
					t.Fatalf("[%d,%d) of %d, bit %d of the data: %v", start, end, size, bit, err)
				}
			})
		}
	}
}

func TestRangeProofRefusesBadShape(t *testing.T) {
	tree := build(t, pattern(5*1024), 0)
	proof, err := tree.ProveRange(1024, 3072)
	if err != nil {
		t.Fatal(err)
	}
	other, err := tree.ProveRange(0, 1024) // as long as that of [2048,3072) and of [2048,4096)
	if err != nil {
		t.Fatal(err)
	}
	long := append(bytes.Clone(proof), make([]byte, 32)...)
	for _, c := range []struct {
		size       int64
		g          GroupSize
		start, end int64
		proof      []byte
		want       Problem
	}{
		{-1, 0, 0, 1, nil, BadSize},
		{math.MinInt64, 10, 0, 1, proof, BadSize},
		{5 * 1024, 11, 0, 1, proof, BadGroupSize},
		{1, 255, 0, 1, nil, BadGroupSize},
		{0, 0, 0, 0, nil, BadRange},
		{0, 0, 0, 1, nil, BadRange},
		{5 * 1024, 0, 1024, 1024, proof, BadRange},
		{5 * 1024, 0, 3072, 1024, proof, BadRange},
		{5 * 1024, 0, -1, 3072, proof, BadRange},
		{5 * 1024, 0, 1024, 5*1024 + 1, proof, BadRange},
		{5 * 1024, 0, math.MinInt64, math.MaxInt64, proof, BadRange},
		{5 * 1024, 0, 1024, 3072, nil, BadLength},
		{5 * 1024, 0, 1024, 3072, proof[:len(proof)-1], BadLength},
		{5 * 1024, 0, 1024, 3072, proof[32:], BadLength},
		{5 * 1024, 0, 1024, 3072, long, BadLength},
		{5 * 1024, 0, 1024, 3072, long[:len(proof)+1], BadLength},
		{1024, 0, 0, 1024, proof[:32], BadLength},
		{5 * 1024, 0, 0, 2048, proof, BadLength},
		{4 * 1024, 0, 1024, 3072, proof, BadLength},
		{5 * 1024, 0, 2048, 3072, other, BadRoot},
		{5*1024 - 1, 0, 2048, 4096, other, BadRoot},
		{math.MaxInt64, 0, 0, math.MaxInt64, proof, BadLength},
		{math.MaxInt64, 10, 0, math.MaxInt64, nil, BadLength},
		{math.MaxInt64, 0, 0, 1, proof, BadLength},
	} {
		part, err := FromRangeProof(c.size, c.g, c.start, c.end, c.proof, tree.Root())
		if part != nil || !isProblem(err, c.want) {
			t.Errorf("[%d,%d) of %d, group size %d, %d bytes: %v, want problem %d",
				c.start, c.end, c.size, c.g, len(c.proof), err, c.want)
		}
	}
	for _, r := range [][2]int64{
		{0, 0}, {1, 1}, {2, 1}, {-1, 1}, {0, 5*1024 + 1}, {5 * 1024, 5 * 1024}, {math.MinInt64, math.MaxInt64},
	} {
		if proof, err := tree.ProveRange(r[0], r[1]); err == nil || proof != nil {
			t.Errorf("ProveRange(%d, %d): %d bytes, %v", r[0], r[1], len(proof), err)
		}
		if n := RangeProofLen(5*1024, 0, r[0], r[1]); n != 0 {
			t.Errorf("RangeProofLen of [%d,%d): %d", r[0], r[1], n)
		}
	}
	if n := RangeProofLen(100, 11, 0, 1); n != 0 {
		t.Errorf("RangeProofLen with an invalid group size: %d", n)
	}
}

// The proof of a range grows with the logarithm of the file.
func TestRangeProofIsSmall(t *testing.T) {
	for _, c := range []struct {
		size       int64
		start, end int64
		most       int64 // values: the groups of the range, and the height of the tree on either side
	}{
		{100 << 30, 50 << 30, 50<<30 + 1, 1 + 17},
		{100 << 30, 100<<30 - 1, 100 << 30, 1 + 17},
		{100 << 30, 50<<30 - 1, 50<<30 + 4<<20, 5 + 2*17},
		{math.MaxInt64, 1 << 62, 1<<62 + 1, 1 + 43},
	} {
		if n := RangeProofLen(c.size, GroupSizeFor(c.size), c.start, c.end); n <= 0 || n > 32*c.most {
			t.Errorf("[%d,%d) of %d bytes: %d bytes, want at most %d", c.start, c.end, c.size, n, 32*c.most)
		}
	}
}

// True nodes of a tree can hash to its root although they are presented with another
// size or group size. Verify then still accepts only bytes of the file at their own
// offset. It never accepts the last group under a wrong size.
func TestRangeProofOfAnotherShape(t *testing.T) {
	const size = 8*1024 - 50
	data := append(pattern(size), make([]byte, 4096)...)
	accepted := 0
	for made := GroupSize(0); made <= 2; made++ {
		tree := build(t, data[:size], made)
		for start := int64(0); start < size; start += tree.g.Bytes() {
			proof, _ := tree.ProveRange(start, min(start+tree.g.Bytes(), size))
			for g := GroupSize(0); g <= 3; g++ {
				for claimed := int64(1); claimed <= size+4096; claimed += 117 {
					if claimed+117 > size && claimed < size {
						claimed = size
					}
					for off := int64(0); off < claimed; off += g.Bytes() {
						part, err := FromRangeProof(claimed, g, off, off+1, proof, tree.Root())
						if err != nil {
							continue
						}
						s, e := part.Range()
						if part.Verify(s, data[s:e]) != nil {
							continue
						}
						accepted++
						if e > size || e == claimed && claimed != size {
							t.Errorf("size %d claimed, group size %d: [%d,%d) of a file of %d was proved",
								claimed, g, s, e, size)
						}
					}
				}
			}
		}
	}
	if accepted == 0 {
		t.Error("not even the true size was accepted")
	}
}

func TestRangeTreeKeepsNoReference(t *testing.T) {
	data := pattern(5000)
	made := build(t, data, 0)
	proof, _ := made.ProveRange(0, 5000)
	part, err := FromRangeProof(5000, 0, 0, 5000, proof, made.Root())
	if err != nil {
		t.Fatal(err)
	}
	clear(proof)
	if again, _ := made.ProveRange(0, 5000); !bytes.Equal(again, made.CVs()) || part.Verify(0, data) != nil {
		t.Error("a tree changed with a slice outside it")
	}
}

func FuzzRangeProof(f *testing.F) {
	f.Add(int64(5*1024), uint8(0), int64(1024), int64(3072), []byte{}, uint16(5), uint16(7))
	f.Add(int64(math.MaxInt64), uint8(10), int64(0), int64(math.MaxInt64), make([]byte, 64), uint16(3), uint16(0))
	f.Add(int64(-1), uint8(11), int64(-1), int64(-2), make([]byte, 33), uint16(1), uint16(300))
	f.Fuzz(func(t *testing.T, size int64, g uint8, start, end int64, proof []byte, groups, flip uint16) {
		// Arbitrary input: only a file of one group is accepted, whose proof is empty.
		part, err := FromRangeProof(size, GroupSize(g), start, end, proof, Root{1})
		if err != nil && part != nil {
			t.Fatal("a tree and an error")
		}
		if err == nil && (part.cvs != nil || GroupSize(g).Groups(size) > 1) {
			t.Fatalf("[%d,%d) of %d, group size %d: %d bytes prove a made-up root", start, end, size, g, len(proof))
		}
		// A true proof from a tree of made-up values, which a fuzzer cannot guess.
		g %= 11
		n := int(groups%1100) + 2 // more than four spans
		cvs := make([]byte, 32*n)
		copy(cvs, proof)
		size = int64(n) * GroupSize(g).Bytes()
		tree, err := FromCVs(size, GroupSize(g), cvs, refMerge(cvs, refRoot))
		if err != nil {
			t.Fatal(err)
		}
		start = int64(uint64(start) % uint64(size))
		end = start + 1 + int64(uint64(end)%uint64(size-start))
		made, err := tree.ProveRange(start, end)
		first, last := int(start/tree.g.Bytes()), int((end-1)/tree.g.Bytes())
		if err != nil || !bytes.Equal(made, refRangeProof(cvs, 0, first, last+1)) {
			t.Fatalf("[%d,%d) of %d, group size %d: not the reference's proof: %v", start, end, size, g, err)
		}
		part, err = FromRangeProof(size, tree.g, start, end, made, tree.root)
		if err != nil || !bytes.Equal(part.cvs, cvs[32*first:32*last+32]) {
			t.Fatalf("[%d,%d) of %d, group size %d: other values than the tree's: %v", start, end, size, g, err)
		}
		made[int(flip)%len(made)] ^= byte(flip>>8) | 1
		if _, err := FromRangeProof(size, tree.g, start, end, made, tree.root); !isProblem(err, BadRoot) {
			t.Fatalf("[%d,%d) of %d, group size %d, a byte wrong: %v", start, end, size, g, err)
		}
	})
}

func BenchmarkProveRange(b *testing.B) {
	made := build(b, pattern(1<<26), 0) // 65,536 groups, the most up to 64 GiB
	for b.Loop() {
		if _, err := made.ProveRange(1<<25, 1<<25+4096); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkFromRangeProof(b *testing.B) {
	made := build(b, pattern(1<<26), 0)
	proof, err := made.ProveRange(1<<25, 1<<25+4096)
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := FromRangeProof(made.size, 0, 1<<25, 1<<25+4096, proof, made.root); err != nil {
			b.Fatal(err)
		}
	}
}
