package kwik

import (
	"slices"
)

const (
	// maxUnit bounds a unit, in bytes: it is what a client may have to hold of one source before it can be proved.
	maxUnit = 1 << 20
	// maxStreamSize bounds an aggregate stream so that offsets and their sums fit QUIC's varints and an int64.
	maxStreamSize = 1<<62 - 1
)

// units knows where the units of an aggregate stream begin and end. A unit is what is proved at once; units are size
// bytes long and start anew at each segment, so the last one of a segment may be shorter. It is immutable.
type units struct {
	total  int64   // bytes of the stream
	size   int64   // bytes of a full unit
	starts []int64 // where the segments start, ascending, the first 0; nil means one segment
}

// newUnits checks what an offer says about units.
func newUnits(total, alignment uint64, segments []uint64) (units, error) {
	if total == 0 || total > maxStreamSize {
		return units{}, errorf(ErrMetadataProtocolViolation, "stream of %d bytes", total)
	}
	if alignment > maxUnit {
		return units{}, errorf(ErrMetadataProtocolViolation, "alignment of %d bytes is larger than %d", alignment, maxUnit)
	}
	u := units{total: int64(total), size: max(1, int64(alignment))}
	if len(segments) < 2 {
		if len(segments) == 1 && segments[0] != total {
			return units{}, errorf(ErrMetadataProtocolViolation, "segment of %d bytes in a stream of %d", segments[0], total)
		}
		return u, nil
	}
	sum := uint64(0)
	u.starts = make([]int64, 0, len(segments))
	for _, n := range segments {
		if n == 0 || n > total-sum {
			return units{}, errorf(ErrMetadataProtocolViolation, "segments do not add up to the stream's %d bytes", total)
		}
		u.starts = append(u.starts, int64(sum))
		sum += n
	}
	if sum != total {
		return units{}, errorf(ErrMetadataProtocolViolation, "segments add up to %d of the stream's %d bytes", sum, total)
	}
	return u, nil
}

// segment returns the bounds of the segment that holds off, 0 <= off < total.
func (u units) segment(off int64) (start, end int64) {
	if len(u.starts) == 0 {
		return 0, u.total
	}
	i, found := slices.BinarySearch(u.starts, off)
	if !found {
		i--
	}
	if i+1 < len(u.starts) {
		return u.starts[i], u.starts[i+1]
	}
	return u.starts[i], u.total
}

// floor returns the last unit boundary at or before off; offsets outside the stream are clipped to it.
func (u units) floor(off int64) int64 {
	if off <= 0 {
		return 0
	}
	if off >= u.total {
		return u.total
	}
	start, _ := u.segment(off)
	return off - (off-start)%u.size
}

// ceil returns the first unit boundary at or after off.
func (u units) ceil(off int64) int64 {
	down := u.floor(off)
	if down >= off || down == u.total {
		return down
	}
	_, end := u.segment(down)
	return min(down+u.size, end)
}

// isBoundary reports whether a unit starts or the stream ends at off.
func (u units) isBoundary(off int64) bool {
	return off >= 0 && off <= u.total && u.floor(off) == off
}

// cut returns the end of the largest run of whole units that starts at the boundary off, has at most most bytes if more
// than one unit, and does not pass limit, a boundary after off.
func (u units) cut(off, most, limit int64) int64 {
	if limit-off <= most {
		return limit
	}
	if end := u.floor(off + most); end > off {
		return end
	}
	return min(u.ceil(off+1), limit)
}

// segments returns the lengths that newUnits was given, nil for one segment.
func (u units) segments() []uint64 {
	if len(u.starts) == 0 {
		return nil
	}
	lengths := make([]uint64, len(u.starts))
	for i, start := range u.starts {
		end := u.total
		if i+1 < len(u.starts) {
			end = u.starts[i+1]
		}
		lengths[i] = uint64(end - start)
	}
	return lengths
}
