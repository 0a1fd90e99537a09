package kwik

import (
	"fmt"
	"runtime"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/protobuf/encoding/protowire"

	"kwikcp/internal/simnet"
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

// dialFake connects a client to a new fake primary.
func (w *world) dialFake(conf *ClientConfig) (*ClientSession, *fakePeer) {
	w.t.Helper()
	server := w.fakeServer()
	welcomed := make(chan *ClientSession)
	w.wg.Go(func() {
		client, err := w.tryDial(server.addr, server.pin, conf)
		if err != nil {
			w.t.Error(err)
		}
		welcomed <- client
	})
	primary := server.welcome(kwikpb.Role_ROLE_PRIMARY, primaryID)
	return <-welcomed, primary
}

// removePath withdraws a server.
func (p *fakePeer) removePath(id, reason string) {
	p.t.Helper()
	p.send(&kwikpb.ControlFrame{Frame: &kwikpb.ControlFrame_RemovePath{
		RemovePath: &kwikpb.RemovePath{PathId: id, Reason: reason},
	}})
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

// TestAttackWindows checks that all paths of a session have one limit for bytes that are not read.
// 64 servers could send 800 MB.
func TestAttackWindows(t *testing.T) {
	const limit = minWindowLimit
	inWorldOf(t, unit, 0, simnet.Link{Latency: time.Millisecond, Rate: 10e9}, func(w *world) {
		_, primary := w.dialFake(&ClientConfig{WindowLimit: limit})
		primary.offer(&kwikpb.StreamOffer{KwikStreamId: uint64(firstAggregateStreamID), Size: 1 << 40, Alignment: unit})
		var sent atomic.Int64
		streams := 0
		send := func(p *fakePeer) {
			for range defaultSecondaryStreams {
				stream, err := p.conn.OpenUniStream()
				if err != nil {
					return // more are not allowed
				}
				streams++
				x := &fakeExtent{stream, p}
				x.write(wireOpen(firstAggregateStreamID, 1, 0))
				w.wg.Go(func() {
					x.SetWriteDeadline(time.Now().Add(5 * time.Second))
					for {
						n, err := x.Write(make([]byte, unit))
						if sent.Add(int64(n)); err != nil {
							return
						}
					}
				})
			}
		}
		peers := []*fakePeer{primary}
		for i := range maxSecondaryPaths {
			s := w.fakeServer()
			id := ServerID(fmt.Sprintf("s%d", i))
			primary.addPath(&kwikpb.AddPath{
				PathId: string(id), KeyHash: s.pin[:], Addresses: []string{s.addr.String()},
			})
			peers = append(peers, s.welcome(kwikpb.Role_ROLE_SECONDARY, id))
		}
		for _, p := range peers {
			send(p)
		}
		time.Sleep(6 * time.Second)
		t.Logf("%d servers sent %d MiB on %d streams that are not read", len(peers), sent.Load()>>20, streams)
		if most := fullPaths*defaultSecondaryStreams + len(peers)*pathStreamFloor; streams > most {
			t.Errorf("%d secondary streams are open, want at most %d", streams, most)
		}
		if sent.Load() > limit {
			t.Errorf("%d bytes, the limit is %d", sent.Load(), limit)
		}
		if sent.Load() < limit/4 {
			t.Errorf("only %d bytes were sent", sent.Load())
		}
	})
}

// TestWindowBudget checks the division of a session's windows.
func TestWindowBudget(t *testing.T) {
	const mib = 1 << 20
	for _, c := range []struct {
		limit int64
		paths int
		least int64 // of the first paths
		first int
	}{
		{defaultWindowLimit, 3, 12 * mib, 3}, // a get from three sources is as before
		{defaultWindowLimit, maxPaths, 8 * mib, 6},
		{minWindowLimit, maxPaths, 5 * mib, 1},
	} {
		b := &shareBudget{floor: pathWindow, left: c.limit - maxPaths*pathWindow}
		var total int64
		var shares []*budgetShare
		windows := make([]int64, c.paths)
		for i := range windows {
			var share *budgetShare
			share, windows[i] = b.open(8 * mib)
			shares = append(shares, share)
		}
		for i, share := range shares {
			for windows[i] < 12*mib && share.grow(mib) {
				windows[i] += mib
			}
			total += windows[i]
			if i < c.first && windows[i] < c.least || windows[i] < pathWindow {
				t.Errorf("path %d of %d has a window of %d bytes", i, c.paths, windows[i])
			}
		}
		if total > c.limit {
			t.Errorf("%d paths have %d bytes of %d", c.paths, total, c.limit)
		}
		for _, share := range shares {
			share.close()
			share.close()
			if share.grow(1) {
				t.Error("a closed share grows")
			}
		}
		if b.left != c.limit-maxPaths*pathWindow {
			t.Errorf("%d bytes are left in the end", b.left)
		}
	}
}

// TestAttackDrip checks that a source cannot hold a client for ever with a byte now and then. Its
// connection is alive, and bytes arrive, but no unit does.
func TestAttackDrip(t *testing.T) {
	inWorldOf(t, 4<<20, 0, lan, func(w *world) {
		client, p := w.dialFake(nil)
		p.offer(&kwikpb.StreamOffer{KwikStreamId: uint64(firstAggregateStreamID), Size: 4 << 20, Alignment: 1 << 20})
		time.Sleep(time.Second)
		start := time.Now()
		copied := w.copy(w.accept(client, firstAggregateStreamID, w.prove))
		p.attached()
		g := p.granted()
		raw := wireData(w.data[:1<<20])
		x := p.extent(wireOpen(firstAggregateStreamID, g.GetGrantId(), 0), raw[:32])
		w.wg.Go(func() {
			for i := 32; i < len(raw) && x.Context().Err() == nil; i++ {
				x.write(raw[i : i+1])
				time.Sleep(time.Second)
			}
		})
		<-copied.done
		wantError(t, copied.err, ErrAggregationTimeout)
		took := time.Since(start)
		t.Logf("the client gave up after %v", took)
		if took > 6*time.Minute {
			t.Errorf("the client gave up after %v", took)
		}
	})
}
