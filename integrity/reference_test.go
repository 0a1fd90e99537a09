package integrity

import (
	"encoding/binary"
	"math/bits"
)

// The slow reference: BLAKE3's unkeyed mode written straight from
// c2sp.org/BLAKE3, with no code in common with the package or with guts.

var refIV = [8]uint32{ // 2.2
	0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a, 0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19,
}

const ( // 2.4
	refChunkStart = 0x01
	refChunkEnd   = 0x02
	refParent     = 0x04
	refRoot       = 0x08
)

// refG is the quarter-round, 3.2.
func refG(v *[16]uint32, a, b, c, d int, x, y uint32) {
	v[a] += v[b] + x
	v[d] = bits.RotateLeft32(v[d]^v[a], -16)
	v[c] += v[d]
	v[b] = bits.RotateLeft32(v[b]^v[c], -12)
	v[a] += v[b] + y
	v[d] = bits.RotateLeft32(v[d]^v[a], -8)
	v[c] += v[d]
	v[b] = bits.RotateLeft32(v[b]^v[c], -7)
}

// refCompress is the compression function, 3.3, truncated to 8 words; block is
// at most 64 bytes.
func refCompress(h [8]uint32, block []byte, t uint64, flags uint32) (out [8]uint32) {
	var padded [64]byte
	copy(padded[:], block)
	var m [16]uint32
	for i := range m {
		m[i] = binary.LittleEndian.Uint32(padded[4*i:])
	}
	v := [16]uint32{12: uint32(t), 13: uint32(t >> 32), 14: uint32(len(block)), 15: flags}
	copy(v[:8], h[:])
	copy(v[8:12], refIV[:4])
	for range 7 {
		refG(&v, 0, 4, 8, 12, m[0], m[1])
		refG(&v, 1, 5, 9, 13, m[2], m[3])
		refG(&v, 2, 6, 10, 14, m[4], m[5])
		refG(&v, 3, 7, 11, 15, m[6], m[7])
		refG(&v, 0, 5, 10, 15, m[8], m[9])
		refG(&v, 1, 6, 11, 12, m[10], m[11])
		refG(&v, 2, 7, 8, 13, m[12], m[13])
		refG(&v, 3, 4, 9, 14, m[14], m[15])
		old := m
		for i, from := range [16]int{2, 6, 3, 10, 7, 0, 4, 13, 1, 11, 12, 5, 9, 14, 15, 8} { // 2.3
			m[i] = old[from]
		}
	}
	for i := range out {
		out[i] = v[i] ^ v[i+8]
	}
	return out
}

func refBytes(w [8]uint32) (b [32]byte) {
	for i, x := range w {
		binary.LittleEndian.PutUint32(b[4*i:], x)
	}
	return b
}

// refSplit is the number of leaves in the left subtree of n, 4.3.2.
func refSplit(n int) int {
	left := 1
	for left*2 < n {
		left *= 2
	}
	return left
}

// refHash hashes the subtree over p, whose first chunk has index chunk; root is
// refRoot for the whole file, else 0.
func refHash(p []byte, chunk uint64, root uint32) [32]byte {
	if chunks := (len(p) + 1023) / 1024; chunks > 1 { // 4.3
		left := refSplit(chunks)
		l := refHash(p[:left*1024], chunk, 0)
		r := refHash(p[left*1024:], chunk+uint64(left), 0)
		return refBytes(refCompress(refIV, append(l[:], r[:]...), 0, refParent|root))
	}
	h, flags := refIV, uint32(refChunkStart) // 4.2
	for len(p) > 64 {
		h = refCompress(h, p[:64], chunk, flags)
		p, flags = p[64:], 0
	}
	return refBytes(refCompress(h, p, chunk, flags|refChunkEnd|root))
}

// refMerge hashes concatenated chaining values of complete subtrees, 4.3.
func refMerge(cvs []byte, root uint32) [32]byte {
	if len(cvs) == 32 {
		return [32]byte(cvs)
	}
	left := refSplit(len(cvs)/32) * 32
	l, r := refMerge(cvs[:left], 0), refMerge(cvs[left:], 0)
	return refBytes(refCompress(refIV, append(l[:], r[:]...), 0, refParent|root))
}

// refTree is what Build should make of p with groups of 1024<<g bytes.
func refTree(p []byte, g uint8) *Tree {
	t := &Tree{size: int64(len(p)), g: GroupSize(g), root: refHash(p, 0, refRoot)}
	unit := 1024 << g
	if len(p) <= unit {
		return t
	}
	for off := 0; off < len(p); off += unit {
		cv := refHash(p[off:min(off+unit, len(p))], uint64(off/1024), 0)
		t.cvs = append(t.cvs, cv[:]...)
	}
	return t
}
