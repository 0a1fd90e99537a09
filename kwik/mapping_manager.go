package kwik

import (
	"cmp"
	"slices"
	"time"
)

// A secondaryStreamID names a secondary stream in a session: QUIC stream ids are unique on one path only.
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
	KWIKStream      StreamID // what it feeds
	CreatedAt       time.Time
	LastActivity    time.Time // when bytes last came, or this side last held them up
	Bytes           int64     // payload so far
	Offset          int64     // where the next byte belongs in the KWIK stream
}

// mappingMetadata is what is known about one mapping.
type mappingMetadata struct {
	MappingMetadata
	grant  uint64 // 0 for a mapping without a grant
	start  int64  // offset of the first byte
	pushed bool   // the source owes nothing, so the mapping never expires
}

func (meta *MappingMetadata) secondary() secondaryStreamID {
	return secondaryStreamID{meta.Path, meta.SecondaryStream}
}

// A grantKey names a grant in a session: grants are numbered within one KWIK stream.
type grantKey struct {
	kwikStream StreamID
	grant      uint64
}

// A streamMappingManager knows which secondary stream feeds which KWIK stream, both ways. It has no lock and no clock:
// the secondary stream handler owns it, guards it and says what time it is. What it costs is bounded by limit.
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

// create maps a secondary stream to a KWIK stream, from offset on. A stream that is mapped already is a conflict,
// whatever its target; so is a second stream for the same grant. Grant 0 stands for none.
func (m *streamMappingManager) create(secondary secondaryStreamID, kwikStream StreamID, grant uint64, offset int64, now time.Time) (*mappingMetadata, error) {
	if old := m.secondaryToKwik[secondary]; old != nil {
		return nil, errorf(ErrStreamMappingConflict, "secondary stream %d is mapped to %#x already", secondary.id, uint64(old.KWIKStream)).
			onPath(secondary.path).onStream(kwikStream, offset)
	}
	meta := &mappingMetadata{MappingMetadata: MappingMetadata{Path: secondary.path, SecondaryStream: secondary.id, CreatedAt: now}}
	if err := m.checkGrant(meta, kwikStream, grant, offset); err != nil {
		return nil, err
	}
	if len(m.secondaryToKwik) >= m.limit {
		return nil, errorf(ErrSecondaryStreamOverflow, "%d secondary streams are mapped", m.limit).
			onPath(secondary.path).onStream(kwikStream, offset)
	}
	m.secondaryToKwik[secondary] = meta
	m.link(meta, kwikStream, grant, offset, now)
	return meta, nil
}

// update moves a mapping to another place: another KWIK stream, grant or offset. What was written so far stays counted. A
// stream that is not mapped and a grant that another answers are conflicts, which change nothing.
func (m *streamMappingManager) update(secondary secondaryStreamID, kwikStream StreamID, grant uint64, offset int64, now time.Time) error {
	meta := m.secondaryToKwik[secondary]
	if meta == nil {
		return errorf(ErrStreamMappingConflict, "secondary stream %d is not mapped", secondary.id).
			onPath(secondary.path).onStream(kwikStream, offset)
	}
	if err := m.checkGrant(meta, kwikStream, grant, offset); err != nil {
		return err
	}
	m.unlink(meta)
	m.link(meta, kwikStream, grant, offset, now)
	return nil
}

// checkGrant refuses a grant that another mapping than meta answers.
func (m *streamMappingManager) checkGrant(meta *mappingMetadata, kwikStream StreamID, grant uint64, offset int64) error {
	if old := m.grants[grantKey{kwikStream, grant}]; grant != 0 && old != nil && old != meta {
		return errorf(ErrStreamMappingConflict, "grant %d is answered by secondary stream %d already", grant, old.SecondaryStream).
			onPath(meta.Path).onStream(kwikStream, offset)
	}
	return nil
}

// link enters a mapping under its KWIK stream and grant.
func (m *streamMappingManager) link(meta *mappingMetadata, kwikStream StreamID, grant uint64, offset int64, now time.Time) {
	meta.KWIKStream, meta.grant, meta.start, meta.Offset, meta.LastActivity = kwikStream, grant, offset, offset, now
	if m.kwikToSecondaries[kwikStream] == nil {
		m.kwikToSecondaries[kwikStream] = make(map[secondaryStreamID]*mappingMetadata)
	}
	m.kwikToSecondaries[kwikStream][meta.secondary()] = meta
	if grant != 0 {
		m.grants[grantKey{kwikStream, grant}] = meta
	}
}

// unlink is link's opposite.
func (m *streamMappingManager) unlink(meta *mappingMetadata) {
	streams := m.kwikToSecondaries[meta.KWIKStream]
	delete(streams, meta.secondary())
	if len(streams) == 0 {
		delete(m.kwikToSecondaries, meta.KWIKStream)
	}
	delete(m.grants, grantKey{meta.KWIKStream, meta.grant})
}

// target returns the mapping of a secondary stream, nil if it has none.
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

// touch says that a mapping is in use though no byte was placed.
func (m *streamMappingManager) touch(meta *mappingMetadata, now time.Time) { meta.LastActivity = now }

// checkRange refuses bytes [start, end) of a KWIK stream of which another path's mapping has written a part. Under grants that
// cannot happen; it is for sources that write without. It looks at each mapping of the KWIK stream.
func (m *streamMappingManager) checkRange(path PathID, kwikStream StreamID, start, end int64) error {
	for _, meta := range m.kwikToSecondaries[kwikStream] {
		if from := max(start, meta.start); meta.Path != path && from < min(end, meta.Offset) {
			return errorf(ErrStreamMappingConflict, "path %q has written [%d, %d)", string(meta.Path), meta.start, meta.Offset).
				onPath(path).onStream(kwikStream, from)
		}
	}
	return nil
}

// expire returns the mappings whose sources owe bytes and on which nothing happened since a time. They stay until their
// streams, which the owner cancels, have ended.
func (m *streamMappingManager) expire(since time.Time) (idle []*mappingMetadata) {
	for _, meta := range m.secondaryToKwik {
		if !meta.pushed && meta.LastActivity.Before(since) {
			idle = append(idle, meta)
		}
	}
	return idle
}

// remove forgets a mapping; one that is not there is no error.
func (m *streamMappingManager) remove(secondary secondaryStreamID) {
	if meta := m.secondaryToKwik[secondary]; meta != nil {
		m.unlink(meta)
		delete(m.secondaryToKwik, secondary)
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
