package kwik

import (
	"time"
)

// A secondaryStreamID names a secondary stream in a session: QUIC stream ids are unique on one path only.
type secondaryStreamID struct {
	path PathID
	id   int64 // the QUIC stream id
}

// mappingMetadata is what is known about one mapping.
type mappingMetadata struct {
	secondary     secondaryStreamID
	kwikStream    StreamID
	grant         uint64
	createdAt     time.Time
	lastActivity  time.Time
	bytes         int64 // payload so far
	currentOffset int64 // where the next byte belongs in the KWIK stream
}

// A streamMappingManager knows which secondary stream feeds which KWIK stream, both ways. It has no lock and no clock:
// the secondary stream handler owns it, guards it and says what time it is.
type streamMappingManager struct {
	limit             int // mappings at most
	secondaryToKwik   map[secondaryStreamID]*mappingMetadata
	kwikToSecondaries map[StreamID]map[secondaryStreamID]*mappingMetadata
}

func newStreamMappingManager(limit int) *streamMappingManager {
	return &streamMappingManager{
		limit:             limit,
		secondaryToKwik:   make(map[secondaryStreamID]*mappingMetadata),
		kwikToSecondaries: make(map[StreamID]map[secondaryStreamID]*mappingMetadata),
	}
}

// create maps a secondary stream to a KWIK stream, from offset on. A stream that is mapped already is a conflict,
// whatever its target; so is a second stream for the same grant.
func (m *streamMappingManager) create(secondary secondaryStreamID, kwikStream StreamID, grant uint64, offset int64, now time.Time) (*mappingMetadata, error) {
	if old, mapped := m.secondaryToKwik[secondary]; mapped {
		return nil, errorf(ErrStreamMappingConflict, "secondary stream %d is mapped to %#x already", secondary.id, uint64(old.kwikStream)).
			onPath(secondary.path).onStream(kwikStream, offset)
	}
	for other, old := range m.kwikToSecondaries[kwikStream] {
		if old.grant == grant {
			return nil, errorf(ErrStreamMappingConflict, "grant %d is answered by secondary stream %d already", grant, other.id).
				onPath(secondary.path).onStream(kwikStream, offset)
		}
	}
	if len(m.secondaryToKwik) >= m.limit {
		return nil, errorf(ErrSecondaryStreamOverflow, "%d secondary streams are mapped", m.limit).
			onPath(secondary.path).onStream(kwikStream, offset)
	}
	meta := &mappingMetadata{secondary: secondary, kwikStream: kwikStream, grant: grant, createdAt: now, lastActivity: now, currentOffset: offset}
	m.secondaryToKwik[secondary] = meta
	if m.kwikToSecondaries[kwikStream] == nil {
		m.kwikToSecondaries[kwikStream] = make(map[secondaryStreamID]*mappingMetadata)
	}
	m.kwikToSecondaries[kwikStream][secondary] = meta
	return meta, nil
}

// advance records n payload bytes of a mapped stream.
func (m *streamMappingManager) advance(meta *mappingMetadata, n int, now time.Time) {
	meta.bytes += int64(n)
	meta.currentOffset += int64(n)
	meta.lastActivity = now
}

// remove forgets a mapping; one that is not there is no error.
func (m *streamMappingManager) remove(secondary secondaryStreamID) {
	meta, mapped := m.secondaryToKwik[secondary]
	if !mapped {
		return
	}
	delete(m.secondaryToKwik, secondary)
	streams := m.kwikToSecondaries[meta.kwikStream]
	delete(streams, secondary)
	if len(streams) == 0 {
		delete(m.kwikToSecondaries, meta.kwikStream)
	}
}
