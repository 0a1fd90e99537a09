package kwik

import (
	"kwikcp/internal/rangeset"
)

// A ConflictResolutionStrategy says which bytes of a pushed stream count when two sources deliver different ones for the same
// place. In a pulled stream the first always win: bytes are granted twice only to be sooner, and what is proved does not differ.
type ConflictResolutionStrategy int

const (
	// ConflictResolutionFirstWins keeps what came first. The default.
	ConflictResolutionFirstWins ConflictResolutionStrategy = iota
	// ConflictResolutionLastWins takes what comes last, as long as it has not been read.
	ConflictResolutionLastWins
	// ConflictResolutionPrimaryWins takes the primary's bytes over any secondary's, as long as those have not been read, and
	// otherwise what came first.
	ConflictResolutionPrimaryWins
	// ConflictResolutionReject refuses the later delivery whole: its secondary stream ends with ErrStreamMappingConflict.
	ConflictResolutionReject
)

// An offsetManager keeps the offsets of one KWIK stream that many sources write: what has been taken from whom, where
// the holes are, and what comes next. It has no lock and no clock; the stream aggregator owns it and guards it.
type offsetManager struct {
	strategy ConflictResolutionStrategy
	// claimed holds the bytes that were taken: they are in their place or on their way there. Those of primaries came from the
	// primary.
	claimed, primaries rangeset.Set
	// next is the next expected offset: everything before it was taken.
	next int64
	// read is how far the ordered reader got; claimed bytes from there on are pending.
	read          int64
	sourceOffsets map[PathID]int64 // one past the last byte that each source delivered
	conflicts     int              // deliveries of which a part had been delivered before
	wasted        int64            // bytes that came in vain: delivered twice, or refuted
	kept          int64            // bytes that were had before anything came
}

func newOffsetManager(strategy ConflictResolutionStrategy) *offsetManager {
	return &offsetManager{strategy: strategy, sourceOffsets: make(map[PathID]int64)}
}

// maxPieces bounds into how many pieces, with holes between them, what was taken may be broken.
const maxPieces = 1 << 14

// claim takes [start, end) as delivered by a source. It returns what had been missing, and what had come before and is to be
// replaced, as ranges in order; the rest is to be dropped. With an error, of code ErrStreamMappingConflict or, for a piece too
// many, ErrSecondaryStreamOverflow, nothing was taken.
func (m *offsetManager) claim(source PathID, primary bool, start, end int64) (fresh, replaced []rangeset.Range, err error) {
	m.sourceOffsets[source] = end
	fresh = missing(&m.claimed, start, end)
	if m.claimed.Len() >= maxPieces && m.claimed.Overlap(start-1, end+1) == 0 {
		m.wasted += end - start
		return nil, nil, errorf(ErrSecondaryStreamOverflow, "what came is in %d pieces already", m.claimed.Len()).onPath(source)
	}
	overlap := m.claimed.Overlap(start, end)
	if overlap > 0 {
		m.conflicts++
		m.wasted += overlap // the older bytes or the newer ones came in vain
		switch {
		case m.strategy == ConflictResolutionReject:
			m.wasted += end - start - overlap
			return nil, nil, errorf(ErrStreamMappingConflict, "%d bytes of [%d, %d) were delivered before", overlap, start, end).onPath(source)
		case m.strategy == ConflictResolutionLastWins:
			replaced = present(&m.claimed, max(start, m.read), end)
		case m.strategy == ConflictResolutionPrimaryWins && primary:
			for _, r := range present(&m.claimed, max(start, m.read), end) {
				replaced = append(replaced, missing(&m.primaries, r.Start, r.End)...)
			}
		}
	}
	m.claimed.Add(start, end)
	if primary {
		m.primaries.Add(start, end)
	}
	m.advance()
	return fresh, replaced, nil
}

// keep takes [start, end) as had before anything came.
func (m *offsetManager) keep(start, end int64) {
	m.kept += m.claimed.Add(start, end)
	m.advance()
}

// advance finds the next expected offset.
func (m *offsetManager) advance() {
	if r, ok := m.claimed.First(); ok && r.Start == 0 {
		m.next = r.End
	}
}

// missing returns the ranges of [start, end) that are not in a set.
func missing(set *rangeset.Set, start, end int64) (ranges []rangeset.Range) {
	for start < end {
		r, ok := set.NextMissing(start, end)
		if !ok {
			break
		}
		ranges = append(ranges, r)
		start = r.End
	}
	return ranges
}

// present returns the ranges of [start, end) that are in a set.
func present(set *rangeset.Set, start, end int64) (ranges []rangeset.Range) {
	for start < end {
		r, ok := set.NextPresent(start, end)
		if !ok {
			break
		}
		ranges = append(ranges, r)
		start = r.End
	}
	return ranges
}

// refuse counts bytes that failed their proof.
func (m *offsetManager) refuse(start, end int64) { m.wasted += end - start }

// consume moves the ordered reader n bytes on.
func (m *offsetManager) consume(n int) { m.read += int64(n) }
