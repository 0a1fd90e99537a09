package integrity

import (
	"encoding/binary"
	"encoding/hex"
	"fmt"
)

// hashSize is the length in bytes of a root and of a chaining value.
const hashSize = 32

// Root is the BLAKE3 hash of a whole file. It is the first 32 output bytes of the
// root node of the tree, compressed with the ROOT flag (section 2.4).
type Root [hashSize]byte

// String returns the root in lower-case hex, as b3sum prints it.
func (r Root) String() string { return hex.EncodeToString(r[:]) }

// ParseRoot reads a root from exactly 64 hex digits of either case.
func ParseRoot(s string) (Root, error) {
	var r Root
	if len(s) != hex.EncodedLen(hashSize) {
		return Root{}, fmt.Errorf("integrity: a BLAKE3 hash has %d hex digits, not %d",
			hex.EncodedLen(hashSize), len(s))
	}
	if _, err := hex.Decode(r[:], []byte(s)); err != nil {
		return Root{}, fmt.Errorf("integrity: not a BLAKE3 hash: %w", err)
	}
	return r, nil
}

// chainingValue is the first 32 output bytes of a node that is not the root,
// compressed without the ROOT flag (section 3.3). It is a separate type so that it
// cannot be mistaken for a [Root].
type chainingValue [hashSize]byte

// words returns the chaining value as BLAKE3's little-endian words (2.1).
func (v chainingValue) words() (w [8]uint32) {
	for i := range w {
		w[i] = binary.LittleEndian.Uint32(v[4*i:])
	}
	return w
}

// hashBytes is the reverse of words. Its result becomes a chainingValue or a Root.
func hashBytes(w [8]uint32) (b [hashSize]byte) {
	for i, x := range w {
		binary.LittleEndian.PutUint32(b[4*i:], x)
	}
	return b
}
