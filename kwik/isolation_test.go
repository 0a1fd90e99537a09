package kwik

import (
	"bytes"
	"context"
	"errors"
	"testing"
	"time"

	"github.com/quic-go/quic-go"
	"google.golang.org/protobuf/encoding/protowire"

	kwikpb "kwikcp/kwik/proto"
)

const unit = 64 << 10

// A hostileScene has an honest primary, an honest secondary, and a fake secondary that is
// attached and holds a grant, during a transfer.
type hostileScene struct {
	w      *world
	client *ClientSession
	server *ServerSession
	stream *AggregateReader
	copy   *copying
	id     ServerID                   // the fake's
	fake   *fakePeer                  // its path
	grant  *kwikpb.OffsetSyncResponse // its first grant
	start  uint64                     // of the grant
}

func inHostileScene(t *testing.T, f func(h *hostileScene)) {
	t.Helper()
	inHostileSceneOf(t, 1<<20+77, f)
}

func inHostileSceneOf(t *testing.T, size int, f func(h *hostileScene)) {
	t.Helper()
	inHostileSceneUnder(t, size, nil, f)
}

// inHostileSceneUnder is inHostileSceneOf with a configuration of the client.
func inHostileSceneUnder(t *testing.T, size int, conf *ClientConfig, f func(h *hostileScene)) {
	t.Helper()
	inWorldOf(t, size, 1, lan, func(w *world) {
		h := &hostileScene{w: w}
		server, id := w.fakeSecondary()
		h.id = id
		h.client, h.server = w.dial(conf)
		h.fake = server.welcome(kwikpb.Role_ROLE_SECONDARY, id)
		w.wantState(h.client, id, PathActive)
		h.stream = w.offer(h.client, h.server, unit, nil)
		h.copy = w.copy(h.stream)
		if o := h.fake.attached(); o.GetKwikStreamId() != uint64(h.stream.StreamID()) || len(o.GetTickets()) != 1 {
			w.t.Fatalf("attachment %v", o)
		}
		h.grant = h.fake.granted()
		h.start = h.grant.GetExpectedOffset()
		f(h)
	})
}

// open is the right OPEN for the first grant of the fake peer.
func (h *hostileScene) open() []byte {
	return wireOpen(h.stream.StreamID(), h.grant.GetGrantId(), h.start)
}

// data is the right DATA for n bytes at off.
func (h *hostileScene) data(off, n uint64) []byte { return wireData(h.w.data[off : off+n]) }

// answer writes a grant as an honest secondary does, up to n bytes of it.
func (h *hostileScene) answer(g *kwikpb.OffsetSyncResponse, n uint64) {
	off := g.GetExpectedOffset()
	x := h.fake.extent(wireOpen(h.stream.StreamID(), g.GetGrantId(), off))
	end := off + min(n, g.GetLength())
	for ; off < end; off += unit {
		x.write(h.data(off, min(unit, end-off)))
	}
	x.write(wireClose(end))
	x.Close()
}

// foreignGrant is a grant that another source holds.
func (h *hostileScene) foreignGrant() uint64 {
	a := h.stream.agg
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, g := range a.sched.Grants() {
		if PathID(g.Source) != h.id.path(1) {
			return g.ID
		}
	}
	h.w.t.Fatal("no other source has a grant")
	return 0
}

// wantLife checks that only the path of the fake peer was harmed: the transfer ends right and
// the session is usable.
func (h *hostileScene) wantLife() {
	h.w.t.Helper()
	h.copy.wantAll()
	if err := context.Cause(h.client.Context()); err != nil {
		h.w.t.Fatalf("the session ended: %v", err)
	}
	if _, err := h.client.OpenStream(); err != nil {
		h.w.t.Fatal(err)
	}
}

// A secondary has no public streams. Its own application gets an error, and nothing of the
// attempt reaches the network.
func TestSecondaryStreamIsolation(t *testing.T) {
	inWorld(t, 1, lan, func(w *world) {
		client, _ := w.dial(nil)
		session := <-w.secondaries[0].sessions
		w.wantState(client, "s1", PathActive)
		time.Sleep(time.Second) // for what is still under way to settle
		before := session.conn.ConnectionStats().PacketsSent
		_, err := session.OpenStreamSync(w.t.Context())
		wantError(w.t, err, ErrInvalidStreamRole)
		_, err = session.OpenStream()
		wantError(w.t, err, ErrInvalidStreamRole)
		_, err = session.OpenAggregateStream(AggregateStreamSpec{Size: 1})
		wantError(w.t, err, ErrInvalidStreamRole)
		time.Sleep(time.Second)
		if after := session.conn.ConnectionStats().PacketsSent; after != before {
			w.t.Errorf("%d packets were sent", after-before)
		}
		ctx, cancel := context.WithTimeout(w.t.Context(), time.Second)
		defer cancel()
		if _, err := session.AcceptStream(ctx); !errors.Is(err, context.DeadlineExceeded) {
			w.t.Errorf("AcceptStream: %v", err)
		}
	})
}

// If a secondary opens public streams, they are reset, the application does not see them, and
// the path stays open.
func TestSecondaryOpensPublicStreams(t *testing.T) {
	inHostileScene(t, func(h *hostileScene) {
		for range 3 * maxStraySecondaryStream {
			stream, err := h.fake.conn.OpenStreamSync(h.w.t.Context())
			if err != nil {
				h.w.t.Fatal(err)
			}
			stream.Write([]byte("let me in"))
			_, err = stream.Read(make([]byte, 1))
			wantStreamError(h.w.t, err, ErrSecondaryStreamIsolation)
			<-stream.Context().Done()
			wantStreamError(h.w.t, context.Cause(stream.Context()), ErrSecondaryStreamIsolation)
		}
		h.answer(h.grant, h.grant.GetLength())
		h.wantLife()
		ctx, cancel := context.WithTimeout(h.w.t.Context(), time.Second)
		defer cancel()
		if s, err := h.client.AcceptStream(ctx); err == nil {
			h.w.t.Errorf("AcceptStream returned stream %v", s.StreamID())
		}
		h.fake.wantOpen()
		for _, src := range h.stream.Stats().Sources {
			if src.Server == h.id && src.Bytes == 0 {
				h.w.t.Error("the fake's bytes did not count")
			}
		}
	})
}

func wantStreamError(t *testing.T, err error, want ErrorCode) {
	t.Helper()
	e, ok := errors.AsType[*quic.StreamError](err)
	if !ok || !e.Remote || ErrorCode(e.ErrorCode) != want {
		t.Fatalf("stream error %v, want %v", err, want)
	}
}

// A breach of the rules of docs/PROTOCOL.md, section 6, closes the path of the peer that
// committed it, and no other.
func TestHostileSecondaryStreams(t *testing.T) {
	for name, c := range map[string]struct {
		say  func(h *hostileScene) [][]byte
		want ErrorCode
	}{
		"unknown stream": {func(h *hostileScene) [][]byte {
			return [][]byte{wireOpen(h.stream.StreamID()+99, h.grant.GetGrantId(), h.start)}
		}, ErrMetadataProtocolViolation},
		"plain stream": {func(h *hostileScene) [][]byte {
			return [][]byte{wireOpen(4, h.grant.GetGrantId(), h.start)}
		}, ErrMetadataProtocolViolation},
		"grant of nobody": {func(h *hostileScene) [][]byte {
			return [][]byte{wireOpen(h.stream.StreamID(), 1<<40, h.start)}
		}, ErrMetadataProtocolViolation},
		"grant of another": {func(h *hostileScene) [][]byte {
			return [][]byte{wireOpen(h.stream.StreamID(), h.foreignGrant(), h.start)}
		}, ErrMetadataProtocolViolation},
		"wrong initial offset": {func(h *hostileScene) [][]byte {
			return [][]byte{wireOpen(h.stream.StreamID(), h.grant.GetGrantId(), h.start+unit)}
		}, ErrMetadataProtocolViolation},
		"past the grant's end": {func(h *hostileScene) [][]byte {
			frames := [][]byte{h.open()}
			for off := h.start; off <= h.start+h.grant.GetLength(); off += unit {
				frames = append(frames, h.data(off, unit))
			}
			return frames
		}, ErrMetadataProtocolViolation},
		"off unit boundaries": {func(h *hostileScene) [][]byte {
			return [][]byte{h.open(), h.data(h.start, 1000)}
		}, ErrMetadataProtocolViolation},
		"empty DATA": {func(h *hostileScene) [][]byte {
			return [][]byte{h.open(), wireFrame(kwikpb.MetadataFrameType_SECONDARY_STREAM_DATA, &kwikpb.SecondaryStreamData{})}
		}, ErrMetadataProtocolViolation},
		"DATA first": {func(h *hostileScene) [][]byte {
			return [][]byte{h.data(h.start, unit)}
		}, ErrMetadataProtocolViolation},
		"DATA after CLOSE": {func(h *hostileScene) [][]byte {
			return [][]byte{h.open(), h.data(h.start, unit), wireClose(h.start + unit), h.data(h.start+unit, unit)}
		}, ErrMetadataProtocolViolation},
		"CLOSE elsewhere": {func(h *hostileScene) [][]byte {
			return [][]byte{h.open(), h.data(h.start, unit), wireClose(h.start + 2*unit)}
		}, ErrMetadataProtocolViolation},
		"second OPEN": {func(h *hostileScene) [][]byte {
			return [][]byte{h.open(), h.data(h.start, unit), h.open()}
		}, ErrStreamMappingConflict},
		"garbage": {func(h *hostileScene) [][]byte {
			return [][]byte{randomBytes(7, 64), bytes.Repeat([]byte{0xff}, 64)}
		}, ErrMetadataProtocolViolation},
		"garbage after OPEN": {func(h *hostileScene) [][]byte {
			return [][]byte{h.open(), bytes.Repeat([]byte{0xff}, 64)}
		}, ErrMetadataProtocolViolation},
		"huge frame": {func(h *hostileScene) [][]byte {
			return [][]byte{h.open(), protowire.AppendVarint(nil, 1<<40)}
		}, ErrMetadataProtocolViolation},
		"huge OPEN": {func(h *hostileScene) [][]byte {
			return [][]byte{wireFrame(kwikpb.MetadataFrameType_SECONDARY_STREAM_OPEN, &kwikpb.SecondaryStreamOpen{SourcePathId: string(bytes.Repeat([]byte{'a'}, maxMetadataFrame))})}
		}, ErrMetadataProtocolViolation},
		"grant frame on a secondary stream": {func(h *hostileScene) [][]byte {
			return [][]byte{h.open(), wireFrame(kwikpb.MetadataFrameType_OFFSET_SYNC_RESPONSE, h.grant)}
		}, ErrMetadataProtocolViolation},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			inHostileScene(t, func(h *hostileScene) {
				h.fake.extent(c.say(h)...)
				h.fake.wantClosed(c.want)
				h.wantLife()
			})
		})
	}
}

func TestTwoSecondaryStreamsForOneGrant(t *testing.T) {
	inHostileScene(t, func(h *hostileScene) {
		h.fake.extent(h.open(), h.data(h.start, unit))
		h.fake.extent(h.open(), h.data(h.start, unit))
		h.fake.wantClosed(ErrStreamMappingConflict)
		h.wantLife()
	})
}

// Few frames are allowed on a secondary's control stream.
func TestHostileSecondaryControl(t *testing.T) {
	update := func(m *kwikpb.StreamMappingUpdate) func(h *hostileScene) {
		return func(h *hostileScene) { h.fake.metadata(kwikpb.MetadataFrameType_STREAM_MAPPING_UPDATE, m) }
	}
	for name, c := range map[string]struct {
		say  func(h *hostileScene)
		want ErrorCode
	}{
		"AddPath": {func(h *hostileScene) {
			h.fake.send(&kwikpb.ControlFrame{Frame: &kwikpb.ControlFrame_AddPath{AddPath: &kwikpb.AddPath{PathId: "mine"}}})
		}, ErrMetadataProtocolViolation},
		"StreamOffer": {func(h *hostileScene) {
			h.fake.offer(&kwikpb.StreamOffer{KwikStreamId: uint64(firstAggregateStreamID) + 7, Size: 1})
		}, ErrMetadataProtocolViolation},
		"offset of an unknown stream": {func(h *hostileScene) {
			h.fake.metadata(kwikpb.MetadataFrameType_OFFSET_SYNC_REQUEST, &kwikpb.OffsetSyncRequest{KwikStreamId: 1 << 63})
		}, ErrOffsetSyncFailure},
		"refusal of an unknown stream": {
			update(&kwikpb.StreamMappingUpdate{KwikStreamId: 4, Operation: kwikpb.MappingOperation_MAPPING_DELETE}), ErrMetadataProtocolViolation,
		},
		"a client's withdrawal": {
			update(&kwikpb.StreamMappingUpdate{KwikStreamId: uint64(firstAggregateStreamID), Operation: kwikpb.MappingOperation_MAPPING_DELETE, GrantId: 1}), ErrMetadataProtocolViolation,
		},
		"a grant": {func(h *hostileScene) { h.fake.grant(h.stream.StreamID(), 1, 0, unit) }, ErrMetadataProtocolViolation},
		"DATA": {func(h *hostileScene) {
			h.fake.metadata(kwikpb.MetadataFrameType_SECONDARY_STREAM_DATA, &kwikpb.SecondaryStreamData{Data: []byte("x")})
		}, ErrMetadataProtocolViolation},
		"huge frame": {func(h *hostileScene) { h.fake.sendRaw(protowire.AppendVarint(nil, maxControlFrame+1)) }, ErrMetadataProtocolViolation},
		"garbage":    {func(h *hostileScene) { h.fake.sendRaw(bytes.Repeat([]byte{0xff}, 32)) }, ErrMetadataProtocolViolation},
		"the end":    {func(h *hostileScene) { h.fake.control.Close() }, ErrMetadataProtocolViolation},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			inHostileScene(t, func(h *hostileScene) {
				c.say(h)
				h.fake.wantClosed(c.want)
				h.wantLife()
			})
		})
	}
	t.Run("frames of a later version are skipped", func(t *testing.T) {
		inHostileScene(t, func(h *hostileScene) {
			h.fake.sendRaw([]byte{4, 0xa2, 0x06, 1, 'x'}) // field 100
			h.answer(h.grant, h.grant.GetLength())
			h.fake.wantOpen()
			h.wantLife()
		})
	})
}

// Faults that an honest secondary may have do not close its path.
func TestInterruptedExtents(t *testing.T) {
	for name, say := range map[string]func(h *hostileScene){
		"FIN without CLOSE": func(h *hostileScene) {
			h.fake.extent(h.open(), h.data(h.start, unit)).Close()
		},
		"FIN in a frame": func(h *hostileScene) {
			h.fake.extent(h.open(), h.data(h.start, unit)[:unit/2]).Close()
		},
		"FIN at once": func(h *hostileScene) { h.fake.extent().Close() },
		"reset": func(h *hostileScene) {
			h.fake.extent(h.open(), h.data(h.start, unit)).CancelWrite(77)
		},
		"early CLOSE": func(h *hostileScene) { h.answer(h.grant, unit) },
		"silence, then the bytes though others wrote them": func(h *hostileScene) {
			<-h.copy.done
			h.answer(h.grant, h.grant.GetLength())
		},
		"bytes after the stream was closed": func(h *hostileScene) {
			x := h.fake.extent(h.open(), h.data(h.start, unit))
			<-h.copy.done
			h.stream.Close()
			x.write(h.data(h.start+unit, unit))
			h.fake.extent(h.open())
		},
		"refusal, then what was under way": func(h *hostileScene) {
			h.fake.metadata(kwikpb.MetadataFrameType_STREAM_MAPPING_UPDATE, &kwikpb.StreamMappingUpdate{
				KwikStreamId: uint64(h.stream.StreamID()), Operation: kwikpb.MappingOperation_MAPPING_DELETE,
				Code: uint64(ErrContentUnavailable), Reason: "gone",
			})
			time.Sleep(50 * time.Millisecond)
			h.answer(h.grant, unit)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			inHostileScene(t, func(h *hostileScene) {
				say(h)
				h.fake.wantOpen()
				h.wantLife()
			})
		})
	}
}

// A source that interrupts three extents in a row is removed from the stream. Its later bytes
// do no harm.
func TestThreeGiveUpsLoseTheSource(t *testing.T) {
	inHostileScene(t, func(h *hostileScene) {
		h.answer(h.grant, 0)
		for range maxStrikes - 1 {
			h.answer(h.fake.granted(), 0)
		}
		h.wantLife()
		for _, src := range h.stream.Stats().Sources {
			if src.Server == h.id {
				wantError(h.w.t, src.Gone, ErrContentUnavailable)
			}
		}
		h.fake.wantOpen()
	})
}

// Grants that were queued when the source was removed may still be answered.
func TestLateAnswerOfALostSource(t *testing.T) {
	inHostileSceneOf(t, 8<<20, func(h *hostileScene) {
		grants := []*kwikpb.OffsetSyncResponse{h.grant}
		for range maxStrikes {
			grants = append(grants, h.fake.granted())
		}
		for _, g := range grants[:maxStrikes] {
			h.answer(g, 0)
		}
		h.w.within(time.Second, func() bool {
			for _, src := range h.stream.Stats().Sources {
				if src.Server == h.id {
					return src.Gone != nil
				}
			}
			return false
		})
		h.answer(grants[maxStrikes], unit)
		h.fake.wantOpen()
		h.wantLife()
	})
}

// Bytes that fail their proof end the path and are reported to the primary.
func TestWrongBytesAreBlamed(t *testing.T) {
	blamed := make(chan ServerID, 1)
	inWorld(t, 0, lan, func(w *world) {
		w.primary.config.OnReject = func(_ *ServerSession, path ServerID, _ int64, _ string) { blamed <- path }
		bad := w.join(corrupt(func(b []byte) { clear(b) }))
		w.secondaries = append(w.secondaries, bad)
		client, server := w.dial(nil)
		w.wantState(client, "s1", PathActive)
		s := w.offer(client, server, unit, w.prove)
		w.copy(s).wantAll()
		session := <-bad.sessions
		<-session.Context().Done()
		wantError(w.t, fromQUIC(context.Cause(session.Context()), ""), ErrSourceRefuted)
		if got := w.wantState(client, "s1", PathBanned); got.Err == nil {
			w.t.Error("banned without a reason")
		}
		time.Sleep(time.Minute)
		if len(bad.sessions) > 0 {
			w.t.Error("the client dialed a secondary that it had banned")
		}
	})
	if id := <-blamed; id != "s1" {
		t.Errorf("blamed %q", id)
	}
}
