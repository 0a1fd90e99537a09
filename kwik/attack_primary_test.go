package kwik

import (
	"runtime"
	"testing"
	"time"

	"google.golang.org/protobuf/encoding/protowire"

	"kwikcp/kwik/internal/sched"
	kwikpb "kwikcp/kwik/proto"
)

// The tests of this file are attacks of a primary on its client: on its memory, or through it on
// others. Each asserts a bound.

// heapGrowth returns how many bytes more are on the heap after f than before it.
func heapGrowth(f func()) int64 {
	inUse := func() int64 {
		var m runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&m)
		return int64(m.HeapAlloc)
	}
	before := inUse()
	f()
	return inUse() - before
}

// TestAttackSegments checks what offers of many segments cost a client. 128 offers of a million
// took 1.29 GB.
func TestAttackSegments(t *testing.T) {
	t.Run("a million", func(t *testing.T) {
		inFakePrimaryScene(t, func(w *world, client *ClientSession, p *fakePeer) {
			raw := []byte(segmentsFrame(1_000_000))
			grown := heapGrowth(func() {
				p.control.Write(raw) // the client may close the path meanwhile
				p.wantClosed(ErrMetadataProtocolViolation)
			})
			t.Logf("the client's heap grew by %d KiB", grown>>10)
			if grown > 4<<20 {
				t.Errorf("the client's heap grew by %d bytes", grown)
			}
		})
	})
	t.Run("the most that is allowed", func(t *testing.T) {
		inFakePrimaryScene(t, func(w *world, client *ClientSession, p *fakePeer) {
			segments := make([]uint64, sched.MaxSegments)
			for i := range segments {
				segments[i] = 1
			}
			grown := heapGrowth(func() {
				for i := range uint64(maxStreamsPerSession) {
					p.offer(&kwikpb.StreamOffer{
						KwikStreamId: uint64(firstAggregateStreamID) + i, Size: sched.MaxSegments, Segments: segments,
					})
				}
				time.Sleep(time.Second)
			})
			t.Logf("the client's heap grew by %d KiB", grown>>10)
			if grown > 16<<20 {
				t.Errorf("the client's heap grew by %d bytes", grown)
			}
			p.wantOpen()
		})
	})
}

// TestAttackRepeatedFields checks that a frame cannot make the client's decoder take many times
// its own size of memory.
func TestAttackRepeatedFields(t *testing.T) {
	for name, field := range map[string]struct{ member, list protowire.Number }{
		"tickets of an offer":     {6, 6},
		"addresses of an AddPath": {3, 2},
	} {
		t.Run(name, func(t *testing.T) {
			inFakePrimaryScene(t, func(w *world, client *ClientSession, p *fakePeer) {
				var list []byte
				for len(list) < maxControlFrame-100 {
					list = protowire.AppendBytes(protowire.AppendTag(list, field.list, protowire.BytesType), nil)
				}
				frame := protowire.AppendBytes(protowire.AppendTag(nil, field.member, protowire.BytesType), list)
				raw := protowire.AppendBytes(nil, frame)
				var before, after runtime.MemStats
				runtime.ReadMemStats(&before)
				p.control.Write(raw)
				p.wantClosed(ErrMetadataProtocolViolation)
				runtime.ReadMemStats(&after)
				took := after.TotalAlloc - before.TotalAlloc
				t.Logf("a frame of 1 MiB took %d KiB", took>>10)
				if took > 12<<20 {
					t.Errorf("a frame of 1 MiB took %d bytes", took)
				}
			})
		})
	}
}
