package integrity

import (
	"bytes"
	"fmt"
	"sync"
)

// Tree holds the root of one file and the chaining values of all its chunk groups.
// It is immutable and safe for concurrent use.
type Tree struct {
	size int64 // bytes
	g    GroupSize
	root Root
	cvs  []byte // hashSize for each group; nil with fewer than two groups

	spansOnce sync.Once
	spans     []byte // chaining values of some inner nodes; set by the first ProveRange
}

// Root returns the BLAKE3 hash of the whole file.
func (t *Tree) Root() Root { return t.root }

// Size returns the length of the file in bytes. In a tree from [FromCVs] it is a
// claim until the last group has passed [Tree.Verify].
func (t *Tree) Size() int64 { return t.size }

// GroupSize returns the size of the groups that the tree proves.
func (t *Tree) GroupSize() GroupSize { return t.g }

// GroupBytes returns the size in bytes of all groups but the last one.
func (t *Tree) GroupBytes() int64 { return t.g.Bytes() }

// Groups returns the number of groups of the file. An empty file has none, so there
// is nothing to fetch or to verify.
func (t *Tree) Groups() int64 { return t.g.Groups(t.size) }

// CVs returns a copy of the 32-byte chaining values of all groups in file order, for
// [FromCVs]. It is empty with fewer than two groups.
func (t *Tree) CVs() []byte { return bytes.Clone(t.cvs) }

// AppendCVs appends to dst up to n bytes of what [Tree.CVs] returns, from byte off on.
// It appends nothing if off is at or beyond the end.
func (t *Tree) AppendCVs(dst []byte, off, n int) []byte {
	off = min(off, len(t.cvs))
	return append(dst, t.cvs[off:min(off+n, len(t.cvs))]...)
}

// FromCVs returns the tree of a file of size bytes from cvs, the concatenated
// 32-byte chaining values of its groups. cvs is empty if the file has fewer than
// two groups. Only root must be trusted.
//
// FromCVs returns a [*ProofError] unless cvs has exactly the length that size and g
// require and hashes to root (section 4.3). The root alone proves an empty file.
// FromCVs allocates one copy of cvs, and only after they are proved.
//
// It does not prove a size above 0; see the package documentation.
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
	case int64(len(cvs)) != cvBytes(size, g):
		return refuse(BadLength, Root{})
	case size == 0:
		if empty := nodeRoot(subtreeNode(nil, 0)); empty != root {
			return refuse(BadRoot, empty)
		}
		cvs = nil
	case len(cvs) == 0: // one group, which the root proves
		cvs = nil
	default:
		if got := nodeRoot(parentNode(cvs)); got != root {
			return refuse(BadRoot, got)
		}
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

// Problem is the reason of a [ProofError].
type Problem uint8

const (
	// BadSize: the size is negative, or a [GrowingTree] would have more than
	// [MaxGroups].
	BadSize Problem = iota + 1
	// BadGroupSize: the group size is above 1 MiB.
	BadGroupSize
	// BadLength: size, group size and range require another length.
	BadLength
	// BadRoot: the chaining values, or those of the empty file, hash to another root.
	BadRoot
	// BadRange: the range is empty or not within the file.
	BadRange
)

// ProofError reports that chaining values do not prove a file or a range of it.
// Either their sender is wrong, or the source of the root; it is never a local
// failure.
type ProofError struct {
	Problem   Problem
	Size      int64 // of the file in bytes, as claimed
	GroupSize GroupSize
	Start     int64 // of the range in bytes; Start and End are 0 for a whole file
	End       int64
	CVBytes   int  // length of the given chaining values
	Want      Root // the root to prove
	Got       Root // the root that was computed, with BadRoot
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
