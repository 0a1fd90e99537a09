package kwik

import (
	"errors"
	"testing"
	"time"
)

func TestStreamMappingManager(t *testing.T) {
	const limit = 3
	now := time.Unix(1e9, 0)
	a3, a7, b3, b7 := secondaryStreamID{"a", 3}, secondaryStreamID{"a", 7}, secondaryStreamID{"b", 3}, secondaryStreamID{"b", 7}
	m := newStreamMappingManager(limit)
	for _, tt := range []struct {
		name   string
		id     secondaryStreamID
		kwik   StreamID
		grant  uint64
		remove bool
		want   ErrorCode
		left   int // mappings afterwards
	}{
		{"the first", a3, 100, 1, false, NoError, 1},
		{"the same again", a3, 100, 1, false, ErrStreamMappingConflict, 1},
		{"the same to another target", a3, 101, 2, false, ErrStreamMappingConflict, 1},
		{"the same id on another path", b3, 100, 2, false, NoError, 2},
		{"a grant that is answered already", a7, 100, 2, false, ErrStreamMappingConflict, 2},
		{"the same grant number of another stream", a7, 101, 2, false, NoError, 3},
		{"one too many", b7, 101, 3, false, ErrSecondaryStreamOverflow, 3},
		{"a conflict when full is a conflict", a7, 101, 3, false, ErrStreamMappingConflict, 3},
		{"removing one that is not there", b7, 0, 0, true, NoError, 3},
		{"removing one", a3, 0, 0, true, NoError, 2},
		{"removing it again", a3, 0, 0, true, NoError, 2},
		{"there is room again, and its grant is free", b7, 100, 1, false, NoError, 3},
	} {
		if tt.remove {
			m.remove(tt.id)
		} else {
			meta, err := m.create(tt.id, tt.kwik, tt.grant, 64, now)
			if codeOf(err) != tt.want {
				t.Fatalf("%s: error %v, want %v", tt.name, err, tt.want)
			}
			if e, is := errors.AsType[*Error](err); is && (e.Path != tt.id.path || e.Stream != tt.kwik || e.Offset != 64) {
				t.Errorf("%s: %v does not say where", tt.name, e)
			}
			if err == nil && (meta.secondary != tt.id || meta.currentOffset != 64 || meta.createdAt != now || meta.kwikStream != tt.kwik) {
				t.Errorf("%s: %+v", tt.name, meta)
			}
		}
		// Both directions agree.
		both := 0
		for kwik, streams := range m.kwikToSecondaries {
			if len(streams) == 0 {
				t.Errorf("%s: an empty entry for stream %d", tt.name, kwik)
			}
			for id, meta := range streams {
				if both++; m.secondaryToKwik[id] != meta || meta.kwikStream != kwik {
					t.Errorf("%s: %v is mapped one way only", tt.name, id)
				}
			}
		}
		if both != tt.left || len(m.secondaryToKwik) != tt.left {
			t.Fatalf("%s: %d and %d mappings, want %d", tt.name, both, len(m.secondaryToKwik), tt.left)
		}
	}

	meta := m.secondaryToKwik[b7]
	m.advance(meta, 100, now.Add(time.Second))
	m.advance(meta, 1, now.Add(2*time.Second))
	if meta.bytes != 101 || meta.currentOffset != 165 || meta.lastActivity != now.Add(2*time.Second) || meta.createdAt != now {
		t.Errorf("after 101 bytes: %+v", meta)
	}
}
