package integrity

import (
	"encoding/binary"
	"errors"
)

// A stored tree is, with integers little-endian:
//
//	version     1  treeVersion
//	group size  1  logarithm of its chunks
//	size        8  of the file, in bytes
//	root       32
//	values      …  32 for each group, none with fewer than two
//	checksum   16  the first bytes of BLAKE3 of all before
//
// The values prove themselves against the root. The checksum is for what they do
// not prove: the root, the size within the last group, the group size of a file
// of one group. Whoever can write a stored tree can make up a file as well as its
// checksum, so that a tree from a stranger is worth what its root is.
const (
	treeVersion  = 1
	treeHead     = 1 + 1 + 8 + hashSize
	treeChecksum = 16
)

// AppendBinary appends the stored form of the tree to b, for [ParseTree]. It is
// the same for the same tree, and has less than 64 bytes more than [Tree.CVs]. The
// error is always nil.
func (t *Tree) AppendBinary(b []byte) ([]byte, error) {
	start := len(b)
	b = append(b, treeVersion, byte(t.g))
	b = binary.LittleEndian.AppendUint64(b, uint64(t.size))
	b = append(b, t.root[:]...)
	b = append(b, t.cvs...)
	sum := storedSum(b[start:])
	return append(b, sum[:]...), nil
}

// errStoredTree means that bytes are no stored tree of this version, or damaged.
var errStoredTree = errors.New("integrity: not a stored tree, or damaged")

// ParseTree returns the tree that [Tree.AppendBinary] stored. It returns
// errStoredTree, or a [*ProofError] as [FromCVs], unless the bytes are those of a
// tree from the first to the last. It copies what it keeps.
//
// It finds every damage. It does not find what was forged with intent: compare
// the root with one that you trust.
func ParseTree(b []byte) (*Tree, error) {
	if len(b) < treeHead+treeChecksum || b[0] != treeVersion {
		return nil, errStoredTree
	}
	b, sum := b[:len(b)-treeChecksum], b[len(b)-treeChecksum:]
	if storedSum(b) != [treeChecksum]byte(sum) {
		return nil, errStoredTree
	}
	return FromCVs(int64(binary.LittleEndian.Uint64(b[2:])), GroupSize(b[1]), b[treeHead:], Root(b[treeHead-hashSize:]))
}

func storedSum(b []byte) [treeChecksum]byte {
	root := nodeRoot(subtreeNode(b, 0))
	return [treeChecksum]byte(root[:])
}
