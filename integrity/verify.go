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
	if err := t.checkRange(off, int64(len(p))); err != nil {
		return err
	}
	for n := t.g.GroupAt(off); len(p) > 0; n++ {
		group := p[:min(t.g.Bytes(), int64(len(p)))]
		if !t.holds(n, group) {
			return &GroupError{Offset: n.Offset(t.g), Length: int64(len(group))}
		}
		p = p[len(group):]
	}
	return nil
}

// checkRange refuses byte ranges that are not whole groups of the file.
func (t *Tree) checkRange(off, length int64) error {
	unit := t.g.Bytes()
	switch {
	case off < 0 || off > t.size || length > t.size-off:
		return fmt.Errorf("integrity: verify: %d bytes at %d are outside a file of %d", length, off, t.size)
	case off%unit != 0:
		return fmt.Errorf("integrity: verify: offset %d is not a multiple of the group of %d bytes", off, unit)
	case length%unit != 0 && off+length != t.size:
		return fmt.Errorf("integrity: verify: %d bytes at %d end within a group of %d bytes", length, off, unit)
	case length == 0 && t.size > 0:
		return fmt.Errorf("integrity: verify: no bytes at %d", off)
	}
	return nil
}

// holds reports whether p, of the right length, is group n. A file's only group
// is its root node; the others are held against their chaining values, which
// are already proved.
func (t *Tree) holds(n GroupNum, p []byte) bool {
	node := subtreeNode(p, n.FirstChunk(t.g))
	if t.cvs == nil {
		return nodeRoot(node) == t.root
	}
	return nodeCV(node) == t.cv(n)
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
