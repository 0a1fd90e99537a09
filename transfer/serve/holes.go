package serve

import (
	"slices"

	"kwikcp/internal/rangeset"
	"kwikcp/transfer/internal/wire"
	"kwikcp/transfer/source"

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
	size   int64 // of the file, in bytes
	ranges []rangeset.Range
	raw    []byte // ranges, encoded
	more   bool   // there may be others
}

// findHoles finds the holes of an open file of size bytes. If there are more than wire.MaxHoles, it
// takes the largest. A file that does not know where it has data has none.
func findHoles(file source.Object, size int64) (found announcedHoles) {
	f, ok := file.(source.Sparse)
	if !ok {
		return found
	}
	var holes []rangeset.Range
	least := int64(wire.HoleBlock) // of a hole, in bytes
	for at, n := int64(0), 0; at < size; n++ {
		if n == maxExtents {
			found.more = true
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
			found.more = true
		}
		for len(holes) > wire.MaxHoles {
			found.more = true
			least *= 2
			holes = slices.DeleteFunc(holes, func(r rangeset.Range) bool { return r.Len() < least })
		}
		if end <= at { // the file system makes no sense
			break
		}
		at = end
	}
	found.size, found.ranges, found.raw = size, holes, wire.AppendHoles(nil, holes)
	return found
}

// roundUp returns the start of the first block at or after off.
func roundUp(off int64) int64 {
	if rest := off % wire.HoleBlock; rest > 0 {
		return off + min(wire.HoleBlock-rest, 1<<63-1-off)
	}
	return off
}

// headStart returns how many of the first n bytes of a file may be sent before the client requests
// them. It does not request a chunk group, of the given size, that lies in a hole.
func (h announcedHoles) headStart(n, group int64) int64 {
	for _, r := range h.ranges {
		if rest := r.Start % group; rest > 0 {
			r.Start += min(group-rest, r.Len())
		}
		isLast := r.End == h.size && r.Len() > 0
		if r.Len() >= group || isLast {
			return min(n, r.Start)
		}
	}
	return n
}

// announce puts the holes into a manifest.
func (h announcedHoles) announce(m *transferpb.Manifest) { m.Holes, m.MoreHoles = h.raw, h.more }
