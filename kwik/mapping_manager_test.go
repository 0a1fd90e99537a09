package kwik

import (
	"errors"
	"slices"
	"testing"
	"time"
)

func TestStreamMappingManager(t *testing.T) {
	const limit = 3
	now := time.Unix(1e9, 0)
	a3, a7, b3, b7 := secondaryStreamID{"a", 3}, secondaryStreamID{"a", 7}, secondaryStreamID{"b", 3}, secondaryStreamID{"b", 7}
	m := newStreamMappingManager(limit)
	type action int
	const (
		create action = iota
		update
		remove
	)
	for _, tt := range []struct {
		name  string
		do    action
		id    secondaryStreamID
		kwik  StreamID
		grant uint64
		want  ErrorCode
		left  int // mappings afterwards
	}{
		{"the first", create, a3, 100, 1, NoError, 1},
		{"the same again", create, a3, 100, 1, ErrStreamMappingConflict, 1},
		{"the same to another target", create, a3, 101, 2, ErrStreamMappingConflict, 1},
		{"the same id on another path", create, b3, 100, 2, NoError, 2},
		{"a grant that is answered already", create, a7, 100, 2, ErrStreamMappingConflict, 2},
		{"the same grant number of another stream", create, a7, 101, 2, NoError, 3},
		{"one too many", create, b7, 101, 3, ErrSecondaryStreamOverflow, 3},
		{"a conflict when full is a conflict", create, a7, 101, 3, ErrStreamMappingConflict, 3},
		{"an end for a grant that no stream answers", update, b7, 101, 3, NoError, 3},
		{"an end for no grant", update, b7, 101, 0, NoError, 3},
		{"an end", update, a7, 101, 2, NoError, 3},
		{"removing one that is not there", remove, b7, 0, 0, NoError, 3},
		{"removing one", remove, a3, 0, 0, NoError, 2},
		{"removing it again", remove, a3, 0, 0, NoError, 2},
		{"there is room again, and its grant is free", create, b7, 100, 1, NoError, 3},
	} {
		var meta *mappingMetadata
		var err error
		switch tt.do {
		case create:
			meta, err = m.create(tt.id, tt.kwik, tt.grant, 64, 96, now)
		case update:
			m.update(tt.kwik, tt.grant, 80)
			if meta := m.target(tt.id); meta != nil && meta.End != 80 {
				t.Errorf("%s: the end is %d", tt.name, meta.End)
			}
			for _, other := range m.snapshot() {
				if other.End != 96 && other.SecondaryStream != a7.id {
					t.Errorf("%s: another's end moved: %+v", tt.name, other)
				}
			}
		case remove:
			m.remove(tt.id)
		}
		if codeOf(err) != tt.want {
			t.Fatalf("%s: error %v, want %v", tt.name, err, tt.want)
		}
		if e, is := errors.AsType[*Error](err); is {
			if e.Path != tt.id.path || e.Stream != tt.kwik || e.Offset != 64 {
				t.Errorf("%s: the error names path %q, stream %d, offset %d", tt.name, e.Path, e.Stream, e.Offset)
			}
		}
		if meta != nil {
			want := MappingMetadata{
				Path: tt.id.path, SecondaryStream: tt.id.id, KWIKStream: tt.kwik,
				CreatedAt: now, LastActivity: now, Offset: 64, End: 96,
			}
			if meta.MappingMetadata != want {
				t.Errorf("%s: %+v, want %+v", tt.name, meta.MappingMetadata, want)
			}
		}
		checkMappings(t, m)
		if n := len(m.snapshot()); n != tt.left {
			t.Fatalf("%s: %d mappings, want %d", tt.name, n, tt.left)
		}
	}

	meta := m.target(b7)
	want := meta.MappingMetadata
	want.Bytes, want.Offset, want.LastActivity = 101, 165, now.Add(2*time.Second)
	m.advance(meta, 100, now.Add(time.Second))
	m.advance(meta, 1, now.Add(2*time.Second))
	if meta.MappingMetadata != want {
		t.Errorf("after 101 bytes: %+v, want %+v", meta.MappingMetadata, want)
	}
}

// checkMappings fails the test unless the indices of the manager agree.
func checkMappings(t *testing.T, m *streamMappingManager) {
	t.Helper()
	both, granted := 0, 0
	for kwik, streams := range m.kwikToSecondaries {
		if len(streams) == 0 {
			t.Fatalf("an empty entry for stream %d", kwik)
		}
		for id, meta := range streams {
			if both++; m.target(id) != meta || meta.KWIKStream != kwik || meta.secondary() != id {
				t.Fatalf("%v is mapped one way only", id)
			}
			if meta.grant != 0 {
				if granted++; m.grants[grantKey{kwik, meta.grant}] != meta {
					t.Fatalf("grant %d is not %v's", meta.grant, id)
				}
			}
		}
	}
	if both != len(m.secondaryToKwik) || granted != len(m.grants) || both > m.limit {
		t.Fatalf("%d mappings one way, %d the other, %d grants of %d, at most %d", len(m.secondaryToKwik), both, len(m.grants), granted, m.limit)
	}
}

func TestMappingExpiry(t *testing.T) {
	start := time.Unix(1e9, 0)
	at := func(seconds int) time.Time { return start.Add(time.Duration(seconds) * time.Second) }
	m := newStreamMappingManager(8)
	var metas []*mappingMetadata
	for i := range 4 {
		meta, err := m.create(secondaryStreamID{"a", int64(4*i + 3)}, 100, uint64(i+1), 0, 1000, at(i))
		if err != nil {
			t.Fatal(err)
		}
		metas = append(metas, meta)
	}
	metas[3].pushed = true
	m.advance(metas[0], 1, at(10))
	m.touch(metas[1], at(11))
	for since, want := range map[int][]int64{0: nil, 2: nil, 3: {11}, 10: {11}, 11: {3, 11}, 12: {3, 7, 11}} {
		var got []int64
		for _, meta := range m.expire(at(since)) {
			got = append(got, meta.SecondaryStream)
		}
		if slices.Sort(got); !slices.Equal(got, want) {
			t.Errorf("idle since %d s: %v, want %v", since, got, want)
		}
	}
	if checkMappings(t, m); len(m.snapshot()) != 4 {
		t.Error("an idle mapping was forgotten before its stream ended")
	}
}

// FuzzMappingManager applies the same operations to a mapping manager and to a list that is
// searched from end to end. Both must give the same answers.
func FuzzMappingManager(f *testing.F) {
	f.Add([]byte("\x00\x00\x01\x00\x40\x01\x02\x00\x01\x80\x00\x00"))
	f.Add([]byte("\x00\x00\x00\x00\x00\x00\x01\x02\x03\x40\x41\x42\x80\x81\xc0\xc1"))
	f.Fuzz(func(t *testing.T, events []byte) {
		const limit = 5
		now := time.Unix(1e9, 0)
		m := newStreamMappingManager(limit)
		type record struct {
			id    secondaryStreamID
			kwik  StreamID
			grant uint64
			bytes int64
			off   int64
			end   int64
			last  time.Time
		}
		var model []*record
		find := func(match func(*record) bool) *record {
			if i := slices.IndexFunc(model, match); i >= 0 {
				return model[i]
			}
			return nil
		}
		for len(events) >= 3 {
			op, x, y := events[0]>>5, events[1], events[2]
			events = events[3:]
			now = now.Add(time.Second)
			id := secondaryStreamID{PathID([]string{"a", "b"}[x&1]), int64(x >> 1 & 3)}
			kwik, grant, off := firstAggregateStreamID+StreamID(x>>3&1), uint64(y&3), int64(y>>2)
			old := find(func(r *record) bool { return r.id == id })
			taken := find(func(r *record) bool { return r.kwik == kwik && r.grant == grant && grant != 0 && r.id != id })
			var err error
			want := NoError
			switch op {
			case 0, 1, 2:
				switch {
				case old != nil || taken != nil:
					want = ErrStreamMappingConflict
				case len(model) == limit:
					want = ErrSecondaryStreamOverflow
				default:
					model = append(model, &record{id: id, kwik: kwik, grant: grant, off: off, end: 1000, last: now})
				}
				_, err = m.create(id, kwik, grant, off, 1000, now)
			case 3:
				if r := find(func(r *record) bool { return r.kwik == kwik && r.grant == grant && grant != 0 }); r != nil {
					r.end = off
				}
				m.update(kwik, grant, off)
			case 4:
				m.remove(id)
				model = slices.DeleteFunc(model, func(r *record) bool { return r == old })
			case 5:
				if old != nil {
					old.bytes, old.off, old.last = old.bytes+int64(y), old.off+int64(y), now
					m.advance(m.target(id), int(y), now)
				}
			case 6, 7:
				since := now.Add(-time.Duration(y) * time.Second)
				idle := m.expire(since)
				for _, r := range model {
					if r.last.Before(since) != slices.ContainsFunc(idle, func(meta *mappingMetadata) bool { return meta.secondary() == r.id }) {
						t.Fatalf("%+v is wrongly idle, or not", r)
					}
				}
			}
			if codeOf(err) != want {
				t.Fatalf("operation %d on %v: %v, want %v", op, id, err, want)
			}
			checkMappings(t, m)
			if len(m.secondaryToKwik) != len(model) {
				t.Fatalf("%d mappings, want %d", len(m.secondaryToKwik), len(model))
			}
			for _, r := range model {
				meta := m.target(r.id)
				if meta == nil || m.sources(r.kwik)[r.id] != meta {
					t.Fatalf("%+v is not mapped: %+v", r, meta)
				}
				got := record{meta.secondary(), meta.KWIKStream, meta.grant, meta.Bytes, meta.Offset, meta.End, meta.LastActivity}
				if got != *r {
					t.Fatalf("%+v, want %+v", got, *r)
				}
			}
		}
	})
}

// BenchmarkStreamMappingManager looks mappings up, both ways, in a full manager: the seed
// allows 0.1 ms.
func BenchmarkStreamMappingManager(b *testing.B) {
	m := newStreamMappingManager((maxSecondaryPaths + 1 + maxFurtherPaths) * 32)
	now := time.Unix(1e9, 0)
	var ids []secondaryStreamID
	for i := range m.limit {
		id := secondaryStreamID{PathID([]string{"primary", "s1", "s22"}[i%3]), int64(4*i + 3)}
		if _, err := m.create(id, firstAggregateStreamID+StreamID(i%maxStreamsPerSession), uint64(i+1), 0, 1000, now); err != nil {
			b.Fatal(err)
		}
		ids = append(ids, id)
	}
	b.Run("target", func(b *testing.B) {
		i := 0
		for b.Loop() {
			if m.target(ids[i]) == nil {
				b.Fatal("not found")
			}
			if i++; i == len(ids) {
				i = 0
			}
		}
		b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/1e6, "ms/lookup")
	})
	b.Run("sources", func(b *testing.B) {
		i := StreamID(0)
		for b.Loop() {
			if len(m.sources(firstAggregateStreamID+i)) == 0 {
				b.Fatal("not found")
			}
			i = (i + 1) % maxStreamsPerSession
		}
		b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/1e6, "ms/lookup")
	})
}
