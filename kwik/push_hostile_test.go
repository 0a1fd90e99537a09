package kwik

import (
	"bytes"
	"context"
	"io"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	kwikpb "kwikcp/kwik/proto"
)

// A pushScene has an honest primary, a fake secondary and a client. The secondary is attached to
// a pushed stream in units of 64 KiB. The client reads the stream in order and has received no
// bytes yet.
type pushScene struct {
	w      *world
	client *ClientSession
	server *ServerSession
	stream *AggregateReader
	id     ServerID
	fake   *fakePeer
	window *kwikpb.OffsetSyncResponse // the first that the fake heard of
	read   chan readResult
}

type readResult struct {
	data []byte
	err  error
}

func inPushScene(t *testing.T, conf *ClientConfig, f func(h *pushScene)) {
	t.Helper()
	inWorldOf(t, 8<<20+77, 0, lan, func(w *world) {
		t := w.t
		h := &pushScene{w: w, read: make(chan readResult, 1)}
		secondary, id := w.fakeSecondary()
		if conf == nil {
			conf = &ClientConfig{ReorderWindow: minReorderWindow}
		}
		h.id = id
		h.client, h.server = w.dial(conf)
		h.fake = secondary.welcome(kwikpb.Role_ROLE_SECONDARY, id)
		w.wantState(h.client, id, PathActive)
		h.stream = w.offerPushed(h.client, h.server, int64(len(w.data)), unit, nil)
		go func() {
			data, err := io.ReadAll(h.stream)
			h.read <- readResult{data, err}
		}()
		if o := h.fake.attached(); !o.GetPushed() || len(o.GetTickets()) != 1 {
			t.Fatalf("attachment %v", o)
		}
		h.window = h.fake.granted()
		f(h)
	})
}

func (h *pushScene) open(off uint64) []byte    { return wireOpen(h.stream.StreamID(), 0, off) }
func (h *pushScene) data(off, n uint64) []byte { return wireData(h.w.data[off : off+n]) }
func (h *pushScene) total() uint64             { return uint64(len(h.w.data)) }

// limit is where the window ends that the fake heard of.
func (h *pushScene) limit() uint64 { return h.window.GetExpectedOffset() + h.window.GetLength() }

// wantLife checks that the session lives, and that the primary can push the whole stream to a
// reader that gets it right.
func (h *pushScene) wantLife() {
	h.w.t.Helper()
	if _, err := h.client.OpenStream(); err != nil {
		h.w.t.Fatalf("the session ended: %v", err)
	}
	if err := push(h.server, h.stream.StreamID(), 0, h.w.data); err != nil {
		h.w.t.Error(err)
	}
	if got := <-h.read; got.err != nil || !bytes.Equal(got.data, h.w.data) {
		h.w.t.Errorf("read %d bytes, %v", len(got.data), got.err)
	}
}

// wantReset waits until the client has given a secondary stream up, and checks the code.
func (x *fakeExtent) wantReset(want ErrorCode) {
	x.p.t.Helper()
	select {
	case <-x.Context().Done():
		wantStreamError(x.p.t, context.Cause(x.Context()), want)
	case <-time.After(patience):
		x.p.t.Fatalf("the stream is not reset, want %v", want)
	}
}

// A client does not read pushed bytes beyond its window. It resets the stream and sends the
// source its window.
func TestPushedBeyondTheWindow(t *testing.T) {
	for name, say := range map[string]func(h *pushScene) [][]byte{
		"at its end":    func(h *pushScene) [][]byte { return [][]byte{h.open(h.limit()), h.data(h.limit(), unit)} },
		"far ahead":     func(h *pushScene) [][]byte { return [][]byte{h.open(100 * unit), h.data(100*unit, unit)} },
		"the last unit": func(h *pushScene) [][]byte { return [][]byte{h.open(8 << 20), h.data(8<<20, 77)} },
		"across its end": func(h *pushScene) [][]byte {
			return [][]byte{h.open(h.limit() - unit), h.data(h.limit()-unit, 2*unit)}
		},
	} {
		t.Run(name, func(t *testing.T) {
			inPushScene(t, nil, func(h *pushScene) {
				t := h.w.t
				if h.window.GetSyncRequired() || h.window.GetGrantId() != 0 {
					t.Errorf("the first window is a correction or a grant: %v", h.window)
				}
				if h.window.GetExpectedOffset() != 0 || h.limit() != minReorderWindow {
					t.Errorf("the first window has another range: %v", h.window)
				}
				h.fake.extent(say(h)...).wantReset(ErrOffsetSyncFailure)
				if again := h.fake.granted(); !again.GetSyncRequired() || again.GetExpectedOffset() != 0 || again.GetLength() != h.window.GetLength() {
					t.Errorf("the source hears %v", again)
				}
				if st := h.stream.Stats(); st.Bytes != 0 {
					t.Errorf("%+v", st)
				}
				h.fake.wantOpen()
				h.wantLife()
			})
		})
	}
}

// The client closes the path of a source that breaks the protocol, as in pulled streams.
func TestHostilePushes(t *testing.T) {
	for name, say := range map[string]func(h *pushScene) [][]byte{
		"between two units":        func(h *pushScene) [][]byte { return [][]byte{h.open(1000)} },
		"half a unit":              func(h *pushScene) [][]byte { return [][]byte{h.open(0), h.data(0, unit/2)} },
		"at the end":               func(h *pushScene) [][]byte { return [][]byte{h.open(h.total())} },
		"past the end":             func(h *pushScene) [][]byte { return [][]byte{h.open(1 << 62)} },
		"at a negative offset":     func(h *pushScene) [][]byte { return [][]byte{h.open(1 << 63)} },
		"across the end":           func(h *pushScene) [][]byte { return [][]byte{h.open(8 << 20), wireData(make([]byte, unit))} },
		"nothing":                  func(h *pushScene) [][]byte { return [][]byte{h.open(0), wireData(nil)} },
		"a grant that nobody gave": func(h *pushScene) [][]byte { return [][]byte{wireOpen(h.stream.StreamID(), 1, 0)} },
		"an id of the far future":  func(h *pushScene) [][]byte { return [][]byte{wireOpen(h.stream.StreamID()+7, 0, 0)} },
		"a plain stream's id":      func(h *pushScene) [][]byte { return [][]byte{wireOpen(4, 0, 0)} },
		"into a pulled stream": func(h *pushScene) [][]byte {
			s := h.w.offer(h.client, h.server, unit, nil)
			h.w.copy(s)
			h.fake.attached()
			return [][]byte{wireOpen(s.StreamID(), 0, 0), h.data(0, unit)}
		},
		"into another session's stream": func(h *pushScene) [][]byte {
			client, server := h.w.dial(nil)
			h.w.offerPushed(client, server, 1000, 0, nil)
			other := h.w.offerPushed(client, server, 1000, 0, nil) // this session has only one
			return [][]byte{wireOpen(other.StreamID(), 0, 0), h.data(0, 1000)}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			inPushScene(t, nil, func(h *pushScene) {
				h.fake.extent(say(h)...)
				h.fake.wantClosed(ErrMetadataProtocolViolation)
				h.wantLife()
			})
		})
	}
}

// An odd push that an honest source may send, too, has no penalty.
func TestOddPushes(t *testing.T) {
	for name, c := range map[string]struct {
		say       func(h *pushScene)
		conflicts int
	}{
		"OPEN and CLOSE, no byte": {func(h *pushScene) { h.fake.extent(h.open(0), wireClose(0)).Close() }, 0},
		"FIN without CLOSE":       {func(h *pushScene) { h.fake.extent(h.open(0)).Close() }, 0},
		"a reset":                 {func(h *pushScene) { h.fake.extent(h.open(0)).CancelWrite(7) }, 0},
		"its own bytes again": {func(h *pushScene) {
			for range 2 {
				h.fake.extent(h.open(unit), h.data(unit, 2*unit), wireClose(3*unit)).Close()
			}
			h.fake.extent(h.open(2*unit), h.data(2*unit, 2*unit), wireClose(4*unit)).Close()
		}, 2 + 1}, // and the primary's
		"many streams at once": {func(h *pushScene) {
			for i := range uint64(defaultSecondaryStreams) {
				h.fake.extent(h.open(i * unit))
			}
		}, 0},
		"after the release": {func(h *pushScene) {
			push(h.server, h.stream.StreamID(), 0, h.w.data)
			time.Sleep(time.Second)
			x := h.fake.extent(h.open(0), h.data(0, unit))
			h.stream.Close()
			x.write(h.data(unit, unit))
			h.fake.extent(h.open(0), h.data(0, unit))
		}, -1},
		"questions": {func(h *pushScene) {
			for _, offset := range []uint64{0, unit, 1 << 63} {
				h.fake.metadata(kwikpb.MetadataFrameType_OFFSET_SYNC_REQUEST, &kwikpb.OffsetSyncRequest{
					KwikStreamId: uint64(h.stream.StreamID()), CurrentOffset: offset, Timestamp: offset + 1,
				})
				if w := h.fake.granted(); w.GetTimestamp() != offset+1 || w.GetSyncRequired() != (offset > h.total()) || w.GetExpectedOffset() != 0 {
					h.w.t.Errorf("a source at %d hears %v", offset, w)
				}
			}
		}, 0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			inPushScene(t, nil, func(h *pushScene) {
				c.say(h)
				h.fake.wantOpen()
				if c.conflicts >= 0 {
					h.wantLife()
					if n := h.stream.Stats().Conflicts; c.conflicts > 0 && n < c.conflicts {
						h.w.t.Errorf("%d conflicts", n)
					}
				}
			})
		})
	}
}

// Whatever is pushed, however small its frames, the client holds no more than twice its window of
// it.
func TestPushedMemory(t *testing.T) {
	inWorldOf(t, 4<<20, 0, lan, func(w *world) {
		secondary, id := w.fakeSecondary()
		client, server := w.dial(&ClientConfig{ReorderWindow: minReorderWindow})
		fake := secondary.welcome(kwikpb.Role_ROLE_SECONDARY, id)
		w.wantState(client, id, PathActive)
		s := w.offerPushed(client, server, int64(len(w.data)), 1, nil)
		read := make(chan readResult, 1)
		go func() {
			data, err := io.ReadAll(s)
			read <- readResult{data, err}
		}()
		fake.attached()
		// A byte at a time, all but the first, which the reader waits for; then more than is
		// allowed.
		x := fake.extent(wireOpen(s.StreamID(), 0, 1))
		for at := 1; at < 100_000; at += 1000 {
			var raw []byte
			for i := at; i < at+1000; i++ {
				raw = append(raw, wireData(w.data[i:i+1])...)
			}
			x.write(raw)
		}
		for range 3 {
			fake.extent(wireOpen(s.StreamID(), 0, minReorderWindow), wireData(w.data[:1<<20])).wantReset(ErrOffsetSyncFailure)
		}
		time.Sleep(time.Second)
		a := s.agg
		a.mu.Lock()
		bytes, runs := a.arrived.memory(), len(a.arrived.runs)
		a.mu.Unlock()
		if bytes > 200_000 || runs > 2 {
			w.t.Errorf("%d bytes in %d runs for 100000 bytes that were pushed one by one", bytes, runs)
		}
		if err := push(server, s.StreamID(), 0, w.data); err != nil {
			w.t.Error(err)
		}
		if got := <-read; got.err != nil || string(got.data) != string(w.data) {
			w.t.Errorf("%d bytes, %v", len(got.data), got.err)
		}
	})
}

// memory is how many bytes of blocks a reorder buffer holds.
func (r *reorderBuffer) memory() (n int) {
	blocks := make(map[*block]bool)
	for _, x := range r.runs {
		blocks[x.b] = true
	}
	for _, page := range r.pages {
		blocks[page] = true
	}
	for b := range blocks {
		n += len(b.room)
	}
	return n
}

// A source that breaks the rules under RecoveryIgnoreStream is removed. Its bytes in flight do
// not count either.
func TestPusherThatIsOut(t *testing.T) {
	conf := &ClientConfig{ReorderWindow: minReorderWindow, Recovery: RecoveryPolicy{Metadata: RecoveryIgnoreStream}}
	inPushScene(t, conf, func(h *pushScene) {
		x := h.fake.extent(h.open(0), h.data(0, unit))
		h.w.within(time.Second, func() bool { return h.stream.Stats().Bytes == unit })
		h.fake.extent(h.open(1000))
		h.w.within(time.Second, func() bool { return h.stream.Stats().Sources[0].Gone != nil || h.stream.Stats().Sources[1].Gone != nil })
		x.write(h.data(unit, unit))
		x.wantReset(NoError)
		if n := h.stream.Stats().Bytes; n != unit {
			h.w.t.Errorf("%d bytes counted", n)
		}
		h.fake.wantOpen()
		h.wantLife()
	})
}

// If pushed bytes fail their proof, the client sends no new grant, because pushed streams have no
// grants.
func TestPushedBytesAreRefuted(t *testing.T) {
	for name, c := range map[string]struct {
		strategy AggregationFallbackStrategy
		end      ErrorCode // of the path; NoError if it goes on
		reset    ErrorCode
	}{
		"isolate":    {FallbackIsolateSource, ErrSourceRefuted, NoError},
		"ignore":     {FallbackIgnoreCorrupted, NoError, NoError},
		"retransmit": {FallbackRequestRetransmission, NoError, ErrSourceRefuted},
		"close":      {FallbackCloseStream, NoError, ErrSourceRefuted},
	} {
		t.Run(name, func(t *testing.T) {
			inWorldOf(t, 1<<20, 0, lan, func(w *world) {
				t := w.t
				secondary, id := w.fakeSecondary()
				client, server := w.dial(&ClientConfig{Recovery: RecoveryPolicy{Aggregation: c.strategy}})
				fake := secondary.welcome(kwikpb.Role_ROLE_SECONDARY, id)
				w.wantState(client, id, PathActive)
				s := w.offerPushed(client, server, int64(len(w.data)), unit, w.prove)
				copied := w.copy(s)
				fake.attached()
				first := fake.granted()
				x := fake.extent(wireOpen(s.StreamID(), 0, unit), wireData(make([]byte, unit)))
				if c.end != NoError {
					fake.wantClosed(c.end)
				} else if c.reset != NoError {
					x.wantReset(c.reset)
				}
				if c.strategy == FallbackRequestRetransmission {
					if again := fake.granted(); again.GetGrantId() != 0 || !again.GetSyncRequired() || again.GetLength() != first.GetLength() {
						t.Errorf("the source hears %v", again)
					}
				}
				if c.strategy == FallbackCloseStream {
					<-copied.done
					wantError(t, copied.err, ErrSourceRefuted)
					fake.wantOpen()
					return
				}
				time.Sleep(15 * time.Second) // longer than a stall and SourceTimeout: no source has work to deliver
				if err := push(server, s.StreamID(), 0, w.data); err != nil {
					t.Error(err)
				}
				copied.wantAll()
			})
		})
	}
}

// A client that reads a stream in another way than it was offered is refused: a ticket is for one
// of the two.
func TestAttachmentInTheOtherWay(t *testing.T) {
	inWorldOf(t, 1000, 1, lan, func(w *world) {
		t := w.t
		session := newSessionID()
		u, _ := newUnits(1000, 0, nil)
		secondary := w.secondaries[0]
		id := secondary.member.ID()
		guest := w.fakeGuest(secondary, session, id, secondary.ticket(ticketScopePath, session, contentID{}))
		pulled := secondary.ticket(ticketScopeStream, session, newContentID(u, 0, []byte("data"), false))
		guest.offer(&kwikpb.StreamOffer{
			KwikStreamId: uint64(firstAggregateStreamID), Size: 1000, Descriptor_: []byte("data"), Pushed: true,
			Tickets: []*kwikpb.StreamTicket{{PathId: string(id), Ticket: pulled}},
		})
		guest.wantClosed(ErrAccessRefused)

		client := w.fakeGuest(w.primary, newSessionID(), "", nil)
		server := <-w.primary.sessions
		if _, err := server.OpenAggregateStream(AggregateStreamSpec{Size: 1000, Descriptor: []byte("data"), Pushed: true}); err != nil {
			t.Fatal(err)
		}
		offer := proto.CloneOf(client.attached())
		offer.Pushed, offer.Tickets = false, nil
		client.offer(offer)
		client.wantClosed(ErrAccessRefused)
	})
}

// A client that sends a server an invalid window loses its path.
func TestHostileWindows(t *testing.T) {
	for name, w := range map[string]*kwikpb.OffsetSyncResponse{
		"past the end":   {ExpectedOffset: 1001},
		"too long":       {ExpectedOffset: 1, Length: 1000},
		"of 2^64 bytes":  {ExpectedOffset: 1000, Length: 1<<64 - 1},
		"with a grant":   {Length: 1000, GrantId: 1},
		"from far ahead": {ExpectedOffset: 1 << 63},
	} {
		t.Run(name, func(t *testing.T) {
			inWorldOf(t, 1000, 0, lan, func(world *world) {
				client := world.fakeGuest(world.primary, newSessionID(), "", nil)
				server := <-world.primary.sessions
				if _, err := server.OpenAggregateStream(AggregateStreamSpec{Size: 1000, Pushed: true}); err != nil {
					t.Fatal(err)
				}
				offer := client.attached()
				client.offer(offer)
				w.KwikStreamId = offer.GetKwikStreamId()
				client.metadata(kwikpb.MetadataFrameType_OFFSET_SYNC_RESPONSE, w)
				client.wantClosed(ErrOffsetSyncFailure)
			})
		})
	}
}
