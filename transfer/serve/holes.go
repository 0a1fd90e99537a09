package serve

import (
	"slices"

	"kwikcp/internal/rangeset"
	"kwikcp/transfer/disk"
	"kwikcp/transfer/internal/wire"

	transferpb "kwikcp/transfer/internal/wire/proto"
)

// This file finds the holes of files, which manifests announce to clients that request holes. They
// are claims: a client verifies zeros against the tree. So the file may change meanwhile, and the
// file system may be wrong.

// maxExtents bounds the extents of a file that are looked at for one manifest. The rest of the file
// may have holes that are not announced.
const maxExtents = 16 << 10

// announcedHoles are the holes that a manifest has. The zero value means none.
type announcedHoles struct {
	raw   []byte // encoded
	more  bool   // there may be others
	first int64  // where the first one begins, in bytes; the size of the file if there is none
}

// findHoles finds the holes of an open file of size bytes. If there are more than wire.MaxHoles, it
// takes the largest.
func findHoles(f disk.File, size int64) announcedHoles {
	var holes []rangeset.Range
	result := announcedHoles{first: size}
	least := int64(wire.HoleBlock) // of a hole, in bytes
	for at, n := int64(0), 0; at < size; n++ {
		if n == maxExtents {
			result.more = true
			break
		}
		start, end, ok := f.NextData(at)
		if !ok || start > size {
			start, end = size, size
		}
		hole := rangeset.Range{Start: roundUp(at), End: start}
		if start < size {
			hole.End -= start % wire.HoleBlock
		}
		isLast := start == size && hole.Len() > 0 // its last block may be short
		switch {
		case hole.Len() >= least, isLast && least == wire.HoleBlock:
			holes = append(holes, hole)
		case hole.Len() >= wire.HoleBlock:
			result.more = true
		}
		for len(holes) > wire.MaxHoles {
			result.more = true
			least *= 2
			holes = slices.DeleteFunc(holes, func(r rangeset.Range) bool { return r.Len() < least })
		}
		if end <= at { // the file system makes no sense
			break
		}
		at = end
	}
	if len(holes) > 0 {
		result.first = holes[0].Start
	}
	result.raw = wire.AppendHoles(nil, holes)
	return result
}

// roundUp returns the start of the first block at or after off.
func roundUp(off int64) int64 {
	if rest := off % wire.HoleBlock; rest > 0 {
		return off + min(wire.HoleBlock-rest, 1<<63-1-off)
	}
	return off
}

// headStart returns how many of the first n bytes of a file of the given group size may be sent
// before the client requests them: a client does not request a hole.
func (h announcedHoles) headStart(n, group int64) int64 {
	if h.raw == nil {
		return n
	}
	if rest := h.first % group; rest > 0 {
		return min(n, h.first+group-rest)
	}
	return min(n, h.first)
}

// announce puts the holes into a manifest.
func (h announcedHoles) announce(m *transferpb.Manifest) { m.Holes, m.MoreHoles = h.raw, h.more }
