package kwik

import (
	"bytes"
	"context"
	"errors"
	"io"
	"slices"
	"testing"
	"time"

	"github.com/quic-go/quic-go"
	"google.golang.org/protobuf/encoding/protowire"

	"kwikcp/kwik/internal/sched"
	kwikpb "kwikcp/kwik/proto"
)

var mySession = SessionID{1, 2, 3}

// contentOf is the content that a ticket for w.data covers, in units of the alignment.
func (w *world) contentOf(alignment uint64) contentID {
	u, err := newUnits(uint64(len(w.data)), alignment, nil)
	if err != nil {
		w.t.Fatal(err)
	}
	return newContentID(u, alignment, []byte("data"), false)
}

// attachment is the StreamOffer that a client sends to a source of w.data.
func (w *world) attachment(id StreamID, tickets ...[]byte) *kwikpb.StreamOffer {
	o := &kwikpb.StreamOffer{KwikStreamId: uint64(id), Size: uint64(len(w.data)), Alignment: unit, Descriptor_: []byte("data")}
	for _, t := range tickets {
		o.Tickets = append(o.Tickets, &kwikpb.StreamTicket{PathId: "s1", Ticket: t})
	}
	return o
}

// guestOfSecondary is a client with right tickets that the secondary has welcomed.
func (w *world) guestOfSecondary() *fakePeer {
	w.t.Helper()
	s := w.secondaries[0]
	return w.fakeGuest(s, mySession, s.member.ID(), s.ticket(ticketScopePath, mySession, contentID{}))
}

// attachedGuest is a guestOfSecondary that is also attached to w.data.
func (w *world) attachedGuest() *fakePeer {
	w.t.Helper()
	p := w.guestOfSecondary()
	p.offer(w.attachment(firstAggregateStreamID, w.secondaries[0].ticket(ticketScopeStream, mySession, w.contentOf(unit))))
	if m := p.receive().GetMetadata(); m.GetType() != kwikpb.MetadataFrameType_OFFSET_SYNC_REQUEST {
		w.t.Fatalf("answer to an attachment: %v", m)
	}
	return p
}

// The fake client is an honest one while it keeps the rules: a dialogue from Hello to the last
// byte.
func TestDialogueWithASecondary(t *testing.T) {
	inWorldOf(t, unit+10, 1, lan, func(w *world) {
		p := w.attachedGuest()
		p.grant(firstAggregateStreamID, 1, 0, uint64(len(w.data)))
		s, err := p.conn.AcceptUniStream(w.t.Context())
		if err != nil {
			w.t.Fatal(err)
		}
		frames := [][]byte{wireData(w.data[:unit]), wireData(w.data[unit:])} // the first is the smallest
		end := wireClose(uint64(len(w.data)))
		want := slices.Concat(wireOpen(firstAggregateStreamID, 1, 0), frames[0], frames[1], end)
		got, err := io.ReadAll(s)
		if err != nil || !bytes.Equal(got, want) {
			w.t.Errorf("the secondary stream has %d bytes, want %d, OPEN, two DATA frames, CLOSE and FIN: %v",
				len(got), len(want), err)
		}
		sync := p.receive().GetMetadata()
		var done kwikpb.OffsetSyncRequest
		if err := unmarshalMetadata(sync, &done); err != nil || done.GetCurrentOffset() != uint64(len(w.data)) || done.GetRoom() == 0 {
			w.t.Errorf("after the last grant: %v, %v", &done, err)
		}
	})
}

func TestHostileHello(t *testing.T) {
	right := func() *kwikpb.Hello { return &kwikpb.Hello{Version: protocolVersion, SessionId: mySession[:]} }
	for name, c := range map[string]struct {
		to   ServerRole
		say  func(w *world, p *fakePeer)
		want ErrorCode
	}{
		"no stream at all": {ServerRolePrimary, func(w *world, p *fakePeer) {}, ErrMetadataProtocolViolation},
		"no Hello":         {ServerRolePrimary, func(w *world, p *fakePeer) { p.openControl(); p.sendRaw([]byte{100}) }, ErrMetadataProtocolViolation},
		"another frame first": {ServerRolePrimary, func(w *world, p *fakePeer) {
			p.openControl()
			p.offer(w.attachment(firstAggregateStreamID))
		}, ErrMetadataProtocolViolation},
		"garbage": {ServerRolePrimary, func(w *world, p *fakePeer) {
			p.openControl()
			p.sendRaw(bytes.Repeat([]byte{0xff}, 100))
		}, ErrMetadataProtocolViolation},
		"another version": {ServerRolePrimary, func(w *world, p *fakePeer) {
			h := right()
			h.Version = 2
			p.hello(h)
		}, ErrVersionMismatch},
		"short session id": {ServerRolePrimary, func(w *world, p *fakePeer) {
			h := right()
			h.SessionId = h.SessionId[1:]
			p.hello(h)
		}, ErrMetadataProtocolViolation},
		"ticket for a primary": {ServerRolePrimary, func(w *world, p *fakePeer) {
			h := right()
			h.PathId, h.Ticket = "s1", w.secondaries[0].ticket(ticketScopePath, mySession, contentID{})
			p.hello(h)
		}, ErrAccessRefused},
		"secondary taken for a primary": {ServerRoleSecondary, func(w *world, p *fakePeer) { p.hello(right()) }, ErrInvalidStreamRole},
		"forged ticket": {ServerRoleSecondary, func(w *world, p *fakePeer) {
			h := right()
			h.Ticket = w.secondaries[0].ticket(ticketScopePath, mySession, contentID{})
			h.Ticket[len(h.Ticket)-1] ^= 1
			p.hello(h)
		}, ErrAccessRefused},
		"short ticket": {ServerRoleSecondary, func(w *world, p *fakePeer) {
			h := right()
			h.Ticket = w.secondaries[0].ticket(ticketScopePath, mySession, contentID{})[:ticketSize-1]
			p.hello(h)
		}, ErrAccessRefused},
		"ticket of another session": {ServerRoleSecondary, func(w *world, p *fakePeer) {
			h := right()
			h.Ticket = w.secondaries[0].ticket(ticketScopePath, SessionID{9}, contentID{})
			p.hello(h)
		}, ErrAccessRefused},
		"ticket of another secondary": {ServerRoleSecondary, func(w *world, p *fakePeer) {
			h := right()
			h.Ticket = w.secondaries[1].ticket(ticketScopePath, mySession, contentID{})
			p.hello(h)
		}, ErrAccessRefused},
		"stream ticket": {ServerRoleSecondary, func(w *world, p *fakePeer) {
			h := right()
			h.Ticket = w.secondaries[0].ticket(ticketScopeStream, mySession, contentID{})
			p.hello(h)
		}, ErrAccessRefused},
		"expired ticket": {ServerRoleSecondary, func(w *world, p *fakePeer) {
			h := right()
			h.Ticket = w.secondaries[0].ticket(ticketScopePath, mySession, contentID{})
			now := time.Now().Add(ticketLife + ticketSkew)
			w.secondaries[0].config.now = func() time.Time { return now }
			p.hello(h)
		}, ErrAccessRefused},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			inWorldOf(t, unit, 2, lan, func(w *world) {
				to := w.primary
				if c.to == ServerRoleSecondary {
					to = w.secondaries[0]
				}
				p := w.fakeClient(to, protocolClient)
				c.say(w, p)
				p.wantClosed(c.want)
				if len(to.sessions) > 0 {
					w.t.Error("the application was given a session")
				}
			})
		})
	}
}

func TestHostileClientOfAPrimary(t *testing.T) {
	for name, c := range map[string]struct {
		say  func(w *world, p *fakePeer, offered *kwikpb.StreamOffer)
		want ErrorCode
	}{
		"attaches what was not offered": {func(w *world, p *fakePeer, o *kwikpb.StreamOffer) {
			o.KwikStreamId++
			p.offer(o)
		}, ErrAccessRefused},
		"attaches other content": {func(w *world, p *fakePeer, o *kwikpb.StreamOffer) {
			o.Descriptor_ = []byte("secret")
			p.offer(o)
		}, ErrAccessRefused},
		"attaches other units": {func(w *world, p *fakePeer, o *kwikpb.StreamOffer) {
			o.Alignment = 1
			p.offer(o)
		}, ErrAccessRefused},
		"attaches nonsense": {func(w *world, p *fakePeer, o *kwikpb.StreamOffer) {
			o.Segments = []uint64{1, 2}
			p.offer(o)
		}, ErrMetadataProtocolViolation},
		"second Hello": {func(w *world, p *fakePeer, _ *kwikpb.StreamOffer) {
			p.send(&kwikpb.ControlFrame{Frame: &kwikpb.ControlFrame_Hello{Hello: &kwikpb.Hello{Version: protocolVersion, SessionId: mySession[:]}}})
		}, ErrMetadataProtocolViolation},
		"AddPath": {func(w *world, p *fakePeer, _ *kwikpb.StreamOffer) {
			p.send(&kwikpb.ControlFrame{Frame: &kwikpb.ControlFrame_AddPath{AddPath: &kwikpb.AddPath{PathId: "mine"}}})
		}, ErrMetadataProtocolViolation},
		"a source's frame": {func(w *world, p *fakePeer, o *kwikpb.StreamOffer) {
			p.metadata(kwikpb.MetadataFrameType_OFFSET_SYNC_REQUEST, &kwikpb.OffsetSyncRequest{KwikStreamId: o.GetKwikStreamId()})
		}, ErrMetadataProtocolViolation},
		"MAPPING_CREATE": {func(w *world, p *fakePeer, o *kwikpb.StreamOffer) {
			p.metadata(kwikpb.MetadataFrameType_STREAM_MAPPING_UPDATE, &kwikpb.StreamMappingUpdate{KwikStreamId: o.GetKwikStreamId()})
		}, ErrMetadataProtocolViolation},
		"huge frame": {func(w *world, p *fakePeer, _ *kwikpb.StreamOffer) {
			p.sendRaw(protowire.AppendVarint(nil, maxControlFrame+1))
		}, ErrMetadataProtocolViolation},
		"end of the control stream": {func(w *world, p *fakePeer, _ *kwikpb.StreamOffer) { p.control.Close() }, ErrMetadataProtocolViolation},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			inWorldOf(t, unit, 0, lan, func(w *world) {
				p := w.fakeGuest(w.primary, mySession, "", nil)
				server := <-w.primary.sessions
				if _, err := server.OpenAggregateStream(AggregateStreamSpec{Size: unit, Alignment: unit, Descriptor: []byte("data")}); err != nil {
					w.t.Fatal(err)
				}
				c.say(w, p, p.attached())
				p.wantClosed(c.want)
				<-server.Context().Done()
			})
		})
	}
}

func TestHostileAttachments(t *testing.T) {
	for name, ticket := range map[string]func(w *world) [][]byte{
		"no ticket": func(w *world) [][]byte { return nil },
		"two tickets": func(w *world) [][]byte {
			t := w.secondaries[0].ticket(ticketScopeStream, mySession, w.contentOf(unit))
			return [][]byte{t, t}
		},
		"ticket for other content": func(w *world) [][]byte {
			return [][]byte{w.secondaries[0].ticket(ticketScopeStream, mySession, w.contentOf(1))}
		},
		"ticket of another session": func(w *world) [][]byte {
			return [][]byte{w.secondaries[0].ticket(ticketScopeStream, SessionID{9}, w.contentOf(unit))}
		},
		"path ticket": func(w *world) [][]byte {
			return [][]byte{w.secondaries[0].ticket(ticketScopePath, mySession, contentID{})}
		},
		"expired ticket": func(w *world) [][]byte {
			t := w.secondaries[0].ticket(ticketScopeStream, mySession, w.contentOf(unit))
			now := time.Now().Add(ticketLife + ticketSkew)
			w.secondaries[0].config.now = func() time.Time { return now }
			return [][]byte{t}
		},
		"ticket that is not valid yet": func(w *world) [][]byte {
			now := time.Now().Add(-ticketSkew - time.Second)
			w.secondaries[0].config.now = func() time.Time { return now }
			return [][]byte{w.secondaries[0].ticket(ticketScopeStream, mySession, w.contentOf(unit))}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			inWorldOf(t, unit, 1, lan, func(w *world) {
				p := w.guestOfSecondary()
				w.secondaries[0].config.OpenContent = func(context.Context, ContentRequest) (Content, error) {
					w.t.Error("content was opened before the ticket was checked")
					return nil, errors.New("no")
				}
				p.offer(w.attachment(firstAggregateStreamID, ticket(w)...))
				p.wantClosed(ErrAccessRefused)
			})
		})
	}
}

func TestHostileGrants(t *testing.T) {
	const id = firstAggregateStreamID
	for name, c := range map[string]struct {
		say  func(w *world, p *fakePeer)
		want ErrorCode
	}{
		"no bytes":             {func(w *world, p *fakePeer) { p.grant(id, 1, 0, 0) }, ErrOffsetSyncFailure},
		"beyond the end":       {func(w *world, p *fakePeer) { p.grant(id, 1, uint64(len(w.data)), 1) }, ErrOffsetSyncFailure},
		"past the end":         {func(w *world, p *fakePeer) { p.grant(id, 1, 0, uint64(len(w.data))+1) }, ErrOffsetSyncFailure},
		"sum beyond 64 bits":   {func(w *world, p *fakePeer) { p.grant(id, 1, unit, 1<<64-1) }, ErrOffsetSyncFailure},
		"off the start":        {func(w *world, p *fakePeer) { p.grant(id, 1, 1, unit-1) }, ErrOffsetSyncFailure},
		"off the end":          {func(w *world, p *fakePeer) { p.grant(id, 1, 0, 1) }, ErrOffsetSyncFailure},
		"grant 0":              {func(w *world, p *fakePeer) { p.grant(id, 0, 0, unit) }, ErrOffsetSyncFailure},
		"the same grant again": {func(w *world, p *fakePeer) { p.grant(id, 1, 0, unit); p.grant(id, 1, unit, unit) }, ErrOffsetSyncFailure},
		"end off the units": {func(w *world, p *fakePeer) {
			p.grant(id, 1, 0, 2*unit)
			p.metadata(kwikpb.MetadataFrameType_STREAM_MAPPING_UPDATE, &kwikpb.StreamMappingUpdate{
				KwikStreamId: uint64(id), Operation: kwikpb.MappingOperation_MAPPING_UPDATE, GrantId: 1, EndOffset: unit + 1,
			})
		}, ErrOffsetSyncFailure},
		"65 grants": {func(w *world, p *fakePeer) {
			for i := range uint64(sched.MaxGrantsQueued + 2) { // one more, because the first may have been written already
				p.grant(id, i+1, 0, uint64(len(w.data)))
			}
		}, ErrSecondaryStreamOverflow},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			inWorldOf(t, 12*unit+5, 1, lan, func(w *world) {
				p := w.attachedGuest()
				c.say(w, p)
				p.wantClosed(c.want)
			})
		})
	}
}

// Grants for a stream that the server does not serve, or serves no longer, cross with its
// refusal and are ignored.
func TestGrantsForNothing(t *testing.T) {
	inWorldOf(t, unit, 1, lan, func(w *world) {
		p := w.attachedGuest()
		p.grant(firstAggregateStreamID+1, 1, 0, unit)
		p.metadata(kwikpb.MetadataFrameType_STREAM_MAPPING_UPDATE, &kwikpb.StreamMappingUpdate{
			KwikStreamId: uint64(firstAggregateStreamID), Operation: kwikpb.MappingOperation_MAPPING_DELETE,
		})
		p.grant(firstAggregateStreamID, 1, 0, unit)
		p.metadata(kwikpb.MetadataFrameType_STREAM_MAPPING_UPDATE, &kwikpb.StreamMappingUpdate{
			KwikStreamId: uint64(firstAggregateStreamID), Operation: kwikpb.MappingOperation_MAPPING_UPDATE, GrantId: 1, EndOffset: 0,
		})
		p.wantOpen()
	})
}

// A client opens only the control stream to a secondary, and unidirectional streams to no
// server.
func TestHostileClientStreams(t *testing.T) {
	inWorldOf(t, unit, 1, lan, func(w *world) {
		p := w.guestOfSecondary()
		for range 2 * maxPlainStreams {
			stream, err := p.conn.OpenStreamSync(w.t.Context())
			if err != nil {
				w.t.Fatal(err)
			}
			stream.Write([]byte("x"))
			_, err = stream.Read(make([]byte, 1))
			wantStreamError(w.t, err, ErrSecondaryStreamIsolation)
			<-stream.Context().Done()
			wantStreamError(w.t, context.Cause(stream.Context()), ErrSecondaryStreamIsolation)
		}
		for _, p := range []*fakePeer{p, w.fakeGuest(w.primary, mySession, "", nil)} {
			_, err := p.conn.OpenUniStream()
			if _, limited := errors.AsType[*quic.StreamLimitReachedError](err); !limited {
				w.t.Errorf("a unidirectional stream to a server: %v", err)
			}
		}
		p.wantOpen()
	})
}

// A client that reads no bytes holds one block of the server and no more, and ends like any
// other.
func TestClientThatReadsNoData(t *testing.T) {
	inWorldOf(t, 12<<20, 1, lan, func(w *world) {
		p := w.attachedGuest()
		for i := range uint64(12) {
			p.grant(firstAggregateStreamID, i+1, i<<20, 1<<20)
		}
		time.Sleep(5 * time.Second)
		session := <-w.secondaries[0].sessions
		if sent := session.conn.ConnectionStats().BytesSent; sent > 2<<20 {
			w.t.Errorf("%d bytes were sent to a client that reads nothing", sent)
		}
		p.conn.CloseWithError(0, "")
		<-session.Context().Done()
	})
}
