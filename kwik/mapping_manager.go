package kwik

import (
	"cmp"
	"slices"
	"time"
)

// A secondaryStreamID identifies a secondary stream in a session: QUIC stream IDs are unique on one
// path only.
type secondaryStreamID struct {
	path PathID
	id   int64 // the QUIC stream id
}

func (s secondaryStreamID) compare(t secondaryStreamID) int {
	return cmp.Or(cmp.Compare(s.path, t.path), cmp.Compare(s.id, t.id))
}

// MappingMetadata is a snapshot of one mapping of a secondary stream to a KWIK stream.
type MappingMetadata struct {
	Path            PathID
	SecondaryStream int64    // the QUIC stream id on that path
	KWIKStream      StreamID // the target
	CreatedAt       time.Time
	LastActivity    time.Time // when bytes last arrived, or this side last delayed them
	Bytes           int64     // payload so far
	Offset          int64     // where the next byte belongs in the KWIK stream
	End             int64     // where the source must stop, as last sent to it
}

// mappingMetadata is the record of one mapping.
type mappingMetadata struct {
	MappingMetadata
	grant  uint64 // 0 for a mapping without a grant
	pushed bool   // the source owes nothing, so the mapping never expires
}

func (meta *MappingMetadata) secondary() secondaryStreamID {
	return secondaryStreamID{meta.Path, meta.SecondaryStream}
}

// A grantKey identifies a grant in a session: grants are numbered within one KWIK stream.
type grantKey struct {
	kwikStream StreamID
	grant      uint64
}

// A streamMappingManager maps secondary streams to KWIK streams, in both directions. It has no lock
// and no clock: the secondary stream handler owns it, guards it and passes the time. limit bounds
// its memory.
type streamMappingManager struct {
	limit             int // mappings at most
	secondaryToKwik   map[secondaryStreamID]*mappingMetadata
	kwikToSecondaries map[StreamID]map[secondaryStreamID]*mappingMetadata
	grants            map[grantKey]*mappingMetadata
}

func newStreamMappingManager(limit int) *streamMappingManager {
	return &streamMappingManager{
		limit:             limit,
		secondaryToKwik:   make(map[secondaryStreamID]*mappingMetadata),
		kwikToSecondaries: make(map[StreamID]map[secondaryStreamID]*mappingMetadata),
		grants:            make(map[grantKey]*mappingMetadata),
	}
}

// create maps a secondary stream to the bytes [start, end) of a KWIK stream. A second mapping of a
// secondary stream is a conflict, whatever its target. So is a second stream for one grant. Grant 0
// means no grant.
func (m *streamMappingManager) create(
	secondary secondaryStreamID, kwikStream StreamID, grant uint64, start, end int64, now time.Time,
) (*mappingMetadata, error) {
	var refusal *Error
	if old := m.secondaryToKwik[secondary]; old != nil {
		refusal = errorf(ErrStreamMappingConflict,
			"secondary stream %d is mapped to %#x already", secondary.id, uint64(old.KWIKStream))
	} else if old := m.grants[grantKey{kwikStream, grant}]; grant != 0 && old != nil {
		refusal = errorf(ErrStreamMappingConflict,
			"grant %d is answered by secondary stream %d already", grant, old.SecondaryStream)
	} else if len(m.secondaryToKwik) >= m.limit {
		refusal = errorf(ErrSecondaryStreamOverflow, "%d secondary streams are mapped", m.limit)
	}
	if refusal != nil {
		return nil, refusal.onPath(secondary.path).onStream(kwikStream, start)
	}
	meta := &mappingMetadata{grant: grant, MappingMetadata: MappingMetadata{
		Path: secondary.path, SecondaryStream: secondary.id, KWIKStream: kwikStream,
		CreatedAt: now, LastActivity: now, Offset: start, End: end,
	}}
	m.secondaryToKwik[secondary] = meta
	if m.kwikToSecondaries[kwikStream] == nil {
		m.kwikToSecondaries[kwikStream] = make(map[secondaryStreamID]*mappingMetadata)
	}
	m.kwikToSecondaries[kwikStream][secondary] = meta
	if grant != 0 {
		m.grants[grantKey{kwikStream, grant}] = meta
	}
	return meta, nil
}

// update moves the end of the mapping that answers a grant, because the source was told to stop at
// end. It has no effect on a grant without a mapping: a later mapping starts with the new end.
func (m *streamMappingManager) update(kwikStream StreamID, grant uint64, end int64) {
	if meta := m.grants[grantKey{kwikStream, grant}]; meta != nil {
		meta.End = end
	}
}

// target returns the mapping of a secondary stream, or nil if it has none.
func (m *streamMappingManager) target(secondary secondaryStreamID) *mappingMetadata {
	return m.secondaryToKwik[secondary]
}

// sources returns the mappings that feed a KWIK stream. The map is the manager's own.
func (m *streamMappingManager) sources(kwikStream StreamID) map[secondaryStreamID]*mappingMetadata {
	return m.kwikToSecondaries[kwikStream]
}

// advance records n payload bytes of a mapped stream.
func (m *streamMappingManager) advance(meta *mappingMetadata, n int, now time.Time) {
	meta.Bytes += int64(n)
	meta.Offset += int64(n)
	meta.LastActivity = now
}

// touch records activity on a mapping when no byte was placed.
func (m *streamMappingManager) touch(meta *mappingMetadata, now time.Time) { meta.LastActivity = now }

// expire returns the mappings without activity since a time whose sources owe bytes. It does not
// remove them: the owner cancels their streams, and their end removes them.
func (m *streamMappingManager) expire(since time.Time) (idle []*mappingMetadata) {
	for _, meta := range m.secondaryToKwik {
		if !meta.pushed && meta.LastActivity.Before(since) {
			idle = append(idle, meta)
		}
	}
	return idle
}

// remove removes a mapping, if it exists.
func (m *streamMappingManager) remove(secondary secondaryStreamID) {
	meta := m.secondaryToKwik[secondary]
	if meta == nil {
		return
	}
	delete(m.secondaryToKwik, secondary)
	delete(m.grants, grantKey{meta.KWIKStream, meta.grant})
	streams := m.kwikToSecondaries[meta.KWIKStream]
	delete(streams, secondary)
	if len(streams) == 0 {
		delete(m.kwikToSecondaries, meta.KWIKStream)
	}
}

// snapshot returns all mappings, by path and stream.
func (m *streamMappingManager) snapshot() []MappingMetadata {
	all := make([]MappingMetadata, 0, len(m.secondaryToKwik))
	for _, meta := range m.secondaryToKwik {
		all = append(all, meta.MappingMetadata)
	}
	slices.SortFunc(all, func(a, b MappingMetadata) int {
		return a.secondary().compare(b.secondary())
	})
	return all
}
