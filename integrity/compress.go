package integrity

import (
	"math/bits"

	"lukechampine.com/blake3/guts"
)

// laneBytes is the input of one call of guts: a chunk for each of its 16 SIMD lanes.
const laneBytes = guts.MaxSIMD * chunkSize

// subtreeNode returns the top node of the subtree over p, not yet compressed: only
// the caller knows whether the node takes the ROOT flag. first is the chunk at p[0]
// in the file. It must be a multiple of p's chunks rounded up to a power of two, as
// it is for every group. subtreeNode does not keep p.
func subtreeNode(p []byte, first chunkNum) guts.Node {
	switch {
	case len(p) == laneBytes:
		return guts.CompressBuffer((*[laneBytes]byte)(p), laneBytes, &guts.IV, uint64(first), 0)
	case len(p) <= chunkSize:
		return guts.CompressChunk(p, &guts.IV, uint64(first), 0)
	case len(p) < laneBytes:
		return paddedNode(p, first)
	}
	chunks := (int64(len(p)) + chunkSize - 1) / chunkSize
	left := chunkNum(leftLeaves(chunks))
	return guts.ParentNode(
		guts.ChainingValue(subtreeNode(p[:left.offset()], first)),
		guts.ChainingValue(subtreeNode(p[left.offset():], first+left)),
		&guts.IV, 0)
}

// paddedNode is subtreeNode for fewer than 16 chunks. guts always reads 16 lanes,
// although it ignores those beyond the length, so it must not get p itself. The
// function is not inlined: its 16 KiB would be on the stack of every recursion of
// subtreeNode.
//
//go:noinline
func paddedNode(p []byte, first chunkNum) guts.Node {
	var lanes [laneBytes]byte
	copy(lanes[:], p)
	return guts.CompressBuffer(&lanes, len(p), &guts.IV, uint64(first), 0)
}

// leftLeaves returns how many of n leaves are in the left subtree: the largest
// power of two that is less than n (section 4.3.2). n must be at least 2.
func leftLeaves(n int64) int64 {
	return 1 << (bits.Len64(uint64(n-1)) - 1)
}

// parentNode returns the top node over the chaining values of at least two groups,
// not yet compressed. It recurses once for each level, at most 63 deep.
func parentNode(cvs []byte) guts.Node {
	split := leftLeaves(int64(len(cvs)/hashSize)) * hashSize
	return guts.ParentNode(mergeCVs(cvs[:split]), mergeCVs(cvs[split:]), &guts.IV, 0)
}

// mergeCVs returns the chaining value, in words, of the subtree over the chaining
// values of at least one group.
func mergeCVs(cvs []byte) [8]uint32 {
	if len(cvs) == hashSize {
		return chainingValue(cvs).words()
	}
	return guts.ChainingValue(parentNode(cvs))
}

// nodeCV compresses a node that is not the root.
func nodeCV(n guts.Node) chainingValue { return hashBytes(guts.ChainingValue(n)) }

// nodeRoot compresses the root node. It is the only function that sets the ROOT
// flag, which belongs to the last compression of a file only (section 2.4).
func nodeRoot(n guts.Node) Root {
	n.Flags |= guts.FlagRoot
	return hashBytes(guts.ChainingValue(n))
}
