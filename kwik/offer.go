package kwik

import (
	"context"
	"fmt"
	"slices"
	"sync/atomic"

	"kwikcp/kwik/internal/sched"
	kwikpb "kwikcp/kwik/proto"
)

// This file holds the messages of a primary to its clients: the offers of aggregate streams, and
// the servers that have them.

// An AggregateStreamSpec describes an aggregate stream.
type AggregateStreamSpec struct {
	// Size in bytes, at least 1.
	Size int64
	// Alignment is the size of a unit in bytes, at most 1 MiB; 0 means 1. The client verifies
	// whole units.
	Alignment int64
	// Segments are the lengths of the stream's parts in bytes, at most 4,096. Each part starts
	// with a new unit. None means one part.
	Segments []int64
	// Descriptor names the content to the OpenContent of this server and of the secondaries; at
	// most 64 KiB.
	Descriptor []byte
	// Pushed means that the servers choose which bytes they write, inside the client's reorder
	// window, through SecondaryStreams (see PushedStream). The client requests nothing, and
	// OpenContent is not called.
	Pushed bool
	// HeadStart is the number of bytes at the start of the stream that the primary sends without
	// a request; 0 means none. It is cut to whole units, to 1 MiB, and to the primary's equal
	// share if several servers have the stream. It should be what the client reserved with
	// [ClientSession.ReserveHeadStart]: more may fill the connection's window before the client
	// knows the stream.
	HeadStart int64
	// HeadStartAfter delays the head start until the channel is closed, so that it does not
	// compete with bytes which the client needs first. Nil means no delay. If the channel is
	// never closed, the client takes the primary for stalled and requests the bytes from other
	// servers.
	HeadStartAfter <-chan struct{}
}

// An AggregateStream is the primary's handle of an aggregate stream that it opened. The
// application neither writes to it nor starts it. Here and on every secondary, OpenContent
// returns the content for its descriptor. Each server sends the bytes of the content that the
// client requests.
type AggregateStream struct {
	id      StreamID
	spec    AggregateStreamSpec
	units   sched.Units
	content contentID
	ctx     context.Context
	cancel  context.CancelFunc
	memory  int64        // charged to the session until the stream is released, bytes
	sent    atomic.Int64 // payload that this server wrote, bytes
	// ticketed are the servers for which the client was given a ticket; guarded by the session's
	// lock. Those that have left are not among them.
	ticketed []ServerID
}

// hasTicket reports whether the client was given a ticket for the stream at a server. The caller
// holds the session's lock.
func (o *AggregateStream) hasTicket(id ServerID) bool { return slices.Contains(o.ticketed, id) }

// Sent returns the payload bytes of the stream that this server itself has sent. It does not
// count pushed bytes.
func (o *AggregateStream) Sent() int64 { return o.sent.Load() }

// Secondaries returns the number of secondaries that are offered to the client. Only the client
// knows which of them deliver.
func (s *ServerSession) Secondaries() (n int) {
	s.listener.mu.Lock()
	defer s.listener.mu.Unlock()
	for _, m := range s.offerable() {
		if m.id != primaryID {
			n++
		}
	}
	return n
}

// StreamID returns the ID with which the client accepts the stream.
func (o *AggregateStream) StreamID() StreamID { return o.id }

// Context ends when the client has released the stream or the session has ended.
func (o *AggregateStream) Context() context.Context { return o.ctx }

// OpenAggregateStream offers the client an aggregate stream, with tickets for all secondaries,
// including those that join before the client releases it. It does not wait for the client. It
// fails with ErrInvalidStreamRole on a secondary, and with ErrSecondaryStreamOverflow if the
// session has 128 aggregate streams open. If the session may have no more memory, it fails with
// ErrServerBusy.
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
		return nil, fmt.Errorf("kwik: descriptor of %d bytes, at most %d are allowed", len(spec.Descriptor),
			maxDescriptor)
	}
	o := &AggregateStream{spec: spec, units: u,
		content: newContentID(u, uint64(spec.Alignment), spec.Descriptor, spec.Pushed)}
	o.ctx, o.cancel = context.WithCancel(s.conn.Context())

	s.listener.mu.Lock() // no secondary may join between this offer and its registration
	defer s.listener.mu.Unlock()
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.conn.Context().Err() != nil:
		err = fromQUIC(context.Cause(s.conn.Context()), s.serverID.path(1))
	case len(s.offers) >= maxStreamsPerSession:
		err = errorf(ErrSecondaryStreamOverflow, "%d aggregate streams are open", len(s.offers))
	default:
		o.memory = offerMemory + 2*u.Memory() + int64(len(spec.Descriptor))
		err = s.Reserve(o.memory)
	}
	if err != nil {
		o.cancel()
		return nil, err
	}
	s.last++
	o.id = s.last
	s.offers[o.id] = o
	offer := &kwikpb.StreamOffer{
		KwikStreamId: uint64(o.id), Size: uint64(spec.Size), Alignment: uint64(spec.Alignment),
		Segments: u.Segments(), Descriptor_: spec.Descriptor, Pushed: spec.Pushed,
	}
	secondaries := 0
	for _, m := range s.offerable() {
		offer.Tickets = append(offer.Tickets, s.streamTicket(o, m))
		if m != s.listener.members.self {
			secondaries++
		}
	}
	var headStart *attachment
	if end := spec.headStartLength(u, secondaries); end > 0 {
		if headStart = s.newHeadStart(o, end); headStart != nil {
			offer.HeadStart = uint64(end)
		}
	}
	s.control.send(&kwikpb.ControlFrame{Frame: &kwikpb.ControlFrame_StreamOffer{StreamOffer: offer}})
	if headStart != nil { // its control frames must follow the offer
		s.start(headStart.run)
	}
	return o, nil
}

// streamTicket returns a ticket for a stream at a server and records it. The caller holds s.mu.
func (s *ServerSession) streamTicket(o *AggregateStream, m *member) *kwikpb.StreamTicket {
	if !o.hasTicket(m.id) {
		o.ticketed = append(o.ticketed, m.id)
	}
	claim := ticketClaim{scope: ticketScopeStream, session: s.id, server: m.id, content: o.content, holder: s.holder}
	return &kwikpb.StreamTicket{PathId: string(m.id), Ticket: s.issueTicket(m.key, claim)}
}

// issueTicket returns a ticket for the session. It expires with the session's Authorization at the
// latest.
func (s *ServerSession) issueTicket(key ticketKey, c ticketClaim) []byte {
	now := s.listener.config.now()
	until := now.Add(ticketLife)
	if at := s.authorization.Expires; !at.IsZero() && at.Before(until) {
		until = at
	}
	return issueTicket(key, c, now, until)
}

// tellMembers sends the client all servers, with new tickets. Called with the listener's lock held.
func (s *ServerSession) tellMembers() {
	for _, m := range s.offerable() {
		s.tellMember(m)
	}
}

// tellMember sends the client one server with new tickets. Called with the listener's lock held.
func (s *ServerSession) tellMember(m *member) {
	if s.role != ServerRolePrimary || !s.isOffered(m) {
		return // the session's first path carries it
	}
	claim := ticketClaim{scope: ticketScopePath, session: s.id, server: m.id, holder: s.holder}
	path := &kwikpb.AddPath{PathId: string(m.id), KeyHash: m.pin[:],
		Ticket: s.issueTicket(m.key, claim)}
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

// tellGone tells the client that a secondary has left. Called with the listener's lock held.
func (s *ServerSession) tellGone(id ServerID, reason string) {
	if s.role != ServerRolePrimary {
		return
	}
	s.control.send(&kwikpb.ControlFrame{Frame: &kwikpb.ControlFrame_RemovePath{RemovePath: &kwikpb.RemovePath{
		PathId: string(id), Reason: reason,
	}}})
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, o := range s.offers {
		o.ticketed = slices.DeleteFunc(o.ticketed, func(other ServerID) bool { return other == id })
	}
}
