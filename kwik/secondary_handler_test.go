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

// inSourceScene runs f with a client of a configuration that copies a stream from a fake secondary alone, whose units have
// align bytes: the primary has no content. The fake has its first grant.
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

// serveAll answers grants, in frames of n bytes, until the client has all.
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

// infos returns the client's secondary streams of the fake's path.
func (h *hostileScene) infos() []SecondaryStreamInfo {
	return slices.DeleteFunc(h.client.SecondaryStreams(), func(x SecondaryStreamInfo) bool { return x.Path != h.id.path(1) })
}

// wantInfo waits until the fake's n-th secondary stream is in a state, for a second at most.
func (h *hostileScene) wantInfo(n int, state SecondaryStreamState) SecondaryStreamInfo {
	h.w.t.Helper()
	h.w.within(time.Second, func() bool { all := h.infos(); return n < len(all) && all[n].State == state })
	return h.infos()[n]
}

// Short frames are proved and placed together, as far as they are there, and long ones by themselves.
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

// Nothing waits for more to come: a frame that is there counts, whatever follows it or does not.
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

// What came before a fault counts, however it arrived.
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

// BufferSize bounds what is proved and placed at once, whatever the frames are, and what a server puts into one.
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

// A stream on which nothing comes is given up after StreamTimeout, its bytes are granted anew, and its path goes on.
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

// A stream on which little comes is not given up, nor one that this side holds up.
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

// The mapping of a secondary stream says where its source was last told to stop, whether that was before or after OPEN came.
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
		h.fake.wantClosed(ErrMetadataProtocolViolation) // and OPEN so long after the stream
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

// Every state is reached, and a stream shows what it is doing.
func TestSecondaryStreamStates(t *testing.T) {
	inSourceScene(t, 100_000, 1000, ClientConfig{}, nil, func(h *hostileScene) {
		x := h.fake.extent(h.open()[:3])
		if info := h.wantInfo(0, SecondaryStreamOpening); info.Mapping != nil || info.CreatedAt.IsZero() {
			t.Errorf("%+v", info)
		}
		x.write(h.open()[3:], h.data(h.start, 2000), h.data(h.start+2000, 1000)[:500])
		info := h.wantInfo(0, SecondaryStreamActive)
		h.w.within(time.Second, func() bool { info = h.infos()[0]; return info.Received > 2400 })
		m := h.client.Mappings()
		if len(m) != 1 || *info.Mapping != m[0] || m[0].Path != h.id.path(1) || m[0].KWIKStream != h.stream.StreamID() || m[0].SecondaryStream != info.StreamID ||
			m[0].Bytes != 2000 || m[0].Offset != int64(h.start)+2000 || m[0].CreatedAt.IsZero() || m[0].LastActivity.Before(m[0].CreatedAt) {
			t.Errorf("%+v, %+v", info, m)
		}
		if st := h.w.path(h.client, h.id).SecondaryStreams; st.ActiveStreams != 1 || st.MappedStreams != 1 || st.TotalBytes != info.Received || st.CountedBytes != 2000 {
			t.Errorf("%+v", st)
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
		// Not more than the newest of those that ended are remembered.
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

// Bytes that come twice lower the aggregation ratio of who brought them late.
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

// Paths and the session tell what QUIC knows of them, over all connections.
func TestPathStats(t *testing.T) {
	inWorld(t, 1, simnet.Link{Latency: 10 * time.Millisecond, Rate: 50e6}, func(w *world) {
		client, server := w.dial(nil)
		w.copy(w.offer(client, server, unit, nil)).wantAll()
		before := w.wantState(client, "s1", PathActive)
		for _, p := range client.Servers() {
			if p.RTT < 20*time.Millisecond || p.MinRTT < 20*time.Millisecond || p.MinRTT > p.RTT+time.Millisecond || p.congestionWindow == 0 {
				t.Errorf("%q: RTT %v, at least %v, window %d", p.ID, p.RTT, p.MinRTT, p.congestionWindow)
			}
			if p.Wire.BytesReceived < uint64(p.SecondaryStreams.CountedBytes) || p.Wire.BytesSent == 0 || p.Wire.PacketsSent == 0 || p.Wire.PacketsReceived == 0 {
				t.Errorf("%q: %+v", p.ID, p.Wire)
			}
		}
		st := client.Stats()
		if st.ActivePaths != 2 || st.AggregateStreams != 1 || st.Wire.BytesReceived < uint64(len(w.data)) || st.SecondaryStreams.CountedBytes != int64(len(w.data)) {
			t.Errorf("%+v", st)
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

// Whenever a session, a path or a stream is closed, nothing of it is left: synctest finds goroutines, the world blocks.
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
