package kwik

import (
	"kwikcp/internal/rangeset"
)

// A ConflictResolutionStrategy chooses between different bytes that two sources of a pushed stream
// deliver for the same offsets. In a pulled stream the first delivery always wins: verified bytes
// do not differ.
type ConflictResolutionStrategy int

const (
	// ConflictResolutionFirstWins keeps the bytes that were delivered first. It is the default.
	ConflictResolutionFirstWins ConflictResolutionStrategy = iota
	// ConflictResolutionLastWins takes the bytes that were delivered last, unless the earlier ones
	// were read.
	ConflictResolutionLastWins
	// ConflictResolutionPrimaryWins takes the primary's bytes over those of a secondary, unless
	// these were read. Otherwise the first delivery wins.
	ConflictResolutionPrimaryWins
	// ConflictResolutionReject refuses the whole later delivery: its secondary stream ends with
	// ErrStreamMappingConflict. A server that has written everything by then does not hear of it.
	ConflictResolutionReject
)

// An offsetManager keeps the offsets of one KWIK stream that many sources write. It knows the
// bytes that were claimed, the holes between them, and the next offset. It has no lock and no
// clock; the stream aggregator owns and guards it.
type offsetManager struct {
	strategy ConflictResolutionStrategy
	// claimed holds the bytes that a delivery has claimed. They are in place, or being written.
	claimed rangeset.Set
	// primaries holds the claimed bytes that the primary delivered.
	primaries rangeset.Set
	// next is the next expected offset: everything before it was claimed.
	next int64
	// read is the position of the ordered reader; claimed bytes from there on are pending.
	read          int64
	sourceOffsets map[PathID]int64 // one past the last byte that each source delivered
	conflicts     int              // deliveries that overlap an earlier one
	wasted        int64            // bytes that were delivered twice, or were wrong
	kept          int64            // bytes that the client had before the transfer
}

func newOffsetManager(strategy ConflictResolutionStrategy) *offsetManager {
	return &offsetManager{strategy: strategy, sourceOffsets: make(map[PathID]int64)}
}

// maxPieces bounds the pieces of the claimed bytes, with holes between them.
const maxPieces = 1 << 14

// claim claims [start, end) for a source's delivery. It returns, in order, the ranges that were
// not claimed before and those whose earlier bytes the delivery replaces. The caller drops the
// other bytes. With an error nothing was claimed. Its code is ErrStreamMappingConflict, or
// ErrSecondaryStreamOverflow if there would be more than maxPieces.
func (m *offsetManager) claim(
	source PathID, primary bool, start, end int64,
) (fresh, replaced []rangeset.Range, err error) {
	m.sourceOffsets[source] = end
	fresh = missing(&m.claimed, start, end)
	isNewPiece := m.claimed.Overlap(start-1, end+1) == 0
	if m.claimed.Len() >= maxPieces && isNewPiece {
		m.wasted += end - start
		err := errorf(ErrSecondaryStreamOverflow, "the delivered bytes are in %d pieces already", m.claimed.Len())
		return nil, nil, err.onPath(source)
	}
	overlap := m.claimed.Overlap(start, end)
	if overlap > 0 {
		m.conflicts++
		m.wasted += overlap // either the earlier or the later bytes are dropped
		switch {
		case m.strategy == ConflictResolutionReject:
			m.wasted += end - start - overlap
			err := errorf(ErrStreamMappingConflict, "%d bytes of [%d, %d) were delivered before", overlap, start, end)
			return nil, nil, err.onPath(source)
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

// markHad claims [start, end), which the client had before the transfer.
func (m *offsetManager) markHad(start, end int64) {
	m.kept += m.claimed.Add(start, end)
	m.advance()
}

// advance updates the next expected offset.
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

// discard counts delivered bytes that are dropped without a claim.
func (m *offsetManager) discard(start, end int64) { m.wasted += end - start }

// consume advances the ordered reader by n bytes.
func (m *offsetManager) consume(n int) { m.read += int64(n) }
