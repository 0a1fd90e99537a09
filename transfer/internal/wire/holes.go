package wire

import (
	"encoding/binary"
	"math"

	"kwikcp/internal/rangeset"
)

const (
	// HoleBlock is the unit of holes, in bytes: a smaller hole saves no space on most disks.
	HoleBlock = 4096
	// MaxHoles bounds the holes of one manifest.
	MaxHoles = 1024
)

// AppendHoles appends holes to dst. They must be in order, with data between them, and consist of
// whole blocks, of which the last may end with the file. Each is encoded as the number of blocks
// between it and the hole before it, and its number of blocks.
func AppendHoles(dst []byte, holes []rangeset.Range) []byte {
	at := int64(0)
	for _, h := range holes {
		start, end := h.Start/HoleBlock, (h.End-1)/HoleBlock+1
		dst = binary.AppendUvarint(dst, uint64(start-at))
		dst = binary.AppendUvarint(dst, uint64(end-start))
		at = end
	}
	return dst
}

// ReadHoles returns the holes of a file of size bytes. It fails if they are not in order, too many
// or not within the file.
func ReadHoles(raw []byte, size int64) (holes rangeset.Set, err error) {
	blocks := (size-1)/HoleBlock + 1 // of the file
	if size <= 0 {
		blocks = 0
	}
	for at, n := int64(0), 0; len(raw) > 0; n++ {
		var gap, length int64
		for _, to := range []*int64{&gap, &length} {
			x, read := binary.Uvarint(raw)
			if read <= 0 || x > math.MaxInt64 {
				return rangeset.Set{}, errMalformed
			}
			*to, raw = int64(x), raw[read:]
		}
		touches := gap == 0 && n > 0
		fits := gap <= blocks-at && length <= blocks-at-gap
		if n == MaxHoles || length == 0 || touches || !fits {
			return rangeset.Set{}, errMalformed
		}
		start := at + gap
		at = start + length
		end := size
		if at < blocks {
			end = at * HoleBlock
		}
		holes.Add(start*HoleBlock, end)
	}
	return holes, nil
}
