package kwik

import (
	"math"
	"time"

	"kwikcp/kwik/internal/sched"
	kwikpb "kwikcp/kwik/proto"
)

// An openStream is an aggregate stream of a session. The session guards all but the aggregator
// itself.
type openStream struct {
	agg     *streamAggregator
	tickets map[ServerID][]byte
	// withdrawn has the tickets for servers that the primary has withdrawn since.
	withdrawn map[ServerID][]byte
	wanted    bool // a consumer has begun
	// released means that every source was told that nothing more is needed.
	released bool
	// attached holds the connections on which the stream was attached.
	attached map[PathID]*path
	// left holds the connections that will not serve the stream again.
	left map[PathID]*path
	// reserve is the time until which shares are kept for servers that are still connecting.
	reserve time.Time
}

// handleControl acts on a frame of a path's control stream. An error closes the path.
func (s *ClientSession) handleControl(p *path, f *kwikpb.ControlFrame) error {
	if p.role == ServerRolePrimary {
		switch {
		case f.GetAddPath() != nil:
			return s.addPath(f.GetAddPath())
		case f.GetRemovePath() != nil:
			s.removePath(ServerID(f.GetRemovePath().GetPathId()))
			return nil
		case f.GetStreamOffer() != nil:
			return s.offer(p, f.GetStreamOffer())
		}
	}
	switch {
	case f.GetMetadata() != nil:
		return s.handleMetadata(p, f.GetMetadata())
	case f.GetPathReport() != nil:
		s.handlePathReport(p, f.GetPathReport())
		return nil
	case f.GetGoAway() != nil:
		s.goAway(p)
		return nil
	}
	if f.GetFrame() == nil {
		return nil // of a later version
	}
	return errorf(ErrMetadataProtocolViolation, "control frame %T from a %s", f.GetFrame(), p.role).onPath(p.id)
}

// handleMetadata acts on a source's message about its part in an aggregate stream.
func (s *ClientSession) handleMetadata(p *path, m *kwikpb.StreamMetadataFrame) error {
	switch m.GetType() {
	case kwikpb.MetadataFrameType_OFFSET_SYNC_REQUEST:
		var request kwikpb.OffsetSyncRequest
		if err := unmarshalMetadata(m, &request); err != nil {
			return err
		}
		a, known := s.lookup(StreamID(request.GetKwikStreamId()))
		if !known {
			return errorf(ErrOffsetSyncFailure, "offset of a stream that was never offered").onPath(p.id)
		}
		if a != nil {
			a.synchronise(p.id, clampOffset(request.GetCurrentOffset()),
				int(min(request.GetRoom(), sched.MaxGrantsQueued)), request.GetTimestamp())
		}
		return nil
	case kwikpb.MetadataFrameType_STREAM_MAPPING_UPDATE:
		var update kwikpb.StreamMappingUpdate
		if err := unmarshalMetadata(m, &update); err != nil {
			return err
		}
		a, known := s.lookup(StreamID(update.GetKwikStreamId()))
		if !known || update.GetOperation() != kwikpb.MappingOperation_MAPPING_DELETE || update.GetGrantId() != 0 {
			return errorf(ErrMetadataProtocolViolation, "mapping update that no source may send").onPath(p.id)
		}
		if a != nil {
			refusal := &Error{Code: ErrorCode(update.GetCode()), Remote: true, Path: p.id, Stream: a.id,
				Offset: -1, Message: printable(update.GetReason())}
			if end := update.GetEndOffset(); end > 0 {
				return a.markMissing(p.id, clampOffset(update.GetStartOffset()), clampOffset(end), refusal)
			}
			a.detach(p.id, refusal)
		}
		return nil
	}
	return errorf(ErrMetadataProtocolViolation, "%v on a control stream", m.GetType()).onPath(p.id)
}

// offer opens an aggregate stream that the primary announces, or adds tickets to one.
func (s *ClientSession) offer(p *path, o *kwikpb.StreamOffer) error {
	id := StreamID(o.GetKwikStreamId())
	if o.GetKwikStreamId() > math.MaxInt64 || !id.isAggregate() {
		return errorf(ErrMetadataProtocolViolation, "offer of stream %#x", o.GetKwikStreamId())
	}
	s.mu.Lock()
	open := s.streams[id]
	if open == nil && id <= s.offered {
		s.mu.Unlock()
		return nil // tickets for a stream that has ended
	}
	if open == nil {
		if s.unreleased() >= maxStreamsPerSession {
			s.mu.Unlock()
			return errorf(ErrSecondaryStreamOverflow, "more than %d aggregate streams", maxStreamsPerSession)
		}
		u, err := newUnits(o.GetSize(), o.GetAlignment(), o.GetSegments())
		if err == nil && len(o.GetDescriptor_()) > maxDescriptor {
			err = errorf(ErrMetadataProtocolViolation, "descriptor of %d bytes", len(o.GetDescriptor_()))
		}
		if err != nil {
			s.mu.Unlock()
			return err
		}
		if err := checkHeadStart(u, o); err != nil {
			s.mu.Unlock()
			return err
		}
		open = s.newStream(id, u, o)
		if o.GetHeadStart() > 0 {
			s.attachHeadStart(open, p, int64(o.GetHeadStart()))
		}
		s.offers = append(s.offers, &AggregateOffer{agg: open.agg, close: s.closeStream})
		s.announce()
	}
	for _, t := range o.GetTickets() {
		id := ServerID(t.GetPathId())
		if room := open.tickets[id] != nil || len(open.tickets) <= maxSecondaryPaths; room &&
			(id.valid() || id == primaryID) && len(t.GetTicket()) == ticketSize {
			open.tickets[id] = t.GetTicket()
		}
	}
	wanted := open.wanted
	s.mu.Unlock()
	if wanted {
		s.attachAll(open)
	}
	return nil
}

// newStream makes the client's end of an aggregate stream. Called with the lock held.
func (s *ClientSession) newStream(id StreamID, u sched.Units, o *kwikpb.StreamOffer) *openStream {
	a := newStreamAggregator(s.ctx, id, u, o.GetAlignment(), o.GetDescriptor_(), s.config)
	if o.GetPushed() {
		a.pushed, a.offsets.strategy = true, s.config.ConflictResolution
	}
	open := &openStream{agg: a, tickets: make(map[ServerID][]byte), attached: make(map[PathID]*path),
		left: make(map[PathID]*path), withdrawn: make(map[ServerID][]byte)}
	a.attachSources = func() { s.wantStream(open) }
	a.sendAction = func(action sched.Action) { s.tell(a, action) }
	a.sendWindow = func(id PathID, window pushWindow) { s.sendWindow(a, id, window) }
	a.expectsSource = func() bool { return s.expectsSource(open) }
	a.isAnswering = func() bool { return s.isAnswering(open) }
	a.pathLoad = s.handler.pathLoad
	a.done = func() { s.releaseStream(open) }
	a.panicked = s.abort
	a.sourceDrained = func(source PathID) { s.sourceDrained(open, source) }
	a.ban = func(source PathID, off, n int64, cause error) { s.ban(source, a.id, off, n, cause) }
	a.reportRejected = func(source PathID, off, n int64, cause error) {
		s.reportRejected(source.server(), kwikpb.PathState_PATH_STATE_ACTIVE,
			&kwikpb.Blame{KwikStreamId: uint64(a.id), Offset: uint64(off), Length: uint64(n)}, cause)
	}
	s.streams[id] = open
	s.offered = max(s.offered, id)
	s.wakePaths()
	return open
}

// wantStream attaches sources to a stream whose consumer has begun.
func (s *ClientSession) wantStream(open *openStream) {
	s.mu.Lock()
	open.wanted = true
	// Welcome takes two round trips. The primary's round-trip time is the best estimate for the
	// others.
	s.wakePaths()
	open.reserve = time.Now().Add(3*s.primary.rtt() + reserveSlack)
	s.mu.Unlock()
	s.attachAll(open)
}

// reserveSlack is added to three round trips for the handshakes' own work.
const reserveSlack = 100 * time.Millisecond

// connecting counts the servers that may serve the stream and are being dialled for the first
// time. Called with the lock held.
func (s *ClientSession) connecting(open *openStream) (n int) {
	for id := range open.tickets {
		if sv := s.servers[id]; sv != nil && sv.paths[0].state == PathConnecting && !sv.paths[0].dialed {
			n++
		}
	}
	return n
}

// attachAll attaches every path that may serve the stream and is not attached.
func (s *ClientSession) attachAll(open *openStream) {
	a := open.agg
	s.mu.Lock()
	if open.released {
		s.mu.Unlock()
		return
	}
	for _, sv := range s.servers {
		s.adjustConnections(sv)
	}
	var paths []*path
	for _, r := range s.paths {
		ticket := open.tickets[r.server.id]
		switch {
		case r.path == nil || open.attached[r.id] == r.path || open.left[r.id] == r.path || r.excess:
			continue
		case r.server.banned: // its path may be open for plain streams
			continue
		case r.path.role == ServerRoleSecondary && ticket == nil:
			continue
		case a.pushed && r.id.isFurther(): // on two paths a server would push its bytes twice
			continue
		}
		offer := &kwikpb.StreamOffer{
			KwikStreamId: uint64(a.id), Size: uint64(a.units.Total()), Alignment: a.alignment,
			Segments: a.units.Segments(), Descriptor_: a.descriptor, Pushed: a.pushed,
		}
		if r.path.role == ServerRoleSecondary {
			offer.Tickets = []*kwikpb.StreamTicket{{PathId: string(r.server.id), Ticket: ticket}}
		}
		r.path.control.send(&kwikpb.ControlFrame{Frame: &kwikpb.ControlFrame_StreamOffer{StreamOffer: offer}})
		open.attached[r.id] = r.path
		paths = append(paths, r.path)
	}
	connecting, reserve := s.connecting(open), open.reserve
	s.mu.Unlock()
	for _, p := range paths {
		a.attach(p.id, p.rtt)
		switch attached, leaving := s.sourceState(open, p); {
		case !attached:
			a.detach(p.id, errSourceDrained)
		case leaving:
			a.drain(p.id)
		}
	}
	a.expect(connecting, reserve)
}

// attachNew updates every stream that has a consumer after a path has opened or a dial has failed.
func (s *ClientSession) attachNew() {
	s.mu.Lock()
	var wanted []*openStream
	for _, open := range s.streams {
		if open.wanted {
			wanted = append(wanted, open)
		}
	}
	s.mu.Unlock()
	for _, open := range wanted {
		s.attachAll(open)
	}
}

// tell sends a decision of a stream's scheduler to its source.
func (s *ClientSession) tell(a *streamAggregator, action sched.Action) {
	s.mu.Lock()
	defer s.mu.Unlock()
	r := s.paths[PathID(action.Source)]
	if r == nil || r.path == nil {
		return // its end is about to be reported
	}
	switch action.Kind {
	case sched.ActionGrant:
		r.path.control.sendMetadata(kwikpb.MetadataFrameType_OFFSET_SYNC_RESPONSE, &kwikpb.OffsetSyncResponse{
			KwikStreamId: uint64(a.id), ExpectedOffset: uint64(action.Start),
			Length: uint64(action.End - action.Start), GrantId: action.Grant,
		})
	case sched.ActionShorten:
		s.handler.shorten(a.id, action.Grant, action.End)
		r.path.control.sendMetadata(kwikpb.MetadataFrameType_STREAM_MAPPING_UPDATE, &kwikpb.StreamMappingUpdate{
			KwikStreamId: uint64(a.id), Operation: kwikpb.MappingOperation_MAPPING_UPDATE,
			GrantId: action.Grant, EndOffset: uint64(action.End),
		})
	case sched.ActionRevoke:
		r.path.control.sendMetadata(kwikpb.MetadataFrameType_STREAM_MAPPING_UPDATE, &kwikpb.StreamMappingUpdate{
			KwikStreamId: uint64(a.id), Operation: kwikpb.MappingOperation_MAPPING_DELETE, GrantId: action.Grant,
		})
	}
}

// sendWindow sends the window to a source of a pushed stream.
func (s *ClientSession) sendWindow(a *streamAggregator, id PathID, window pushWindow) {
	s.mu.Lock()
	defer s.mu.Unlock()
	r := s.paths[id]
	if r == nil || r.path == nil {
		return // its end is about to be reported
	}
	r.path.control.sendMetadata(kwikpb.MetadataFrameType_OFFSET_SYNC_RESPONSE, &kwikpb.OffsetSyncResponse{
		KwikStreamId: uint64(a.id), ExpectedOffset: uint64(window.start), Length: uint64(window.end - window.start),
		SyncRequired: window.sync, Timestamp: window.question,
	})
}

// expectsSource reports whether a further source may still serve the stream. Such a source has a
// ticket, and the client is dialling it or about to attach it. A server that is gone is not
// expected, although it is dialed for as long as the stream lasts.
func (s *ClientSession) expectsSource(open *openStream) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, r := range s.paths {
		if !r.hasKeeper || !s.shouldKeep(r) || open.tickets[r.server.id] == nil || r.isGone(time.Now()) {
			continue
		}
		if r.path == nil || (open.attached[r.id] != r.path && open.left[r.id] != r.path) {
			return true
		}
	}
	return false
}

// isAnswering reports whether any source of the stream can be reached.
func (s *ClientSession) isAnswering(open *openStream) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	for _, p := range open.attached {
		if p.isAnswering(now) {
			return true
		}
	}
	return false
}

// releaseStream tells every server that the client needs nothing more of a stream.
func (s *ClientSession) releaseStream(open *openStream) {
	s.mu.Lock()
	defer s.mu.Unlock()
	open.released = true
	for _, r := range s.paths {
		if r.path == nil {
			continue
		}
		r.path.control.sendMetadata(kwikpb.MetadataFrameType_STREAM_MAPPING_UPDATE, &kwikpb.StreamMappingUpdate{
			KwikStreamId: uint64(open.agg.id), Operation: kwikpb.MappingOperation_MAPPING_DELETE,
		})
		s.closeIfUnused(r)
	}
}

// unreleased counts the streams that still need sources. Called with the lock held.
func (s *ClientSession) unreleased() (n int) {
	for _, open := range s.streams {
		if !open.released {
			n++
		}
	}
	return n
}

// closeStream ends a stream and removes it from the session.
func (s *ClientSession) closeStream(a *streamAggregator) {
	a.close()
	s.handler.cancel(a.id)
	s.mu.Lock()
	delete(s.streams, a.id)
	s.mu.Unlock()
}

// lookup finds an aggregate stream; see secondaryStreamHandler.
func (s *ClientSession) lookup(id StreamID) (*streamAggregator, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if open := s.streams[id]; open != nil {
		return open.agg, true
	}
	return nil, id.isAggregate() && id <= s.offered
}

// clampOffset converts an offset of a peer to int64. One that is too large stays beyond the end
// of every stream.
func clampOffset(n uint64) int64 { return int64(min(n, math.MaxInt64)) }
