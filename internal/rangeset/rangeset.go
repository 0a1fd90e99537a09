// Package rangeset keeps sets of byte offsets as sorted half-open ranges.
//
// It is what "which bytes have arrived", "which are proved" and "which are
// granted" are written in. It is pure: no goroutine, clock, lock or I/O.
package rangeset

import (
	"fmt"
	"iter"
	"slices"
	"sort"
)

// A Range is the bytes at offsets [Start, End). It is empty unless Start < End.
type Range struct {
	Start, End int64
}

// Len returns the number of bytes in r, 0 if r is empty or inverted.
func (r Range) Len() int64 { return max(0, r.End-r.Start) }

// Empty reports whether r holds no byte.
func (r Range) Empty() bool { return r.Start >= r.End }

// Intersect returns the bytes common to r and o; it may be empty.
func (r Range) Intersect(o Range) Range {
	return Range{max(r.Start, o.Start), min(r.End, o.End)}
}

// String returns r in the usual notation, "[0,4096)".
func (r Range) String() string { return fmt.Sprintf("[%d,%d)", r.Start, r.End) }

// A Set is a set of non-negative byte offsets. The zero value is an empty set
// ready for use.
//
// Its form is canonical: ranges are sorted, none is empty, and no two overlap or touch. So two
// sets hold the same bytes exactly if their Ranges are equal. Arguments that describe an empty
// or inverted range are no error: they hold no byte, so nothing happens.
//
// A Set is not safe for concurrent use, and a copy of the struct shares its
// memory with the original: use Clone.
//
// Queries cost O(log n) in the number of ranges. Add and Sub cost the same, plus the move of
// the ranges behind the place they change. Growing the last range, as bytes that arrive in
// order do, moves none.
type Set struct {
	ranges []Range
	total  int64 // bytes in ranges
}

// Of returns the set of the bytes in ranges, which may be in any order and overlap.
func Of(ranges ...Range) Set {
	var s Set
	for _, r := range ranges {
		s.Add(r.Start, r.End)
	}
	return s
}

// endingAfter returns the index of the first range with a byte at or after
// off, or Len if there is none.
func (s *Set) endingAfter(off int64) int {
	return sort.Search(len(s.ranges), func(i int) bool { return s.ranges[i].End > off })
}

// startingFrom returns the index of the first range, from i on, that starts at
// or after off, or Len if there is none.
func (s *Set) startingFrom(i int, off int64) int {
	return i + sort.Search(len(s.ranges)-i, func(k int) bool { return s.ranges[i+k].Start >= off })
}

// Add puts [start, end) into the set and returns how many of these bytes were
// not in it before.
func (s *Set) Add(start, end int64) (added int64) {
	if start >= end {
		return 0
	}
	// ranges[i:j] overlap or touch [start, end): they and it become one. Both
	// searches admit equality, which is what makes a touching range join.
	i := sort.Search(len(s.ranges), func(k int) bool { return s.ranges[k].End >= start })
	j := i + sort.Search(len(s.ranges)-i, func(k int) bool { return s.ranges[i+k].Start > end })
	if i == j {
		s.ranges = slices.Insert(s.ranges, i, Range{start, end})
		s.total += end - start
		return end - start
	}
	var had int64
	for _, r := range s.ranges[i:j] {
		had += r.Len()
	}
	s.ranges[i] = Range{min(start, s.ranges[i].Start), max(end, s.ranges[j-1].End)}
	added = s.ranges[i].Len() - had
	s.ranges = slices.Delete(s.ranges, i+1, j)
	s.total += added
	return added
}

// Sub takes [start, end) out of the set and returns how many of these bytes
// were in it.
func (s *Set) Sub(start, end int64) (removed int64) {
	removed = s.Overlap(start, end)
	if removed == 0 {
		return 0
	}
	i := s.endingAfter(start)
	j := s.startingFrom(i, end)
	// ranges[i:j] lose bytes; at most their two outer ends survive.
	rest := make([]Range, 0, 2)
	if head := (Range{s.ranges[i].Start, start}); !head.Empty() {
		rest = append(rest, head)
	}
	if tail := (Range{end, s.ranges[j-1].End}); !tail.Empty() {
		rest = append(rest, tail)
	}
	s.ranges = slices.Replace(s.ranges, i, j, rest...)
	s.total -= removed
	return removed
}

// Contains reports whether the byte at off is in the set.
func (s *Set) Contains(off int64) bool {
	i := s.endingAfter(off)
	return i < len(s.ranges) && s.ranges[i].Start <= off
}

// ContainsRange reports whether every byte of [start, end) is in the set; of
// an empty range that is true.
func (s *Set) ContainsRange(start, end int64) bool {
	if start >= end {
		return true
	}
	i := s.endingAfter(start)
	return i < len(s.ranges) && s.ranges[i].Start <= start && end <= s.ranges[i].End
}

// Overlap returns how many bytes of [start, end) are in the set.
func (s *Set) Overlap(start, end int64) int64 {
	if start >= end {
		return 0
	}
	var n int64
	for _, r := range s.ranges[s.endingAfter(start):] {
		if r.Start >= end {
			break
		}
		n += r.Intersect(Range{start, end}).Len()
	}
	return n
}

// NextMissing returns the first run of bytes in [from, limit) that are not in the set.
// The run is as long as these bounds allow. It returns false if there is none.
func (s *Set) NextMissing(from, limit int64) (Range, bool) {
	i := s.endingAfter(from)
	if i < len(s.ranges) && s.ranges[i].Start <= from {
		from = s.ranges[i].End
		i++
	}
	if i < len(s.ranges) {
		limit = min(limit, s.ranges[i].Start)
	}
	if from >= limit {
		return Range{}, false
	}
	return Range{from, limit}, true
}

// NextPresent returns the first run of bytes in [from, limit) that are in the set. The
// run is as long as these bounds allow. It returns false if there is none.
func (s *Set) NextPresent(from, limit int64) (Range, bool) {
	i := s.endingAfter(from)
	if i == len(s.ranges) {
		return Range{}, false
	}
	r := s.ranges[i].Intersect(Range{from, limit})
	if r.Empty() {
		return Range{}, false
	}
	return r, true
}

// Total returns the number of bytes in the set.
func (s *Set) Total() int64 { return s.total }

// Len returns the number of ranges in the set, which is the memory it needs.
func (s *Set) Len() int { return len(s.ranges) }

// First returns the first range; false if the set is empty.
func (s *Set) First() (Range, bool) {
	if len(s.ranges) == 0 {
		return Range{}, false
	}
	return s.ranges[0], true
}

// Last returns the last range; false if the set is empty.
func (s *Set) Last() (Range, bool) {
	if len(s.ranges) == 0 {
		return Range{}, false
	}
	return s.ranges[len(s.ranges)-1], true
}

// Ranges returns a copy of the ranges, in order.
func (s *Set) Ranges() []Range { return slices.Clone(s.ranges) }

// All iterates over the ranges, in order. The set must not change meanwhile.
func (s *Set) All() iter.Seq[Range] { return slices.Values(s.ranges) }

// Clone returns a set of the same bytes that shares no memory with s.
func (s *Set) Clone() Set {
	return Set{ranges: slices.Clone(s.ranges), total: s.total}
}

// String returns the ranges in order, "{[0,10) [20,30)}".
func (s *Set) String() string {
	b := []byte{'{'}
	for i, r := range s.ranges {
		if i > 0 {
			b = append(b, ' ')
		}
		b = append(b, r.String()...)
	}
	return string(append(b, '}'))
}
