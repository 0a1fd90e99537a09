package kwik

import (
	"context"
	"crypto/tls"
	"math"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/quic-go/quic-go"

	"kwikcp/internal/budget"
	kwikpb "kwikcp/kwik/proto"
)

// A ServerSession is a server's end of one path of a client. On a primary it is used like a
// quic-go connection, and it offers aggregate streams. On a secondary, and on a further path to a
// primary, it has no public streams: AcceptStream blocks until the session ends.
//
// Its goroutines are the control reader and writer, one per attached stream and, on a secondary,
// one that refuses public streams. They end with the connection, and the listener waits for them.
type ServerSession struct {
	listener *Listener
	conn     *quic.Conn
	control  *controlStream
	id       SessionID
	serverID ServerID   // this server
	role     ServerRole // this server's role on this path
	holder   ticketHolder
	rate     rateShare     // of the session, for all its streams
	resident *resident     // its place at the listener; guarded by the gate
	memory   *budget.Share // of the listener's budgets
	frames   *budget.Share
	contents *budget.Share
	blocks   atomic.Int32 // that are held
	takenAt  atomic.Int64 // when the client last took bytes, nanoseconds since the Unix epoch
	// authorization is set before the session is accepted; zero on further paths.
	authorization Authorization
	wg            sync.WaitGroup

	mu               sync.Mutex
	last             StreamID // newest aggregate stream
	offers           map[StreamID]*AggregateStream
	attached         map[StreamID]*attachment
	pushed           map[StreamID]*PushedStream
	waiting          []*PushedStream // for AcceptPushedStream
	news             chan struct{}   // closed and replaced whenever waiting grows
	plain            int             // plain streams on which this side may still write
	rejectionReports int             // how often the client blamed a server
	uses             int             // how many streams were attached or opened
	usesSeen         int             // uses when the session watch last looked
	usedAt           time.Time       // when the session watch last saw that uses had grown
	ended            bool            // the connection is over: no goroutine begins
	reportAt         time.Time       // when the client may next be told how the path is

	// Of the session watch, guarded by the listener's lock: the bytes that had arrived when it last
	// saw more, and when that was.
	heard   uint64
	heardAt time.Time
	// Of reachability.go, guarded by the listener's lock: whether the client is told of a
	// secondary, and what it reported last.
	offersTo     map[memberKey]bool
	reachReports map[ServerID]reachReport
	inspects     bool // the client diagnoses, and is told of all servers; set before it is accepted
}

// serveClient serves a client's path until it ends.
func (l *Listener) serveClient(conn *quic.Conn, greeted func()) error {
	s, err := l.greet(conn)
	if err != nil {
		return err
	}
	greeted()
	var release func()
	s.rate, release = l.rates.acquire(clientPrefix(conn.RemoteAddr()), s.id)
	defer release()
	s.control.rate = s.rate.share()
	if err := l.register(s); err != nil {
		return err
	}
	defer s.expire()()
	ctx := conn.Context()
	s.start(func() {
		if err := s.control.writeLoop(ctx.Done()); err != nil {
			s.fail(err)
		}
	})
	s.start(func() { s.fail(s.readControl()) })
	if s.Role() == ServerRoleSecondary {
		s.start(func() { s.refuseStreams(ctx) })
	}
	select {
	case l.accepted <- s:
	case <-ctx.Done():
	case <-l.ctx.Done():
	}
	<-ctx.Done()
	l.unregister(s)
	s.wg.Wait()
	return nil
}

// greet reads Hello and decides whether to accept the client.
func (l *Listener) greet(conn *quic.Conn) (*ServerSession, error) {
	ctx, cancel := context.WithTimeout(l.ctx, l.config.HelloTimeout)
	defer cancel()
	stream, err := conn.AcceptStream(ctx) // the first is stream 0
	if err != nil {
		return nil, errorf(ErrMetadataProtocolViolation, "no Hello came")
	}
	s := &ServerSession{
		listener: l, conn: conn, control: newControlStream(conn, stream), serverID: primaryID,
		memory: l.memory.Share(), frames: l.frames.Share(), contents: l.contents.Share(),
		last:     firstAggregateStreamID - 1,
		offers:   make(map[StreamID]*AggregateStream),
		attached: make(map[StreamID]*attachment),
		pushed:   make(map[StreamID]*PushedStream),
		news:     make(chan struct{}),
	}
	s.taken()
	s.control.session, s.control.due = s, time.Now().Add(l.config.HelloTimeout)
	f, err := s.control.receive()
	s.control.releaseFrame()
	if err != nil {
		return nil, errorf(ErrMetadataProtocolViolation, "no Hello came: %w", err)
	}
	s.control.due = time.Time{}
	hello := f.GetHello()
	switch {
	case hello == nil:
		return nil, errorf(ErrMetadataProtocolViolation, "the first frame is not Hello")
	case hello.GetVersion() != protocolVersion:
		return nil, errorf(ErrVersionMismatch, "KWIK version %d is not spoken here, version %d is",
			hello.GetVersion(), protocolVersion)
	case len(hello.GetSessionId()) != len(s.id):
		return nil, errorf(ErrMetadataProtocolViolation, "session id of %d bytes", len(hello.GetSessionId()))
	}
	s.id, s.inspects = SessionID(hello.GetSessionId()), hello.GetInspect()
	if s.holder, err = readHolder(hello); err != nil {
		return nil, err
	}
	role := kwikpb.Role_ROLE_PRIMARY
	switch {
	case len(hello.GetTicket()) > 0:
		// It is the ID of the membership under whose key the ticket was made, present or previous.
		role, s.role, s.serverID = kwikpb.Role_ROLE_SECONDARY, ServerRoleSecondary, ServerID(hello.GetPathId())
		claim := ticketClaim{
			scope: ticketScopePath, session: s.id, server: s.serverID, holder: s.holderOf(hello.GetTicket()),
		}
		if err := checkTicket(l.ticketKeys(), claim, hello.GetTicket(), l.config.now()); err != nil {
			return nil, err
		}
		if err := checkPathProof(claim.holder, conn, hello.GetProof()); err != nil {
			return nil, err
		}
	case l.config.Role == ServerRoleSecondary:
		return nil, errorf(ErrInvalidStreamRole, "this server is a secondary; ask its primary")
	default:
		if err := l.authorize(s, hello); err != nil {
			return nil, err
		}
	}
	welcome := &kwikpb.Welcome{Version: protocolVersion, Role: role, PathId: string(s.serverID)}
	if hello.GetInspect() {
		welcome.Host = l.config.host()
	}
	s.control.send(&kwikpb.ControlFrame{Frame: &kwikpb.ControlFrame_Welcome{Welcome: welcome}})
	return s, nil
}

// register adds a session to the listener and tells its client of the secondaries.
func (l *Listener) register(s *ServerSession) error {
	if err := l.enter(s); err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	var err error
	switch {
	case l.ctx.Err() != nil:
		err = errorf(NoError, "server closed")
	case l.draining:
		err = errorf(NoError, "server is leaving")
	case s.role == ServerRoleSecondary && l.revoked.has(s.id):
		err = errorf(ErrAccessRefused, "the session was revoked")
	case s.role == ServerRolePrimary && l.hasSession(s.id):
		// Members know the IDs of sessions. Their permissions must not mix.
		err = errorf(ErrAccessRefused, "another session has this ID")
	}
	if err != nil {
		l.gate.depart(s.resident)
		return err
	}
	l.sessions[s] = struct{}{}
	s.tellMembers()
	return nil
}

// hasSession reports whether a path of a session is connected. The caller holds l.mu.
func (l *Listener) hasSession(id SessionID) bool {
	for s := range l.sessions {
		if s.id == id {
			return true
		}
	}
	return false
}

func (l *Listener) unregister(s *ServerSession) {
	l.mu.Lock()
	delete(l.sessions, s)
	if l.draining && len(l.sessions) == 0 {
		close(l.empty)
	}
	l.mu.Unlock()
	l.gate.depart(s.resident)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ended = true
	for _, o := range s.offers {
		s.releaseOffer(o)
	}
	for _, a := range s.attached {
		a.cancel()
	}
	for _, p := range s.pushed {
		s.releasePushed(p)
	}
}

// releaseOffer ends an offered stream. Called with the lock held.
func (s *ServerSession) releaseOffer(o *AggregateStream) {
	o.cancel()
	delete(s.offers, o.id)
	s.memory.Release(o.memory)
}

// releasePushed ends a pushed stream. Called with the lock held.
func (s *ServerSession) releasePushed(p *PushedStream) {
	p.cancel()
	delete(s.pushed, p.id)
	s.memory.Release(p.memory)
}

// Role returns the server's role on this path. A primary is a secondary on all paths but the
// session's first.
func (s *ServerSession) Role() ServerRole { return s.role }

// ID returns the session's ID, which is the same on every server.
func (s *ServerSession) ID() SessionID { return s.id }

// RemoteAddr returns the client's address.
func (s *ServerSession) RemoteAddr() net.Addr { return s.conn.RemoteAddr() }

// LocalAddr returns the server's address.
func (s *ServerSession) LocalAddr() net.Addr { return s.conn.LocalAddr() }

// ConnectionState returns the TLS state of the client's connection.
func (s *ServerSession) ConnectionState() tls.ConnectionState { return s.conn.ConnectionState().TLS }

// Context ends with the session. Its cause is the error.
func (s *ServerSession) Context() context.Context { return s.conn.Context() }

// CloseWithError closes the client's path to this server.
func (s *ServerSession) CloseWithError(code ApplicationErrorCode, reason string) error {
	return s.conn.CloseWithError(code, reason)
}

// OpenStreamSync opens a plain stream to the client. It blocks while QUIC's stream limit is
// reached, until ctx ends. On a secondary it fails with ErrInvalidStreamRole and sends nothing.
func (s *ServerSession) OpenStreamSync(ctx context.Context) (*Stream, error) {
	return s.openStream(func() (*quic.Stream, error) { return s.conn.OpenStreamSync(ctx) })
}

// OpenStream is OpenStreamSync, except that it fails at once if QUIC's stream limit is reached.
func (s *ServerSession) OpenStream() (*Stream, error) { return s.openStream(s.conn.OpenStream) }

func (s *ServerSession) openStream(open func() (*quic.Stream, error)) (*Stream, error) {
	if refusal := checkPublicStream(s.Role(), false); refusal != nil {
		return nil, refusal
	}
	stream, err := open()
	if err != nil {
		return nil, fromQUIC(err, s.serverID.path(1))
	}
	return s.newPlain(stream), nil
}

// AcceptStream returns the next plain stream that the client opened. On a secondary there are
// none: it blocks until ctx or the session ends.
func (s *ServerSession) AcceptStream(ctx context.Context) (*Stream, error) {
	if s.Role() == ServerRoleSecondary {
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-s.conn.Context().Done():
			return nil, fromQUIC(context.Cause(s.conn.Context()), s.serverID.path(1))
		}
	}
	stream, err := s.conn.AcceptStream(ctx)
	if err != nil {
		return nil, fromQUIC(err, s.serverID.path(1))
	}
	return s.newPlain(stream), nil
}

// maxLinger bounds lingerTime: the client decides how long a round trip seems.
const maxLinger = 10 * time.Second

// lingerTime returns how long the last bytes of a stream may take to arrive.
func lingerTime(rtt time.Duration) time.Duration { return min(max(time.Second, 4*rtt), maxLinger) }

// newPlain counts a plain stream until this side has ended writing and the last bytes had time to
// arrive.
func (s *ServerSession) newPlain(stream *quic.Stream) *Stream {
	s.mu.Lock()
	s.plain++
	s.uses++
	s.mu.Unlock()
	context.AfterFunc(stream.Context(), func() {
		time.AfterFunc(lingerTime(s.conn.ConnectionStats().SmoothedRTT), func() {
			s.mu.Lock()
			s.plain--
			s.mu.Unlock()
			s.closeIfDrained()
		})
	})
	return &Stream{quic: stream, path: s.serverID.path(1), rate: s.rate.share()}
}

// refuseStreams resets the public streams that a client opens to a secondary.
func (s *ServerSession) refuseStreams(ctx context.Context) {
	for {
		stream, err := s.conn.AcceptStream(ctx)
		if err != nil {
			return
		}
		refusal := checkPublicStream(s.Role(), true)
		stream.CancelRead(StreamErrorCode(refusal.Code))
		stream.CancelWrite(StreamErrorCode(refusal.Code))
	}
}

func (s *ServerSession) fail(err error) {
	s.conn.CloseWithError(ApplicationErrorCode(codeOf(err)), closingReason(err))
}

func (s *ServerSession) readControl() error {
	defer s.control.releaseFrame()
	for {
		f, err := s.control.receive()
		if err != nil {
			return err
		}
		switch frame := f.GetFrame().(type) {
		case nil, *kwikpb.ControlFrame_Probe: // nil is a frame of a later version
		case *kwikpb.ControlFrame_StreamOffer:
			err = s.attach(frame.StreamOffer)
		case *kwikpb.ControlFrame_Metadata:
			err = s.handleMetadata(frame.Metadata)
		case *kwikpb.ControlFrame_PathStatus:
			s.listener.handlePathStatus(s, frame.PathStatus)
		default:
			err = errorf(ErrMetadataProtocolViolation, "control frame %T from a client", frame)
		}
		if err != nil {
			return err
		}
	}
}

// attach makes this server a source of an aggregate stream, if the client is entitled to it.
func (s *ServerSession) attach(o *kwikpb.StreamOffer) error {
	id := StreamID(o.GetKwikStreamId())
	if o.GetKwikStreamId() > math.MaxInt64 || !id.isAggregate() || len(o.GetDescriptor_()) > maxDescriptor {
		return errorf(ErrMetadataProtocolViolation, "attachment to stream %#x", o.GetKwikStreamId())
	}
	u, err := newUnits(o.GetSize(), o.GetAlignment(), o.GetSegments())
	if err != nil {
		return err
	}
	content := newContentID(u, o.GetAlignment(), o.GetDescriptor_(), o.GetPushed())
	if s.Role() == ServerRoleSecondary {
		if len(o.GetTickets()) != 1 {
			return errorf(ErrAccessRefused, "attachment without its one ticket")
		}
		ticket := o.GetTickets()[0].GetTicket()
		claim := ticketClaim{
			scope: ticketScopeStream, session: s.id, server: s.serverID, content: content, holder: s.holderOf(ticket),
		}
		if err := checkTicket(s.listener.ticketKeys(), claim, ticket, s.listener.config.now()); err != nil {
			return err
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.conn.Context().Err() != nil || s.attached[id] != nil || s.pushed[id] != nil:
		return nil
	case s.Role() == ServerRolePrimary && (s.offers[id] == nil || s.offers[id].content != content):
		return errorf(ErrAccessRefused, "attachment to a stream that was not offered")
	case len(s.attached)+len(s.pushed) >= maxStreamsPerSession:
		return errorf(ErrSecondaryStreamOverflow, "%d streams are attached", len(s.attached)+len(s.pushed))
	}
	s.uses++
	descriptor := o.GetDescriptor_()
	charge := u.Memory() + int64(len(descriptor))
	if offer := s.offers[id]; offer != nil { // it has the same
		u, descriptor, charge = offer.units, offer.spec.Descriptor, 0
	}
	noMemory := errorf(ErrServerBusy, "the server has no memory for a further stream of this client")
	if o.GetPushed() {
		if !s.attachPushed(id, u, descriptor, charge+pushedMemory) {
			s.refuse(id, 0, 0, noMemory)
		}
		return nil
	}
	a := newAttachment(s, id, u, descriptor, charge+attachmentMemory)
	if a == nil {
		s.refuse(id, 0, 0, noMemory)
		return nil
	}
	a.offer = s.offers[id]
	s.attached[id] = a
	s.start(a.run)
	return nil
}

// handleMetadata acts on grants, their changes and releases.
func (s *ServerSession) handleMetadata(m *kwikpb.StreamMetadataFrame) error {
	switch m.GetType() {
	case kwikpb.MetadataFrameType_OFFSET_SYNC_RESPONSE:
		var grant kwikpb.OffsetSyncResponse
		if err := unmarshalMetadata(m, &grant); err != nil {
			return err
		}
		if p := s.pushedStream(grant.GetKwikStreamId()); p != nil {
			return p.window(&grant)
		}
		if a := s.attachment(grant.GetKwikStreamId()); a != nil {
			return a.grant(&grant)
		}
		return nil // released, or refused
	case kwikpb.MetadataFrameType_STREAM_MAPPING_UPDATE:
		var update kwikpb.StreamMappingUpdate
		if err := unmarshalMetadata(m, &update); err != nil {
			return err
		}
		a := s.attachment(update.GetKwikStreamId())
		switch op := update.GetOperation(); {
		case op == kwikpb.MappingOperation_MAPPING_UPDATE && update.GetGrantId() != 0:
			if a != nil {
				return a.shorten(update.GetGrantId(), update.GetEndOffset())
			}
		case op == kwikpb.MappingOperation_MAPPING_DELETE && update.GetGrantId() != 0:
			if a != nil {
				a.revoke(update.GetGrantId())
			}
		case op == kwikpb.MappingOperation_MAPPING_DELETE:
			s.releaseStream(StreamID(update.GetKwikStreamId()))
		default:
			return errorf(ErrMetadataProtocolViolation, "mapping update that no client may send")
		}
		return nil
	}
	return errorf(ErrMetadataProtocolViolation, "%v on a control stream", m.GetType())
}

func (s *ServerSession) attachment(id uint64) *attachment {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.attached[StreamID(id)]
}

// releaseStream ends a stream that the client has released.
func (s *ServerSession) releaseStream(id StreamID) {
	defer s.closeIfDrained()
	s.mu.Lock()
	defer s.mu.Unlock()
	if o := s.offers[id]; o != nil {
		s.releaseOffer(o)
	}
	if a := s.attached[id]; a != nil {
		a.cancel()
	}
	if p := s.pushed[id]; p != nil {
		s.releasePushed(p)
		s.waiting = slices.DeleteFunc(s.waiting, func(q *PushedStream) bool { return q == p })
	}
}
