package sched

import (
	"fmt"
	"slices"
)

const (
	// MaxUnit bounds a unit, in bytes: a client may have to hold this much of a source before it
	// can verify it.
	MaxUnit = 1 << 20
	// MaxLocalUnit bounds a unit of a stream that this machine describes itself, in bytes.
	MaxLocalUnit = 4 << 20
	// MaxStreamSize bounds an aggregate stream, in bytes, so that offsets and their sums fit a
	// QUIC varint and an int64.
	MaxStreamSize = 1<<62 - 1
	// MaxSegments bounds the segments of an aggregate stream. Both ends keep 8 bytes for each.
	MaxSegments = 4096
)

// Units knows the unit boundaries of an aggregate stream. A unit is verified as a whole. Each
// segment of the stream begins with a new unit, so the last unit of a segment may be shorter than
// the others. A Units value is immutable.
type Units struct {
	total  int64   // bytes of the stream
	size   int64   // bytes of a full unit
	starts []int64 // where the segments start, ascending, the first 0; nil means one segment
}

// NewUnits returns the units of a stream of total bytes. Alignment is the size of a full unit in
// bytes; 0 means 1. Segments are the lengths of the segments, at most [MaxSegments]; none means one
// segment.
func NewUnits(total, alignment uint64, segments []uint64) (Units, error) {
	if alignment > MaxUnit {
		return Units{}, fmt.Errorf("alignment of %d bytes is larger than %d", alignment, MaxUnit)
	}
	return newUnits(total, alignment, segments)
}

// NewLocalUnits is NewUnits of a stream that this machine describes itself. Its units may be
// larger, up to [MaxLocalUnit].
func NewLocalUnits(total, alignment uint64) (Units, error) {
	if alignment > MaxLocalUnit {
		return Units{}, fmt.Errorf("alignment of %d bytes is larger than %d", alignment, MaxLocalUnit)
	}
	return newUnits(total, alignment, nil)
}

func newUnits(total, alignment uint64, segments []uint64) (Units, error) {
	if total == 0 || total > MaxStreamSize {
		return Units{}, fmt.Errorf("stream of %d bytes", total)
	}
	if len(segments) > MaxSegments {
		return Units{}, fmt.Errorf("%d segments, at most %d are allowed", len(segments), MaxSegments)
	}
	u := Units{total: int64(total), size: max(1, int64(alignment))}
	if len(segments) < 2 {
		if len(segments) == 1 && segments[0] != total {
			return Units{}, fmt.Errorf("segment of %d bytes in a stream of %d", segments[0], total)
		}
		return u, nil
	}
	sum := uint64(0)
	u.starts = make([]int64, 0, len(segments))
	for _, n := range segments {
		if n == 0 || n > total-sum {
			return Units{}, fmt.Errorf("segments do not add up to the stream's %d bytes", total)
		}
		u.starts = append(u.starts, int64(sum))
		sum += n
	}
	if sum != total {
		return Units{}, fmt.Errorf("segments add up to %d of the stream's %d bytes", sum, total)
	}
	return u, nil
}

// Total returns the size of the stream in bytes.
func (u Units) Total() int64 { return u.total }

// Size returns the size of a full unit in bytes.
func (u Units) Size() int64 { return u.size }

// Memory returns the bytes that the segments occupy.
func (u Units) Memory() int64 { return 8 * int64(cap(u.starts)) }

// segment returns the bounds of the segment that holds off, 0 <= off < total.
func (u Units) segment(off int64) (start, end int64) {
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

// Floor returns the last unit boundary at or before off. An offset outside the stream is clipped
// to it.
func (u Units) Floor(off int64) int64 {
	if off <= 0 {
		return 0
	}
	if off >= u.total {
		return u.total
	}
	start, _ := u.segment(off)
	return off - (off-start)%u.size
}

// Ceil returns the first unit boundary at or after off. An offset outside the stream is clipped to
// it.
func (u Units) Ceil(off int64) int64 {
	down := u.Floor(off)
	if down >= off || down == u.total {
		return down
	}
	_, end := u.segment(down)
	return min(down+u.size, end)
}

// IsBoundary reports whether a unit starts, or the stream ends, at off.
func (u Units) IsBoundary(off int64) bool {
	return off >= 0 && off <= u.total && u.Floor(off) == off
}

// Cut returns the end of the longest run of whole units that starts at the boundary off. The run
// does not pass limit, a later boundary. The run has at most most bytes, unless its first unit
// alone has more.
func (u Units) Cut(off, most, limit int64) int64 {
	if limit-off <= most {
		return limit
	}
	if end := u.Floor(off + most); end > off {
		return end
	}
	return min(u.Ceil(off+1), limit)
}

// Segments returns the lengths that [NewUnits] was given, nil for one segment.
func (u Units) Segments() []uint64 {
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
