package integrity

import (
	"bytes"
	"fmt"
	"slices"

	"lukechampine.com/blake3/guts"
)

// A range proof is the least that proves the groups of one range against a root:
// their chaining values, and those of the largest subtrees outside the range, as
// they hang off the way to the root:
//
//	          root
//	        /      \
//	      n        [4]         proof of the bytes of group 1:
//	    /   \
//	  n     [23]               CV 0, CV 1, CV of 2 and 3, CV 4
//	 / \
//	[0] [1]
//
// It is these values of 32 bytes, in file order, and nothing else. Size, group
// size and range say how many there are, see RangeProofLen.

// RangeProofLen returns the length in bytes of the proof of [start, end) in a file
// of size bytes: 32 for each group of the range, and for at most two subtrees a
// level of the tree. It is 0 in a file of one group, which its root proves
// alone, and for a range that [Tree.ProveRange] refuses.
func RangeProofLen(size int64, g GroupSize, start, end int64) int64 {
	r, ok := groupsOf(size, g, start, end)
	if !ok || r.groups < 2 {
		return 0
	}
	return r.values(0, r.groups) * hashSize
}

// ProveRange returns the proof of the groups that the bytes [start, end) of the
// file are in, which is what [FromRangeProof] takes. It returns an ordinary error
// for a range that is empty or not within the file.
//
// The first call hashes the inner nodes of the whole tree, which takes about 0.15
// µs for each group of the file (10 ms for 4 GiB). It leaves a few of them to the
// others, which then take some 0.1 ms.
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

// appendProof appends the values that prove the subtree over n groups from the
// group at on.
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

// spanGroups is how many groups a span has, the subtree whose chaining value is
// kept once it was needed: 32 bytes for each, 0.4 % of those of the groups. It
// is a power of two.
const spanGroups = 256

// subtree returns the chaining value, in words, of a subtree of the tree over n
// groups from the group at on. If it has a span or more it begins with one, and is
// to its spans what a tree is to its groups: the last may be short.
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

// RangeTree proves the groups of one range of a file. It is immutable, and safe
// for concurrent use.
type RangeTree struct {
	size       int64 // of the file, in bytes, as claimed
	g          GroupSize
	root       Root
	start, end int64  // bytes: whole groups
	cvs        []byte // hashSize for each group of the range; nil if the file has but one
}

// FromRangeProof returns the tree of the groups that the bytes [start, end) of a
// file are in. Nothing given but root need be trusted: it returns a [*ProofError]
// unless there is such a range, and proof has the length that [RangeProofLen]
// says and hashes up to root. It allocates one copy of the values of the
// range, and that only once they are proved.
//
// It does not prove size. Bytes that pass [RangeTree.Verify] are the file's at
// that offset, whatever its size; the size is proved with the last group of the
// file, if the range has it (see the package documentation).
func FromRangeProof(size int64, g GroupSize, start, end int64, proof []byte, root Root) (*RangeTree, error) {
	refuse := func(why Problem, got Root) (*RangeTree, error) {
		return nil, &ProofError{Problem: why, Size: size, GroupSize: g, Start: start, End: end, CVBytes: len(proof), Want: root, Got: got}
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
	t := &RangeTree{size: size, g: g, root: root, start: r.first.offset(g), end: size}
	if r.end < groupNum(r.groups) {
		t.end = r.end.offset(g)
	}
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

// Range returns which bytes of the file can be verified: the groups that the
// range asked for is in.
func (t *RangeTree) Range() (start, end int64) { return t.start, t.end }

// Verify is as [Tree.Verify], for whole groups within [RangeTree.Range]; beyond, it
// returns an ordinary error.
func (t *RangeTree) Verify(off int64, p []byte) error {
	if err := checkRange(t.size, t.g, off, int64(len(p))); err != nil {
		return err
	}
	if off < t.start || off+int64(len(p)) > t.end {
		return fmt.Errorf("integrity: verify: %d bytes at %d are outside the proved range [%d,%d)", len(p), off, t.start, t.end)
	}
	if t.cvs == nil {
		return verifyOnly(t.root, p)
	}
	return verifyGroups(t.g, off, p, t.cvs[int64(t.g.groupAt(off)-t.g.groupAt(t.start))*hashSize:])
}

// groupRange is the groups [first, end) of a file that has groups of them. Its
// methods walk the tree over n groups from the group at on, of which those
// within the range and those outside have nothing to go down for: their nodes
// are as many as the tree is high.
type groupRange struct {
	first, end groupNum
	groups     int64
}

// groupsOf returns the groups that the bytes [start, end) of a file are in; false
// if there are no such bytes, or g is invalid.
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

// values returns how many values prove a subtree.
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

// valuesBefore returns how many of the values are of subtrees before the range.
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

// node returns the top node over at least two groups, not yet compressed, from the
// values of a proof, and takes them off it.
func (r groupRange) node(proof *[]byte, at groupNum, n int64) guts.Node {
	left := leftLeaves(n)
	l := r.words(proof, at, left)
	return guts.ParentNode(l, r.words(proof, at+groupNum(left), n-left), &guts.IV, 0)
}

// words returns the chaining value of a subtree, as node does.
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
