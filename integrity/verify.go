package integrity

import "fmt"

// Verify proves that p is the file's content at byte offset off. p must be whole
// groups: off lies on a group boundary, and p ends on one or exactly at the
// file's size. On success it allocates nothing.
//
// Bytes that are not the file's give a [*GroupError] for the first bad group;
// nothing is said about the groups after it. An off or a length that does not
// fit the groups is the caller's mistake and gives an ordinary error, and so
// does an empty p, which would prove nothing; only in an empty file it is right.
func (t *Tree) Verify(off int64, p []byte) error {
	if err := checkRange(t.size, t.g, off, int64(len(p))); err != nil {
		return err
	}
	if t.cvs == nil {
		return verifyOnly(t.root, p)
	}
	return verifyGroups(t.g, off, p, t.cvs[int64(t.g.groupAt(off))*hashSize:])
}

// checkRange refuses byte ranges that are not whole groups of a file of size
// bytes.
func checkRange(size int64, g GroupSize, off, length int64) error {
	unit := g.Bytes()
	switch {
	case off < 0 || off > size || length > size-off:
		return fmt.Errorf("integrity: verify: %d bytes at %d are outside a file of %d", length, off, size)
	case off%unit != 0:
		return fmt.Errorf("integrity: verify: offset %d is not a multiple of the group of %d bytes", off, unit)
	case length%unit != 0 && off+length != size:
		return fmt.Errorf("integrity: verify: %d bytes at %d end within a group of %d bytes", length, off, unit)
	case length == 0 && size > 0:
		return fmt.Errorf("integrity: verify: no bytes at %d", off)
	}
	return nil
}

// verifyOnly holds p against the root of a file of at most one group: that group
// is the root node. What is to be said of an empty file was said when root was
// proved.
func verifyOnly(root Root, p []byte) error {
	if len(p) > 0 && nodeRoot(subtreeNode(p, 0)) != root {
		return &GroupError{Offset: 0, Length: int64(len(p))}
	}
	return nil
}

// verifyGroups holds the groups in p, which has passed checkRange for off,
// against their chaining values: cvs begins with the one of the group at off and
// has at least as many as p has groups.
func verifyGroups(g GroupSize, off int64, p, cvs []byte) error {
	for n := g.groupAt(off); len(p) > 0; n++ {
		group := p[:min(g.Bytes(), int64(len(p)))]
		if nodeCV(subtreeNode(group, n.firstChunk(g))) != chainingValue(cvs) {
			return &GroupError{Offset: n.offset(g), Length: int64(len(group))}
		}
		p, cvs = p[len(group):], cvs[hashSize:]
	}
	return nil
}

// GroupError reports bytes that are not the file's. Whoever sent them is wrong,
// or the file changed under them; it is never a local failure.
type GroupError struct {
	Offset int64 // of the bad group in the file, in bytes
	Length int64 // of the bad group in bytes
}

func (e *GroupError) Error() string {
	return fmt.Sprintf("integrity: %d bytes at %d do not match the file's hash", e.Length, e.Offset)
}
