package integrity

import "fmt"

// Verify proves that p is the content of the file at byte offset off. p must be
// whole groups: off is the start of a group, and p ends at the end of a group or of
// the file. On success Verify allocates nothing.
//
// If a group is not that of the file, Verify returns a [*GroupError] for the first
// such group; the groups after it were not checked. An offset or a length that does
// not fit the groups gives an ordinary error. So does an empty p, which proves
// nothing, unless the file is empty.
func (t *Tree) Verify(off int64, p []byte) error {
	if err := checkRange(t.size, t.g, off, int64(len(p))); err != nil {
		return err
	}
	if t.cvs == nil {
		return verifyOnly(t.root, p)
	}
	return verifyGroups(t.g, off, p, t.cvs[int64(t.g.groupAt(off))*hashSize:])
}

// checkRange refuses bytes that are not whole groups of a file of size bytes.
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

// verifyOnly checks p against the root of a file of at most one group, whose node is
// the root node. FromCVs has checked the root of an empty file already.
func verifyOnly(root Root, p []byte) error {
	if len(p) > 0 && nodeRoot(subtreeNode(p, 0)) != root {
		return &GroupError{Offset: 0, Length: int64(len(p))}
	}
	return nil
}

// verifyGroups checks the groups in p, which has passed checkRange for off, against
// their chaining values. cvs begins with the value of the group at off and has one
// for each group of p.
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

// GroupError reports bytes that are not those of the file. Either the sender is
// wrong, or its file changed; it is never a local failure.
type GroupError struct {
	Offset int64 // of the bad group in the file, in bytes
	Length int64 // of the bad group, in bytes
}

func (e *GroupError) Error() string {
	return fmt.Sprintf("integrity: %d bytes at %d do not match the file's hash", e.Length, e.Offset)
}
