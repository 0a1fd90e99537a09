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
// The root proves the values. The checksum covers the rest: the root itself, the
// size within the last group, and the group size of a file of one group. An attacker
// who can write a stored tree can also compute its checksum, so the tree of an
// untrusted writer proves only its own root.
const (
	treeVersion  = 1
	treeHead     = 1 + 1 + 8 + hashSize
	treeChecksum = 16
)

// AppendBinary appends the stored form of the tree to b, for [ParseTree]. Equal
// trees have equal forms. The form is less than 64 bytes longer than [Tree.CVs]. The
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

// errStoredTree reports bytes that are not a stored tree of this version, or that
// are damaged.
var errStoredTree = errors.New("integrity: not a stored tree, or damaged")

// ParseTree returns the tree that [Tree.AppendBinary] stored in b. It returns an
// error unless b is exactly one stored tree. One such error is a [*ProofError].
// ParseTree does not keep b.
//
// It detects damage, but not forgery: compare the root with a trusted one.
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
