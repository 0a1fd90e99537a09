package integrity

import (
	"fmt"
	"sync"
)

// GrowingTree is the tree of a file that its sender is still hashing. Its root is
// not known yet. Its chaining values arrive in file order, a few at a time, as
// [Progress] reports them at the sender. Bytes can be verified as far as the
// values have arrived.
//
// Before [GrowingTree.Finish] succeeds, Verify proves only that bytes match the
// values of the sender, who may lie. With several sources of bytes it shows which
// of them disagrees with the sender of the values. Such bytes may be stored, but
// must not be used.
//
// Finish proves the values against a root. Once it succeeds, all bytes that passed
// Verify, before and after, are the bytes of that root, as with [Tree.Verify]. If it
// fails, none of them are proved.
//
// A GrowingTree is safe for concurrent use. It takes memory for the values that
// arrived, never for those that a size promises.
type GrowingTree struct {
	size int64 // bytes, as claimed
	g    GroupSize

	mu  sync.Mutex
	cvs []byte // guarded by mu; values are only appended, so a copy of the slice is read without it
}

// NewGrowingTree returns the tree of a file of size bytes, of which no values are
// known yet. The size is a claim as in [FromCVs]. NewGrowingTree returns a
// [*ProofError] for a negative size, an invalid g, or more than [MaxGroups].
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
// group whose chaining value has arrived, or 0. It stays 0 in a file of fewer than
// two groups, which has no chaining values.
func (t *GrowingTree) End() int64 { return t.end(t.known()) }

func (t *GrowingTree) end(cvs []byte) int64 {
	n := int64(len(cvs)) / hashSize // of groups; at most MaxGroups: no overflow
	return min(n*t.g.Bytes(), t.size)
}

// known returns the chaining values that have arrived. They do not change.
func (t *GrowingTree) known() []byte {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.cvs
}

// Append adds the concatenated chaining values of the next groups. It copies them.
// If their length is not a multiple of 32 bytes, or the file has fewer groups, it
// adds none of them and returns a [*ProofError]. A file of fewer than two groups
// has no values.
func (t *GrowingTree) Append(cvs []byte) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(cvs)%hashSize != 0 || int64(len(cvs)) > cvBytes(t.size, t.g)-int64(len(t.cvs)) {
		return t.refuse(BadLength, len(t.cvs)+len(cvs))
	}
	t.cvs = append(t.cvs, cvs...)
	return nil
}

// Verify is like [Tree.Verify] for bytes before [GrowingTree.End]. Bytes beyond
// give an ordinary error. Success proves less before Finish; see [GrowingTree].
func (t *GrowingTree) Verify(off int64, p []byte) error {
	if err := checkRange(t.size, t.g, off, int64(len(p))); err != nil {
		return err
	}
	cvs := t.known()
	if end := t.end(cvs); len(p) == 0 || off+int64(len(p)) > end {
		return fmt.Errorf("integrity: verify: %d bytes at %d end beyond %d, up to where chaining values are known",
			len(p), off, end)
	}
	return verifyGroups(t.g, off, p, cvs[int64(t.g.groupAt(off))*hashSize:])
}

// Finish returns the tree of root once all chaining values have arrived, like
// [FromCVs]. It returns a [*ProofError] if values are missing or hash to another
// root. The tree and t share the values; t remains usable.
//
// Finish may be called again. The caller chooses whom to trust with the root. If the
// root is the caller's own, the tree is right whoever sent the values. If it is the
// word of their sender, the values are proved to be those of that root.
func (t *GrowingTree) Finish(root Root) (*Tree, error) {
	cvs := t.known()
	return fromCVs(t.size, t.g, cvs[:len(cvs):len(cvs)], root)
}

func (t *GrowingTree) refuse(why Problem, cvs int) *ProofError {
	return &ProofError{Problem: why, Size: t.size, GroupSize: t.g, CVBytes: cvs}
}
