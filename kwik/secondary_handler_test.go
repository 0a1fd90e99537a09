package kwik

import (
	"bytes"
	"context"
	"errors"
	"slices"
	"sync"
	"testing"
	"time"

	"kwikcp/internal/simnet"
	kwikpb "kwikcp/kwik/proto"
)

// inSourceScene runs f with a client that copies a stream with units of align bytes. Only a
// fake secondary delivers: the primary has no content. The fake has its first grant.
func inSourceScene(t *testing.T, size int, align int64, conf ClientConfig, prove ProofFunc, f func(h *hostileScene)) {
	t.Helper()
	inWorldOf(t, size, 0, lan, func(w *world) {
		w.primary.config.OpenContent = nil
		h := &hostileScene{w: w}
		server, id := w.fakeSecondary()
		h.id = id
		h.client, h.server = w.dial(&conf)
		h.fake = server.welcome(kwikpb.Role_ROLE_SECONDARY, id)
		w.wantState(h.client, id, PathActive)
		h.stream = w.offer(h.client, h.server, align, prove)
		h.copy = w.copy(h.stream)
		h.fake.attached()
		h.fake.metadata(kwikpb.MetadataFrameType_OFFSET_SYNC_REQUEST, &kwikpb.OffsetSyncRequest{KwikStreamId: uint64(h.stream.StreamID()), Room: grantQueueLimit})
		h.grant = h.fake.granted()
		h.start = h.grant.GetExpectedOffset()
		f(h)
	})
}

// serveAll answers grants, in frames of n bytes, until the client has all bytes.
func (h *hostileScene) serveAll(n uint64) {
	go func() {
		for g := h.grant; ; {
			off, end := g.GetExpectedOffset(), g.GetExpectedOffset()+g.GetLength()
			raw := wireOpen(h.stream.StreamID(), g.GetGrantId(), off)
			for ; off < end; off += n {
				raw = append(raw, h.data(off, min(n, end-off))...)
			}
			x := h.fake.extent(raw, wireClose(end))
			x.Close()
			for {
				f, err := h.fake.tryReceive()
				if err != nil {
					return
				}
				m := f.GetMetadata()
				if m.GetType() == kwikpb.MetadataFrameType_OFFSET_SYNC_RESPONSE {
					g = &kwikpb.OffsetSyncResponse{}
					if err := unmarshalMetadata(m, g); err != nil {
						h.w.t.Error(err)
					}
					break
				}
			}
		}
	}()
}

// infos returns the client's secondary streams on the path to the fake peer.
func (h *hostileScene) infos() []SecondaryStreamInfo {
	return slices.DeleteFunc(h.client.SecondaryStreams(), func(x SecondaryStreamInfo) bool { return x.Path != h.id.path(1) })
}

// wantInfo waits, for a second at most, until the n-th secondary stream of the fake peer is in
// a state.
func (h *hostileScene) wantInfo(n int, state SecondaryStreamState) SecondaryStreamInfo {
	h.w.t.Helper()
	h.w.within(time.Second, func() bool { all := h.infos(); return n < len(all) && all[n].State == state })
	return h.infos()[n]
}

// Short frames that have arrived are proved and placed together, long ones one by one.
func TestShortFramesAreGathered(t *testing.T) {
	const size, align = 300_000, 100
	for name, tt := range map[string]struct {
		frame uint64
		batch int
		slow  time.Duration // of a proof
		least int           // bytes of the longest delivery
		most  int
		count int // deliveries at most
	}{
		"tiny, slow proof":    {100, 0, 20 * time.Millisecond, 60_000, 256 << 10, 30},
		"tiny":                {100, 0, 0, 500, 256 << 10, size / 500},
		"tiny, small batches": {100, 8 << 10, 20 * time.Millisecond, 7000, 8 << 10, size / 5000},
		"tiny, no batches":    {100, -1, 0, 100, 100, size / 100},
		"half a batch":        {4000, 8 << 10, 20 * time.Millisecond, 8000, 8 << 10, size/6000 + 10},
		"more than half":      {4200, 8 << 10, 20 * time.Millisecond, 4200, 4200, size/4000 + 10},
	} {
		t.Run(name, func(t *testing.T) {
			var mu sync.Mutex
			var lengths []int
			prove := func(_ ServerID, _ int64, p []byte) error {
				mu.Lock()
				lengths = append(lengths, len(p))
				mu.Unlock()
				time.Sleep(tt.slow)
				return nil
			}
			conf := ClientConfig{SecondaryStreams: SecondaryStreamConfig{AggregationBatchSize: tt.batch}}
			inSourceScene(t, size, align, conf, prove, func(h *hostileScene) {
				h.serveAll(tt.frame)
				h.copy.wantAll()
				st := h.client.Stats().SecondaryStreams
				if st.CountedBytes != size || st.TotalBytes != size || st.AggregationRatio != 1 {
					t.Errorf("%+v", st)
				}
			})
			if longest := slices.Max(lengths); longest < tt.least || longest > tt.most || len(lengths) > tt.count {
				t.Errorf("%d deliveries of up to %d bytes, want at most %d, of %d to %d", len(lengths), longest, tt.count, tt.least, tt.most)
			}
		})
	}
}

// A frame that has arrived counts at once. It does not wait for the frame after it.
func TestNothingIsHeldBack(t *testing.T) {
	const align = 100
	for name, more := range map[string]func(h *hostileScene) []byte{
		"nothing follows":     func(*hostileScene) []byte { return nil },
		"a length follows":    func(*hostileScene) []byte { return []byte{0x6a} },
		"a head follows":      func(*hostileScene) []byte { return appendDataHeader(nil, align) },
		"half a frame":        func(h *hostileScene) []byte { return h.data(h.start+align, align)[:align/2] },
		"a CLOSE without FIN": func(h *hostileScene) []byte { return wireClose(h.start + align) },
	} {
		t.Run(name, func(t *testing.T) {
			inSourceScene(t, 100_000, align, ClientConfig{}, nil, func(h *hostileScene) {
				h.fake.extent(h.open(), h.data(h.start, align), more(h))
				h.w.within(100*time.Millisecond, func() bool { return h.stream.Stats().Bytes == align })
			})
		})
	}
}

// Bytes that arrived before a fault count, in whatever frames they arrived.
func TestBytesBeforeAFaultCount(t *testing.T) {
	inSourceScene(t, 100_000, 100, ClientConfig{Recovery: RecoveryPolicy{Metadata: RecoveryRequestResend}}, nil, func(h *hostileScene) {
		raw := h.open()
		for i := range uint64(5) {
			raw = append(raw, h.data(h.start+100*i, 100)...)
		}
		h.fake.extent(raw, []byte{0})
		if info := h.wantInfo(0, SecondaryStreamError); !errors.Is(info.Err, ErrMetadataProtocolViolation) || info.Mapping.Bytes != 500 {
			t.Errorf("%+v", info)
		}
		if n := h.stream.Stats().Bytes; n != 500 {
			t.Errorf("%d bytes count", n)
		}
	})
}

// BufferSize bounds the bytes that are proved and placed at once, whatever the sizes of the
// frames. It also bounds the payload that a server puts into one frame.
func TestBufferSize(t *testing.T) {
	const size, align, buffer = 2 << 20, 10_000, 100_000
	var mu sync.Mutex
	longest := 0
	prove := func(_ ServerID, _ int64, p []byte) error {
		mu.Lock()
		defer mu.Unlock()
		longest = max(longest, len(p))
		return nil
	}
	t.Run("a client", func(t *testing.T) {
		inSourceScene(t, size, align, ClientConfig{SecondaryStreams: SecondaryStreamConfig{BufferSize: buffer}}, prove, func(h *hostileScene) {
			h.serveAll(500_000)
			h.copy.wantAll()
			if longest != buffer {
				t.Errorf("up to %d bytes at once, want %d", longest, buffer)
			}
		})
	})
	t.Run("a server", func(t *testing.T) {
		longest = 0
		inWorldOf(t, size, 0, lan, func(w *world) {
			w.primary.config.BufferSize = buffer
			client, server := w.dial(nil)
			s := w.offer(client, server, align, prove)
			w.copy(s).wantAll()
			if longest != buffer {
				t.Errorf("frames of up to %d bytes, want %d", longest, buffer)
			}
		})
	})
	t.Run("a unit that is larger", func(t *testing.T) {
		longest = 0
		inSourceScene(t, size, 200_000, ClientConfig{SecondaryStreams: SecondaryStreamConfig{BufferSize: buffer}}, prove, func(h *hostileScene) {
			h.serveAll(400_000)
			h.copy.wantAll()
			if longest != 200_000 {
				t.Errorf("up to %d bytes at once", longest)
			}
		})
	})
}

// A stream without new bytes is reset after StreamTimeout. Its bytes are granted again, and
// its path stays open.
func TestSilentSecondaryStream(t *testing.T) {
	inSourceScene(t, 100_000, 1000, ClientConfig{SecondaryStreams: SecondaryStreamConfig{StreamTimeout: 4 * time.Second}, SourceTimeout: time.Minute}, nil, func(h *hostileScene) {
		begun := time.Now()
		x := h.fake.extent(h.open(), h.data(h.start, 1000))
		<-x.Context().Done()
		wantStreamError(t, context.Cause(x.Context()), ErrAggregationTimeout)
		if took := time.Since(begun); took < 4*time.Second || took > 6*time.Second {
			t.Errorf("given up after %v", took)
		}
		info := h.wantInfo(0, SecondaryStreamError)
		wantError(t, info.Err, ErrAggregationTimeout)
		if info.Received != 1000 || info.Mapping == nil || info.Mapping.Bytes != 1000 {
			t.Errorf("%+v", info)
		}
		if n := h.stream.Stats().Bytes; n != 1000 {
			t.Errorf("%d bytes count", n)
		}
		h.grant = h.fake.granted()
		h.serveAll(1000)
		h.wantLife()
		h.fake.wantOpen()
	})
}

// A slow stream is not reset, nor is one that this side delays.
func TestSlowSecondaryStreams(t *testing.T) {
	conf := ClientConfig{SecondaryStreams: SecondaryStreamConfig{StreamTimeout: 2 * time.Second}, SourceTimeout: time.Hour}
	t.Run("a trickle", func(t *testing.T) {
		inSourceScene(t, 100_000, 100_000, conf, nil, func(h *hostileScene) {
			raw := append(h.open(), h.data(0, 100_000)...)
			x := h.fake.extent(raw[:1000])
			for i := 1000; i < 5000; i += 500 {
				time.Sleep(1500 * time.Millisecond)
				x.write(raw[i : i+500])
			}
			x.write(raw[5000:], wireClose(100_000))
			x.Close()
			h.wantLife()
			h.wantInfo(0, SecondaryStreamClosed)
		})
	})
	t.Run("a slow proof", func(t *testing.T) {
		prove := func(ServerID, int64, []byte) error {
			time.Sleep(20 * time.Second)
			return nil
		}
		inSourceScene(t, 100_000, 100_000, conf, prove, func(h *hostileScene) {
			h.serveAll(100_000)
			h.wantLife()
			h.wantInfo(0, SecondaryStreamClosed)
		})
	})
}

// The mapping of a secondary stream has the end that its source was last told, whether before
// or after OPEN.
func TestMappingEnd(t *testing.T) {
	inHostileScene(t, func(h *hostileScene) {
		a := h.stream.agg
		shorten := func(end int64) {
			a.mu.Lock()
			defer a.mu.Unlock()
			a.sched.Shorten(h.grant.GetGrantId(), end)
			a.dispatch()
		}
		wantEnd := func(end int64) {
			h.w.t.Helper()
			h.w.within(time.Second, func() bool {
				return slices.ContainsFunc(h.client.Mappings(), func(m MappingMetadata) bool { return m.Path == h.id.path(1) && m.End == end })
			})
		}
		before, after := int64(h.start+4*unit), int64(h.start+2*unit)
		shorten(before)
		x := h.fake.extent(h.open(), h.data(h.start, unit))
		wantEnd(before)
		shorten(after)
		wantEnd(after)
		x.write(h.data(h.start+unit, unit), wireClose(uint64(after)))
		x.Close()
		h.wantInfo(0, SecondaryStreamClosed)
	})
}

func TestSecondaryStreamLimits(t *testing.T) {
	conf := ClientConfig{SecondaryStreams: SecondaryStreamConfig{MaxStreamsPerPath: 3, MetadataTimeout: 2 * time.Second}, SourceTimeout: time.Hour}
	inSourceScene(t, 100_000, 1000, conf, nil, func(h *hostileScene) {
		var streams []*fakeExtent
		for range 3 {
			streams = append(streams, h.fake.extent(h.open()[:1]))
		}
		if _, err := h.fake.conn.OpenUniStream(); err == nil {
			t.Error("a fourth stream was let in")
		}
		h.w.within(time.Second, func() bool {
			return h.client.Stats().SecondaryStreams == SecondaryStreamStats{ActiveStreams: 3, UnmappedStreams: 3, TotalStreams: 3}
		})
		streams[0].write(h.open()[1:], wireClose(h.start)) // the end is due MetadataTimeout after CLOSE
		begun := time.Now()
		h.wantInfo(0, SecondaryStreamClosing)
		h.w.within(3*time.Second, func() bool { return h.infos()[0].State == SecondaryStreamError })
		if took := time.Since(begun); took < 1900*time.Millisecond || took > 2500*time.Millisecond {
			t.Errorf("the end was waited for for %v", took)
		}
		h.fake.wantClosed(ErrMetadataProtocolViolation) // OPEN is due MetadataTimeout after the stream opens
		if took := time.Since(begun); took > 3*time.Second {
			t.Errorf("the path was given up after %v", took)
		}
		for i := 1; i < 3; i++ {
			if info := h.wantInfo(i, SecondaryStreamError); info.Mapping != nil || info.Err == nil {
				t.Errorf("%+v", info)
			}
		}
	})
}

// Every state is reached, and a snapshot shows the state of a stream.
func TestSecondaryStreamStates(t *testing.T) {
	inSourceScene(t, 100_000, 1000, ClientConfig{}, nil, func(h *hostileScene) {
		x := h.fake.extent(h.open()[:3])
		if info := h.wantInfo(0, SecondaryStreamOpening); info.Mapping != nil || info.CreatedAt.IsZero() {
			t.Errorf("%+v", info)
		}
		x.write(h.open()[3:], h.data(h.start, 2000), h.data(h.start+2000, 1000)[:500])
		info := h.wantInfo(0, SecondaryStreamActive)
		h.w.within(time.Second, func() bool { info = h.infos()[0]; return info.Received > 2400 })
		mappings := h.client.Mappings()
		if len(mappings) != 1 || *info.Mapping != mappings[0] {
			h.w.t.Fatalf("the mappings are %+v, the stream has %+v", mappings, info.Mapping)
		}
		m := mappings[0]
		if m.Path != h.id.path(1) || m.KWIKStream != h.stream.StreamID() || m.SecondaryStream != info.StreamID {
			t.Errorf("stream %d is mapped as %+v", info.StreamID, m)
		}
		if m.Bytes != 2000 || m.Offset != int64(h.start)+2000 {
			t.Errorf("after 2000 bytes from %d: %d bytes, offset %d", h.start, m.Bytes, m.Offset)
		}
		if m.CreatedAt.IsZero() || m.LastActivity.Before(m.CreatedAt) {
			t.Errorf("created at %v, last active at %v", m.CreatedAt, m.LastActivity)
		}
		st := h.w.path(h.client, h.id).SecondaryStreams
		if st.ActiveStreams != 1 || st.MappedStreams != 1 {
			t.Errorf("%d streams are active and %d mapped, want 1 and 1", st.ActiveStreams, st.MappedStreams)
		}
		if st.TotalBytes != info.Received || st.CountedBytes != 2000 {
			t.Errorf("%d bytes received, %d counted, want %d and 2000", st.TotalBytes, st.CountedBytes, info.Received)
		}
		x.write(h.data(h.start+2000, 1000)[500:], wireClose(h.start+3000))
		h.wantInfo(0, SecondaryStreamClosing)
		x.Close()
		if info := h.wantInfo(0, SecondaryStreamClosed); info.Err != nil || info.Received != 3000 || len(h.client.Mappings()) != 0 {
			t.Errorf("%+v", info)
		}
		h.grant = h.fake.granted()
		h.start = h.grant.GetExpectedOffset()
		h.fake.extent(h.open()).CancelWrite(77)
		if info := h.wantInfo(1, SecondaryStreamError); info.Err == nil {
			t.Errorf("%+v", info)
		}
		h.fake.extent(nil).CancelWrite(StreamErrorCode(NoError)) // as of a grant that was taken back
		h.wantInfo(2, SecondaryStreamClosed)
		// Only the newest ended streams are remembered.
		for range 2 * endedKept {
			h.fake.extent().Close()
			time.Sleep(50 * time.Millisecond)
		}
		if n := h.client.Stats().SecondaryStreams.TotalStreams; n != 3+2*endedKept {
			t.Errorf("%d streams in all", n)
		}
		if all := h.infos(); len(all) != endedKept || all[0].StreamID != 4*(3+endedKept)+3 {
			t.Errorf("%d streams, the first is %+v", len(all), all[0])
		}
	})
}

// Bytes that arrive twice lower the aggregation ratio of the server that sent them last.
func TestAggregationRatio(t *testing.T) {
	inHostileScene(t, func(h *hostileScene) {
		<-h.copy.done // the honest servers wrote everything
		h.answer(h.grant, h.grant.GetLength())
		h.wantInfo(0, SecondaryStreamClosed)
		n := int64(h.grant.GetLength())
		want := SecondaryStreamStats{TotalStreams: 1, TotalBytes: n}
		if st := h.w.path(h.client, h.id).SecondaryStreams; st != want {
			t.Errorf("%+v, want %+v", st, want)
		}
		all := h.client.Stats().SecondaryStreams
		if size := int64(len(h.w.data)); all.CountedBytes != size || all.TotalBytes < size+n || all.AggregationRatio != float64(size)/float64(all.TotalBytes) {
			t.Errorf("%+v", all)
		}
	})
}

// The statistics of paths and the session are QUIC's, summed over all connections.
func TestPathStats(t *testing.T) {
	inWorld(t, 1, simnet.Link{Latency: 10 * time.Millisecond, Rate: 50e6}, func(w *world) {
		client, server := w.dial(nil)
		w.copy(w.offer(client, server, unit, nil)).wantAll()
		before := w.wantState(client, "s1", PathActive)
		for _, p := range client.Servers() {
			if p.RTT < 20*time.Millisecond || p.MinRTT < 20*time.Millisecond || p.MinRTT > p.RTT+time.Millisecond {
				t.Errorf("%q: RTT %v, shortest %v, on a link of 20 ms", p.ID, p.RTT, p.MinRTT)
			}
			if p.congestionWindow == 0 {
				t.Errorf("%q: no congestion window", p.ID)
			}
			if p.Wire.BytesSent == 0 || p.Wire.PacketsSent == 0 || p.Wire.PacketsReceived == 0 {
				t.Errorf("%q: a count is 0: %+v", p.ID, p.Wire)
			}
			if counted := p.SecondaryStreams.CountedBytes; p.Wire.BytesReceived < uint64(counted) {
				t.Errorf("%q: %d bytes received, but %d counted", p.ID, p.Wire.BytesReceived, counted)
			}
		}
		st := client.Stats()
		if st.ActivePaths != 2 || st.AggregateStreams != 1 {
			t.Errorf("%d active paths and %d streams, want 2 and 1", st.ActivePaths, st.AggregateStreams)
		}
		if st.Wire.BytesReceived < uint64(len(w.data)) || st.SecondaryStreams.CountedBytes != int64(len(w.data)) {
			t.Errorf("%d bytes received, %d counted, of %d", st.Wire.BytesReceived, st.SecondaryStreams.CountedBytes, len(w.data))
		}
		if c := server.ConnectionStats(); c.BytesSent == 0 || c.CongestionWindow == 0 || client.ConnectionStats().BytesReceived == 0 {
			t.Errorf("%+v", c)
		}
		session := <-w.secondaries[0].sessions
		session.CloseWithError(0, "")
		gone := w.wantState(client, "s1", PathClosed)
		again := w.wantState(client, "s1", PathActive) // another connection
		if gone.RTT != 0 || gone.Wire.BytesReceived < before.Wire.BytesReceived || again.Wire.BytesReceived < gone.Wire.BytesReceived {
			t.Errorf("before %+v, without a connection %+v, again %+v", before.Wire, gone.Wire, again.Wire)
		}
	})
}

// Whenever a session, a path or a stream is closed, nothing of it is left: synctest finds
// goroutines, the world finds blocks.
func TestCloseLeavesNothing(t *testing.T) {
	for name, end := range map[string]func(h *hostileScene){
		"the stream":  func(h *hostileScene) { h.stream.Close() },
		"the path":    func(h *hostileScene) { h.fake.conn.CloseWithError(0, "") },
		"the session": func(h *hostileScene) { h.client.CloseWithError(0, "") },
		"the server":  func(h *hostileScene) { h.w.primary.stop() },
	} {
		for _, frame := range []uint64{100, 50_000} {
			t.Run(name, func(t *testing.T) {
				inSourceScene(t, 400_000, 100, ClientConfig{}, nil, func(h *hostileScene) {
					x := h.fake.extent(h.open(), h.data(h.start, frame), h.data(h.start+frame, frame)[:frame-50])
					time.Sleep(100 * time.Millisecond)
					end(h)
					if name == "the stream" || name == "the session" {
						<-h.copy.done
						h.w.within(time.Second, func() bool { return h.client.Stats().SecondaryStreams.ActiveStreams == 0 })
						if n := blocksHeld.Load(); n != 0 && worlds.Load() == 1 {
							t.Errorf("%d blocks are held", n)
						}
					}
					x.write(bytes.Repeat([]byte{0}, 10))
				})
			})
		}
	}
}
