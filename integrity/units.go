package integrity

// chunkSize is the length in bytes of a BLAKE3 chunk, the leaf of the tree
// (section 4.2). Only the last chunk of a file may be shorter.
const chunkSize = 1024

// chunkNum is the index of a chunk, counted from the start of the file. It is
// BLAKE3's chunk counter (section 4.2).
type chunkNum int64

// offset returns the byte offset in the file at which the chunk starts.
func (c chunkNum) offset() int64 { return int64(c) * chunkSize }

// groupNum is the index of a chunk group, counted from the start of the file.
type groupNum int64

// firstChunk returns the first chunk of the group in a file with groups of size g.
func (n groupNum) firstChunk(g GroupSize) chunkNum { return chunkNum(n) << g }

// offset returns the byte offset in the file at which the group starts.
func (n groupNum) offset(g GroupSize) int64 { return n.firstChunk(g).offset() }

// GroupSize is the size of a chunk group: the base-2 logarithm of its number of
// chunks, 0 (1 KiB) to 10 (1 MiB). Groups below 4 (16 KiB) hash several times
// slower, because they leave SIMD lanes empty.
type GroupSize uint8

const (
	// DefaultGroupSize is 64 KiB: proofs cost 0.05 % of the bytes that they prove.
	DefaultGroupSize GroupSize = 6
	// maxGroupSize is 1 MiB, which is lost with a single bad byte.
	maxGroupSize GroupSize = 10

	// preferredGroups is the number of groups that GroupSizeFor tries not to
	// exceed: 2 MiB of chaining values.
	preferredGroups = 65536
)

// GroupSizeFor returns the group size that kwikcp uses for a file of size bytes.
// It is 64 KiB up to 4 GiB, then the smallest that cuts the file into at most
// 65,536 groups. It is 1 MiB for all files over 32 GiB. So files over 64 GiB have
// more groups.
func GroupSizeFor(size int64) GroupSize {
	g := DefaultGroupSize
	for g < maxGroupSize && g.Groups(size) > preferredGroups {
		g++
	}
	return g
}

// Valid reports whether g is between 0 and 10.
func (g GroupSize) Valid() bool { return g <= maxGroupSize }

// Bytes returns the length in bytes of a full group. g must be valid.
func (g GroupSize) Bytes() int64 { return chunkSize << g }

// Groups returns the number of groups of a file of size bytes, including a short
// last one. It is 0 for a size of 0 or less. It does not overflow.
func (g GroupSize) Groups(size int64) int64 {
	if size <= 0 {
		return 0
	}
	return int64(g.groupAt(size-1)) + 1
}

// Cover returns the shortest run of whole groups that contains the bytes [start,
// end) of a file of size bytes. The range must lie within the file and must not be
// empty. It does not overflow.
func (g GroupSize) Cover(start, end, size int64) (coverStart, coverEnd int64) {
	lastGroup := g.groupAt(end - 1).offset(g)
	return g.groupAt(start).offset(g), lastGroup + min(g.Bytes(), size-lastGroup)
}

// groupAt returns the group that contains the byte at offset off, which must not be
// negative.
func (g GroupSize) groupAt(off int64) groupNum { return groupNum(off / g.Bytes()) }
