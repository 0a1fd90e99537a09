package integrity

import (
	"fmt"
	"sync"
)

// GrowingTree is the tree of a file that its sender is still hashing: its root is
// not known, and its chaining values come in file order, a few at a time, as
// [Progress] has them on the other side. Bytes can be verified as far as the
// values have come.
//
// What that proves changes when [GrowingTree.Finish] succeeds. Before, Verify
// says only that bytes are those that the sender of the values claims: with
// several sources of bytes it tells which of them disagrees with the sender, who
// may be the liar. They are fit to be stored, not to be used. Finish proves the
// values against a root; from then on all bytes that passed Verify, before and
// after, are those of the root, as if [Tree.Verify] had said it. If Finish fails
// none of them are worth anything.
//
// Methods may be called concurrently. Memory is taken for the values that came,
// never for those that a size promises.
type GrowingTree struct {
	size int64 // bytes, as claimed
	g    GroupSize

	mu  sync.Mutex
	cvs []byte // grows; what is there does not change, so that it is read without mu
}

// NewGrowingTree returns the tree of a file of size bytes, of which nothing is
// known yet. The size is a claim as in [FromCVs]. It returns a [*ProofError] for
// a negative size, an invalid g, or more than [MaxGroups].
func NewGrowingTree(size int64, g GroupSize) (*GrowingTree, error) {
	t := &GrowingTree{size: size, g: g}
	switch {
	case !g.Valid():
		return nil, t.refuse(BadGroupSize, 0)
	case size < 0 || g.Groups(size) > MaxGroups:
		return nil, t.refuse(BadSize, 0)
	}
	return t, nil
}

// Size returns the length of the file in bytes, as claimed.
func (t *GrowingTree) Size() int64 { return t.size }

// GroupSize returns the size of the groups that can be verified.
func (t *GrowingTree) GroupSize() GroupSize { return t.g }

// End returns the offset up to which bytes can be verified: the end of the last
// group whose chaining value has come, or 0. In a file of fewer than two groups,
// which has no chaining values, it stays 0.
func (t *GrowingTree) End() int64 { return t.end(t.known()) }

func (t *GrowingTree) end(cvs []byte) int64 {
	n := int64(len(cvs)) / hashSize // of groups; at most MaxGroups: no overflow
	return min(n*t.g.Bytes(), t.size)
}

// known returns the chaining values that have come. They do not change.
func (t *GrowingTree) known() []byte {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.cvs
}

// Append takes the chaining values of the next groups, concatenated; it copies
// them. It returns a [*ProofError], and takes none of them, if they are not whole
// values or more than the file has groups; a file of fewer than two groups
// has none.
func (t *GrowingTree) Append(cvs []byte) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(cvs)%hashSize != 0 || int64(len(cvs)) > cvBytes(t.size, t.g)-int64(len(t.cvs)) {
		return t.refuse(BadLength, len(t.cvs)+len(cvs))
	}
	t.cvs = append(t.cvs, cvs...)
	return nil
}

// Verify is as [Tree.Verify], for bytes before [GrowingTree.End]; beyond, it
// returns an ordinary error. That bytes are right means less before Finish, as
// the type says.
func (t *GrowingTree) Verify(off int64, p []byte) error {
	if err := checkRange(t.size, t.g, off, int64(len(p))); err != nil {
		return err
	}
	cvs := t.known()
	if end := t.end(cvs); len(p) == 0 || off+int64(len(p)) > end {
		return fmt.Errorf("integrity: verify: %d bytes at %d end beyond %d, up to where chaining values have come", len(p), off, end)
	}
	return verifyGroups(t.g, off, p, cvs[int64(t.g.groupAt(off))*hashSize:])
}

// Finish returns the tree once all chaining values have come: what [FromCVs]
// makes of them and root. It returns a [*ProofError] if values are missing or
// hash to another root. The tree and t share the values; t may be used on.
//
// It may be called again. If it is the caller who knows the root, the tree is
// the true one whoever sent the values; if it is their sender who says it, they
// are proved to be that root's.
func (t *GrowingTree) Finish(root Root) (*Tree, error) {
	cvs := t.known()
	return fromCVs(t.size, t.g, cvs[:len(cvs):len(cvs)], root)
}

func (t *GrowingTree) refuse(why Problem, cvs int) *ProofError {
	return &ProofError{Problem: why, Size: t.size, GroupSize: t.g, CVBytes: cvs}
}
