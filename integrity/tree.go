package integrity

import (
	"bytes"
	"fmt"
	"sync"
)

// Tree holds the chaining values of all chunk groups of one file and its root.
// It is immutable, and safe for concurrent use.
type Tree struct {
	size int64 // bytes
	g    GroupSize
	root Root
	cvs  []byte // hashSize for each group; nil with fewer than two groups

	spansOnce sync.Once
	spans     []byte // chaining values of some inner nodes, made by the first ProveRange
}

// Root returns the BLAKE3 hash of the whole file.
func (t *Tree) Root() Root { return t.root }

// Size returns the length of the file in bytes. In a tree from [FromCVs] it is a
// claim until the last group has passed [Tree.Verify].
func (t *Tree) Size() int64 { return t.size }

// GroupSize returns the size of the groups that the tree proves.
func (t *Tree) GroupSize() GroupSize { return t.g }

// Groups returns how many groups the file has. An empty file has none: there is
// nothing to fetch or to verify.
func (t *Tree) Groups() int64 { return t.g.Groups(t.size) }

// CVs returns a copy of the 32-byte chaining values of all groups, in file
// order: what [FromCVs] takes. It is empty with fewer than two groups.
func (t *Tree) CVs() []byte { return bytes.Clone(t.cvs) }

// FromCVs returns the tree of a file of size bytes from cvs, the concatenated
// 32-byte chaining values of its groups (empty when it has fewer than two).
// Nothing given but root need be trusted: it returns a [*ProofError] unless cvs
// has exactly the length that size and g ask for and hashes up to root (section
// 4.3). An empty file is proved by root alone. It allocates one copy of cvs, and
// that only once they are proved.
//
// It cannot prove size: see the package documentation.
func FromCVs(size int64, g GroupSize, cvs []byte, root Root) (*Tree, error) {
	t, err := fromCVs(size, g, cvs, root)
	if err != nil {
		return nil, err
	}
	t.cvs = bytes.Clone(t.cvs)
	return t, nil
}

// fromCVs is FromCVs without the copy: the tree keeps cvs.
func fromCVs(size int64, g GroupSize, cvs []byte, root Root) (*Tree, error) {
	refuse := func(why Problem, got Root) (*Tree, error) {
		return nil, &ProofError{Problem: why, Size: size, GroupSize: g, CVBytes: len(cvs), Want: root, Got: got}
	}
	switch {
	case !g.Valid():
		return refuse(BadGroupSize, Root{})
	case size < 0:
		return refuse(BadSize, Root{})
	}
	if int64(len(cvs)) != cvBytes(size, g) {
		return refuse(BadLength, Root{})
	}
	if len(cvs) == 0 {
		if size == 0 {
			if empty := nodeRoot(subtreeNode(nil, 0)); empty != root {
				return refuse(BadRoot, empty)
			}
		}
		return &Tree{size: size, g: g, root: root}, nil
	}
	if got := nodeRoot(parentNode(cvs)); got != root {
		return refuse(BadRoot, got)
	}
	return &Tree{size: size, g: g, root: root, cvs: cvs}, nil
}

// cvBytes returns the length in bytes of the chaining values of a file of size
// bytes: none with fewer than two groups.
func cvBytes(size int64, g GroupSize) int64 {
	groups := g.Groups(size)
	if groups < 2 {
		return 0
	}
	return groups * hashSize // at most 2^53 groups: no overflow
}

// Problem says what is wrong with a proof.
type Problem uint8

const (
	// BadSize: the size is negative, or of more than [MaxGroups] in a
	// [GrowingTree].
	BadSize Problem = iota + 1
	// BadGroupSize: the group size is above [maxGroupSize].
	BadGroupSize
	// BadLength: the chaining values are not as many as the size asks for, or the
	// size and the range.
	BadLength
	// BadRoot: the chaining values, or the empty file, hash to another root.
	BadRoot
	// BadRange: a file of the size has no such range, or the range is empty.
	BadRange
)

// ProofError reports that chaining values do not prove a file, or a range of it.
// The one who sent them, or the one who named the root, is wrong; it is never a
// local failure.
type ProofError struct {
	Problem   Problem
	Size      int64 // of the file in bytes, as claimed
	GroupSize GroupSize
	Start     int64 // of the range that was to be proved, in bytes; both 0 without one
	End       int64
	CVBytes   int  // length of the chaining values given
	Want      Root // the root to prove
	Got       Root // with BadRoot: what was hashed instead
}

func (e *ProofError) Error() string {
	switch e.Problem {
	case BadSize:
		return fmt.Sprintf("integrity: proof for a file of %d bytes", e.Size)
	case BadGroupSize:
		return fmt.Sprintf("integrity: proof with group size 2^%d chunks, above 2^%d", e.GroupSize, maxGroupSize)
	case BadLength:
		what := fmt.Sprintf("%d bytes", e.Size)
		if e.End > 0 {
			what = fmt.Sprintf("[%d,%d) of %d bytes", e.Start, e.End, e.Size)
		}
		return fmt.Sprintf("integrity: proof has %d bytes of chaining values, which does not fit %s in groups of %d",
			e.CVBytes, what, e.GroupSize.Bytes())
	case BadRange:
		return fmt.Sprintf("integrity: proof of [%d,%d) in a file of %d bytes", e.Start, e.End, e.Size)
	default:
		return fmt.Sprintf("integrity: proof hashes to %s, not to %s", e.Got, e.Want)
	}
}
