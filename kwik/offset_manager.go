package kwik

import (
	"kwikcp/internal/rangeset"
)

// An offsetManager keeps the offsets of one KWIK stream that many sources write: what has been taken from whom, where
// the holes are, and what comes next. It has no lock and no clock; the stream aggregator owns it and guards it.
//
// When two sources deliver the same bytes, the first wins: both were proved, so they do not differ.
type offsetManager struct {
	// claimed holds the bytes that were taken: they are in their place or on their way there.
	claimed rangeset.Set
	// next is the next expected offset: everything before it was taken.
	next int64
	// read is how far the ordered reader got; claimed bytes from there on are pending.
	read          int64
	sourceOffsets map[PathID]int64 // one past the last byte that each source delivered
	conflicts     int              // deliveries of which a part had been delivered before
	wasted        int64            // bytes that came in vain: delivered twice, or refuted
}

func newOffsetManager() *offsetManager {
	return &offsetManager{sourceOffsets: make(map[PathID]int64)}
}

// claim takes what is missing of [start, end), delivered by a source, and returns it as ranges in order. What the
// ranges do not cover came twice.
func (m *offsetManager) claim(source PathID, start, end int64) []rangeset.Range {
	m.sourceOffsets[source] = end
	var fresh []rangeset.Range
	for from := start; from < end; {
		r, ok := m.claimed.NextMissing(from, end)
		if !ok {
			break
		}
		fresh = append(fresh, r)
		from = r.End
	}
	added := m.claimed.Add(start, end)
	if added < end-start {
		m.conflicts++
		m.wasted += end - start - added
	}
	if r, ok := m.claimed.First(); ok && r.Start == 0 {
		m.next = r.End
	}
	return fresh
}

// refuse counts bytes that failed their proof.
func (m *offsetManager) refuse(start, end int64) { m.wasted += end - start }

// consume moves the ordered reader n bytes on.
func (m *offsetManager) consume(n int) { m.read += int64(n) }
