package integrity

import (
	"bytes"
	"fmt"
	"slices"

	"lukechampine.com/blake3/guts"
)

// A range proof is the smallest set of values that proves the groups of one range
// against a root. It has the chaining values of the groups, and those of the
// largest subtrees outside the range. These are the siblings of the nodes between
// the range and the root:
//
//	          root
//	        /      \
//	      n        [4]         proof of the bytes of group 1:
//	    /   \
//	  n     [23]               CV 0, CV 1, CV of 2 and 3, CV 4
//	 / \
//	[0] [1]
//
// The proof consists of these values of 32 bytes in file order, and nothing else.
// RangeProofLen computes their number from size, group size and range.

// RangeProofLen returns the length in bytes of the proof of [start, end) in a file
// of size bytes. It is 32 for each group of the range, and 32 for each of at most
// two subtrees per level of the tree. It is 0 for a file of one group, which the
// root proves, and for a range that [Tree.ProveRange] refuses.
func RangeProofLen(size int64, g GroupSize, start, end int64) int64 {
	r, ok := groupsOf(size, g, start, end)
	if !ok || r.groups < 2 {
		return 0
	}
	return r.values(0, r.groups) * hashSize
}

// ProveRange returns the proof of the groups that contain the bytes [start, end) of
// the file, for [FromRangeProof]. It returns an ordinary error for a range that is
// empty or not within the file.
//
// The first call hashes the inner nodes of the whole tree. That takes about 0.15
// µs for each group of the file (10 ms for 4 GiB). It caches some of them, so
// later calls take about 0.1 ms.
func (t *Tree) ProveRange(start, end int64) ([]byte, error) {
	r, ok := groupsOf(t.size, t.g, start, end)
	if !ok {
		return nil, fmt.Errorf("integrity: prove: [%d,%d) is not a range of a file of %d bytes", start, end, t.size)
	}
	if t.cvs == nil {
		return nil, nil
	}
	return t.appendProof(make([]byte, 0, r.values(0, r.groups)*hashSize), r, 0, r.groups), nil
}

// appendProof appends the values that prove the subtree of n groups whose first is
// the group at.
func (t *Tree) appendProof(proof []byte, r groupRange, at groupNum, n int64) []byte {
	switch {
	case r.outside(at, n):
		cv := hashBytes(t.subtree(at, n))
		return append(proof, cv[:]...)
	case r.within(at, n):
		return append(proof, t.cvs[int64(at)*hashSize:(int64(at)+n)*hashSize]...)
	}
	left := leftLeaves(n)
	proof = t.appendProof(proof, r, at, left)
	return t.appendProof(proof, r, at+groupNum(left), n-left)
}

// spanGroups is the number of groups in a span, a subtree whose chaining value is
// cached. It is a power of two. The cache takes 0.4 % of the memory of the tree.
const spanGroups = 256

// subtree returns the chaining value, in words, of the subtree of n groups whose
// first is the group at. A subtree of at least a span consists of whole spans, of
// which the last may be short.
func (t *Tree) subtree(at groupNum, n int64) [8]uint32 {
	end := int64(at) + n
	if n < spanGroups {
		return mergeCVs(t.cvs[int64(at)*hashSize : end*hashSize])
	}
	t.spansOnce.Do(func() {
		for cvs := range slices.Chunk(t.cvs, spanGroups*hashSize) {
			cv := hashBytes(mergeCVs(cvs))
			t.spans = append(t.spans, cv[:]...)
		}
	})
	return mergeCVs(t.spans[int64(at)/spanGroups*hashSize : (end+spanGroups-1)/spanGroups*hashSize])
}

// RangeTree proves the groups of one range of a file. It is immutable and safe for
// concurrent use.
type RangeTree struct {
	size       int64 // of the file, in bytes, as claimed
	g          GroupSize
	root       Root
	start, end int64  // bytes: whole groups
	cvs        []byte // hashSize for each group of the range; nil if the file has but one
}

// FromRangeProof returns the tree of the groups that contain the bytes [start,
// end) of a file of size bytes. Only root must be trusted. The range must lie
// within the file and not be empty; proof must have the length of [RangeProofLen]
// and hash to root. Otherwise FromRangeProof returns a [*ProofError]. It copies
// the values of the range, and only after they are proved.
//
// It does not prove size. Bytes that pass [RangeTree.Verify] are the bytes of the
// file at that offset, whatever its size. The size is proved if the range includes
// the last group and that group has passed Verify; see the package documentation.
func FromRangeProof(size int64, g GroupSize, start, end int64, proof []byte, root Root) (*RangeTree, error) {
	refuse := func(why Problem, got Root) (*RangeTree, error) {
		return nil, &ProofError{
			Problem: why, Size: size, GroupSize: g, Start: start, End: end, CVBytes: len(proof), Want: root, Got: got,
		}
	}
	switch {
	case !g.Valid():
		return refuse(BadGroupSize, Root{})
	case size < 0:
		return refuse(BadSize, Root{})
	}
	r, ok := groupsOf(size, g, start, end)
	if !ok {
		return refuse(BadRange, Root{})
	}
	if int64(len(proof)) != RangeProofLen(size, g, start, end) {
		return refuse(BadLength, Root{})
	}
	t := &RangeTree{size: size, g: g, root: root}
	t.start, t.end = g.Cover(start, end, size)
	if r.groups < 2 {
		return t, nil
	}
	rest := proof
	if got := nodeRoot(r.node(&rest, 0, r.groups)); got != root {
		return refuse(BadRoot, got)
	}
	before := r.valuesBefore(0, r.groups) * hashSize
	t.cvs = bytes.Clone(proof[before : before+int64(r.end-r.first)*hashSize])
	return t, nil
}

// Root returns the BLAKE3 hash of the whole file.
func (t *RangeTree) Root() Root { return t.root }

// Size returns the length of the whole file in bytes. It is a claim unless the
// range has the last group and that has passed [RangeTree.Verify].
func (t *RangeTree) Size() int64 { return t.size }

// GroupSize returns the size of the groups that the tree proves.
func (t *RangeTree) GroupSize() GroupSize { return t.g }

// GroupBytes returns the size in bytes of all groups but the last one of the file.
func (t *RangeTree) GroupBytes() int64 { return t.g.Bytes() }

// Range returns the bytes that can be verified: those of all groups that contain a
// byte of the requested range.
func (t *RangeTree) Range() (start, end int64) { return t.start, t.end }

// Verify is like [Tree.Verify] for whole groups within [RangeTree.Range]. Other
// groups give an ordinary error.
func (t *RangeTree) Verify(off int64, p []byte) error {
	if err := checkRange(t.size, t.g, off, int64(len(p))); err != nil {
		return err
	}
	if off < t.start || off+int64(len(p)) > t.end {
		return fmt.Errorf("integrity: verify: %d bytes at %d are outside the proved range [%d,%d)",
			len(p), off, t.start, t.end)
	}
	if t.cvs == nil {
		return verifyOnly(t.root, p)
	}
	first := t.g.groupAt(off) - t.g.groupAt(t.start)
	return verifyGroups(t.g, off, p, t.cvs[int64(first)*hashSize:])
}

// groupRange is the groups [first, end) of a file with a number of groups. Its
// methods walk the subtree of n groups whose first is the group at. They descend
// only into subtrees that are partly within the range, at most two per level.
type groupRange struct {
	first, end groupNum
	groups     int64
}

// groupsOf returns the groups that contain the bytes [start, end) of a file. It
// returns false if g is invalid, or the range is empty or not within the file.
func groupsOf(size int64, g GroupSize, start, end int64) (groupRange, bool) {
	if !g.Valid() || start < 0 || start >= end || end > size {
		return groupRange{}, false
	}
	return groupRange{g.groupAt(start), g.groupAt(end-1) + 1, g.Groups(size)}, true
}

func (r groupRange) outside(at groupNum, n int64) bool {
	return at+groupNum(n) <= r.first || r.end <= at
}

func (r groupRange) within(at groupNum, n int64) bool {
	return r.first <= at && at+groupNum(n) <= r.end
}

// values returns the number of values that prove a subtree.
func (r groupRange) values(at groupNum, n int64) int64 {
	switch {
	case r.outside(at, n):
		return 1
	case r.within(at, n):
		return n
	}
	left := leftLeaves(n)
	return r.values(at, left) + r.values(at+groupNum(left), n-left)
}

// valuesBefore returns how many of these values belong to subtrees before the range.
func (r groupRange) valuesBefore(at groupNum, n int64) int64 {
	switch {
	case r.first <= at:
		return 0
	case r.outside(at, n):
		return 1
	}
	left := leftLeaves(n)
	return r.valuesBefore(at, left) + r.valuesBefore(at+groupNum(left), n-left)
}

// node returns the top node over at least two groups, not yet compressed. It takes
// the values from the start of proof.
func (r groupRange) node(proof *[]byte, at groupNum, n int64) guts.Node {
	left := leftLeaves(n)
	l := r.words(proof, at, left)
	return guts.ParentNode(l, r.words(proof, at+groupNum(left), n-left), &guts.IV, 0)
}

// words returns the chaining value of a subtree. It takes the values from the start
// of proof.
func (r groupRange) words(proof *[]byte, at groupNum, n int64) [8]uint32 {
	take := n
	if r.outside(at, n) {
		take = 1
	} else if !r.within(at, n) {
		return guts.ChainingValue(r.node(proof, at, n))
	}
	cvs := (*proof)[:take*hashSize]
	*proof = (*proof)[take*hashSize:]
	return mergeCVs(cvs)
}
