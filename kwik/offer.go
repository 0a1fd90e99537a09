package kwik

import (
	"context"
	"fmt"
	"sync/atomic"

	"kwikcp/kwik/internal/sched"
	kwikpb "kwikcp/kwik/proto"
)

// This file is what a primary tells its client: the aggregate streams that it offers, and the servers that have them.

// An AggregateStreamSpec says what an aggregate stream is.
type AggregateStreamSpec struct {
	// Size in bytes, at least 1.
	Size int64
	// Alignment is the size of a unit of proof in bytes, at most 1 MiB; 0 means 1.
	Alignment int64
	// Segments are the lengths, in bytes, of the parts at whose starts units start anew; none means one part.
	Segments []int64
	// Descriptor is what OpenContent, here and on the secondaries, will be asked to open; at most 64 KiB.
	Descriptor []byte
	// Pushed means that the client grants nothing and OpenContent is not asked: servers write what they like where they like,
	// inside the client's reorder window, through SecondaryStreams (see PushedStream).
	Pushed bool
	// HeadStart is how many of the first bytes the primary writes without being asked, after [AggregateStream.Start]; 0 for none. It is cut to
	// whole units, to 1 MiB and, of a stream that several servers share, to the primary's equal part. The client takes them for what it
	// asked for itself, and reads none before its application does. It should be what the client reserved (ClientSession.ReserveHeadStart)
	// and asked for in the application's protocol: more may fill its connection's window before it hears of the stream.
	HeadStart int64
}

// An AggregateStream is the primary's handle of an aggregate stream that it opened. The bytes come from the content
// that OpenContent returns for its descriptor, here and on every secondary; nothing is written to the handle.
type AggregateStream struct {
	id      StreamID
	spec    AggregateStreamSpec
	units   sched.Units
	content contentID
	ctx     context.Context
	cancel  context.CancelFunc
	start   func()       // begins the head start; nil without one
	sent    atomic.Int64 // payload that this server wrote, bytes
}

// Sent returns how many bytes of the stream this server itself has sent; not in the pushed model.
func (o *AggregateStream) Sent() int64 { return o.sent.Load() }

// Secondaries returns how many secondaries clients are told of now. Which of them deliver only a client knows.
func (s *ServerSession) Secondaries() (n int) {
	s.listener.mu.Lock()
	defer s.listener.mu.Unlock()
	for _, m := range s.listener.members.all() {
		if m.id != primaryPathID {
			n++
		}
	}
	return n
}

// StreamID returns the id under which the client accepts the stream.
func (o *AggregateStream) StreamID() StreamID { return o.id }

// Context ends when the client has released the stream or the session has ended.
func (o *AggregateStream) Context() context.Context { return o.ctx }

// OpenAggregateStream offers the client an aggregate stream, with tickets for every secondary that there is and for those
// that join before it is released. It does not wait for the client. On a secondary it fails with ErrInvalidStreamRole;
// with too many open it fails with ErrSecondaryStreamOverflow.
func (s *ServerSession) OpenAggregateStream(spec AggregateStreamSpec) (*AggregateStream, error) {
	if refusal := checkPublicStream(s.Role(), false); refusal != nil {
		return nil, refusal
	}
	segments := make([]uint64, len(spec.Segments))
	for i, n := range spec.Segments {
		segments[i] = uint64(n)
	}
	u, err := newUnits(uint64(spec.Size), uint64(spec.Alignment), segments)
	if err != nil {
		return nil, err
	}
	if len(spec.Descriptor) > maxDescriptor {
		return nil, fmt.Errorf("kwik: descriptor of %d bytes, at most %d are allowed", len(spec.Descriptor), maxDescriptor)
	}
	o := &AggregateStream{spec: spec, units: u, content: newContentID(u, uint64(spec.Alignment), spec.Descriptor, spec.Pushed)}
	o.ctx, o.cancel = context.WithCancel(s.conn.Context())

	s.listener.mu.Lock() // so that no secondary joins between the offer's tickets and those that follow
	defer s.listener.mu.Unlock()
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.offers) >= maxStreamsPerSession {
		o.cancel()
		return nil, errorf(ErrSecondaryStreamOverflow, "%d aggregate streams are open", len(s.offers))
	}
	s.last++
	o.id = s.last
	s.offers[o.id] = o
	offer := &kwikpb.StreamOffer{
		KwikStreamId: uint64(o.id), Size: uint64(spec.Size), Alignment: uint64(spec.Alignment),
		Segments: u.Segments(), Descriptor_: spec.Descriptor, Pushed: spec.Pushed,
	}
	secondaries := 0
	for _, m := range s.listener.members.all() {
		offer.Tickets = append(offer.Tickets, s.streamTicket(o, m))
		if m != s.listener.members.self {
			secondaries++
		}
	}
	if end := spec.headStart(u, secondaries); end > 0 && s.beginHeadStart(o, end) {
		offer.HeadStart = uint64(end)
	}
	s.control.send(&kwikpb.ControlFrame{Frame: &kwikpb.ControlFrame_StreamOffer{StreamOffer: offer}})
	return o, nil
}

func (s *ServerSession) streamTicket(o *AggregateStream, m *member) *kwikpb.StreamTicket {
	claim := ticketClaim{scope: ticketScopeStream, session: s.id, path: m.id, content: o.content}
	return &kwikpb.StreamTicket{PathId: string(m.id), Ticket: issueTicket(m.key, claim, s.listener.config.Now())}
}

// tellMembers tells the client of all servers, with new tickets. Called with the listener's lock held.
func (s *ServerSession) tellMembers() {
	for _, m := range s.listener.members.all() {
		s.tellMember(m)
	}
}

// tellMember tells the client of a server. Called with the listener's lock held.
func (s *ServerSession) tellMember(m *member) {
	if s.role != ServerRolePrimary {
		return // its client hears it on the session's first path
	}
	claim := ticketClaim{scope: ticketScopePath, session: s.id, path: m.id}
	path := &kwikpb.AddPath{PathId: string(m.id), KeyHash: m.pin[:], Ticket: issueTicket(m.key, claim, s.listener.config.Now())}
	if m.addr.IsValid() {
		path.Addresses = []string{m.addr.String()}
	}
	s.control.send(&kwikpb.ControlFrame{Frame: &kwikpb.ControlFrame_AddPath{AddPath: path}})
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, o := range s.offers {
		s.control.send(&kwikpb.ControlFrame{Frame: &kwikpb.ControlFrame_StreamOffer{StreamOffer: &kwikpb.StreamOffer{
			KwikStreamId: uint64(o.id), Tickets: []*kwikpb.StreamTicket{s.streamTicket(o, m)},
		}}})
	}
}

// tellGone tells the client that a secondary left. Called with the listener's lock held.
func (s *ServerSession) tellGone(id PathID, reason string) {
	if s.role != ServerRolePrimary {
		return
	}
	s.control.send(&kwikpb.ControlFrame{Frame: &kwikpb.ControlFrame_RemovePath{RemovePath: &kwikpb.RemovePath{
		PathId: string(id), Reason: reason,
	}}})
}
