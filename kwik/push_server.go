package kwik

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"sync"
	"time"

	kwikpb "kwikcp/kwik/proto"
)

// A PushedStream is a server's part in an aggregate stream whose bytes are pushed (AggregateStreamSpec.Pushed): there
// are no grants; the servers agree among themselves who writes what, and each writes its parts through SecondaryStreams. What may
// be written ahead is bounded by the client's reorder window, which moves as the client reads.
type PushedStream struct {
	session    *ServerSession
	id         StreamID
	units      units
	descriptor []byte
	ctx        context.Context
	cancel     context.CancelFunc

	mu       sync.Mutex
	expected int64         // the client's next expected offset, as last heard
	limit    int64         // no byte at or beyond this offset yet
	synced   uint64        // windows heard
	changed  chan struct{} // closed and made anew whenever something above changes
}

func newPushedStream(s *ServerSession, id StreamID, u units, descriptor []byte) *PushedStream {
	p := &PushedStream{session: s, id: id, units: u, descriptor: descriptor, changed: make(chan struct{})}
	p.ctx, p.cancel = context.WithCancel(s.conn.Context())
	return p
}

// StreamID returns the KWIK stream's id.
func (p *PushedStream) StreamID() StreamID { return p.id }

// Size returns the KWIK stream's size, in bytes.
func (p *PushedStream) Size() int64 { return p.units.total }

// Descriptor returns what the primary said the stream is.
func (p *PushedStream) Descriptor() []byte { return p.descriptor }

// Context ends when the client has all bytes or needs no more of them, or the session has ended.
func (p *PushedStream) Context() context.Context { return p.ctx }

// AcceptPushedStream returns the next pushed stream that the client reads and has attached this server to. The primary gets
// those that it opened, a secondary those for which the primary vouches with a ticket.
func (s *ServerSession) AcceptPushedStream(ctx context.Context) (*PushedStream, error) {
	for {
		s.mu.Lock()
		if len(s.waiting) > 0 {
			p := s.waiting[0]
			s.waiting = slices.Delete(s.waiting, 0, 1)
			s.mu.Unlock()
			return p, nil
		}
		news := s.news
		s.mu.Unlock()
		select {
		case <-news:
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-s.conn.Context().Done():
			return nil, fromQUIC(context.Cause(s.conn.Context()), s.pathID)
		}
	}
}

// attachPushed makes this server a source of a pushed stream. Called with the session's lock held.
func (s *ServerSession) attachPushed(id StreamID, u units, descriptor []byte) {
	p := newPushedStream(s, id, u, descriptor)
	s.pushed[id] = p
	s.waiting = append(s.waiting, p)
	close(s.news)
	s.news = make(chan struct{})
}

// window takes what the client allows.
func (p *PushedStream) window(w *kwikpb.OffsetSyncResponse) error {
	start, n, total := w.GetExpectedOffset(), w.GetLength(), uint64(p.units.total)
	if start > total || n > total-start {
		return errorf(ErrOffsetSyncFailure, "window of %d bytes at %d", n, start).onStream(p.id, -1)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.expected, p.limit = int64(start), max(p.limit, int64(start+n)) // what was allowed once stays allowed
	p.synced++
	close(p.changed)
	p.changed = make(chan struct{})
	return nil
}

// Sync asks the client where it is and returns its next expected offset: for a source that lost its place. offset is where the
// source believes to be.
func (p *PushedStream) Sync(ctx context.Context, offset int64) (expected int64, err error) {
	p.mu.Lock()
	before := p.synced
	p.mu.Unlock()
	p.session.control.sendMetadata(kwikpb.MetadataFrameType_OFFSET_SYNC_REQUEST, &kwikpb.OffsetSyncRequest{
		KwikStreamId: uint64(p.id), CurrentOffset: uint64(offset), Room: 1,
	})
	_, err = p.wait(ctx, nil, func() bool { return p.synced > before })
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.expected, err
}

// wait waits until ready, which is called with the lock held, and returns the limit.
func (p *PushedStream) wait(ctx context.Context, expired <-chan time.Time, ready func() bool) (limit int64, err error) {
	for {
		p.mu.Lock()
		ok, changed := ready(), p.changed
		limit = p.limit
		p.mu.Unlock()
		if ok {
			return limit, nil
		}
		select {
		case <-changed:
		case <-expired:
			return limit, errWriteTimeout
		case <-ctx.Done():
			return limit, context.Cause(ctx)
		case <-p.ctx.Done():
			return limit, errStreamClosed
		}
	}
}

// A SecondaryStream carries bytes of a pushed stream from one offset on. It is used by one goroutine. Close must be called
// in the end.
type SecondaryStream struct {
	session  *ServerSession
	pushed   *PushedStream // once mapped
	stream   *secondaryStream
	block    *block
	pending  int // bytes in the block that wait for the rest of their unit
	deadline time.Time
	err      error // sticks
}

var (
	errWriteTimeout  = &Error{Code: ErrAggregationTimeout, Stream: -1, Offset: -1, Reason: "the client's window did not move in time"}
	errNotMapped     = errors.New("kwik: SetKwikStreamMapping has to come before Write")
	errSecondaryDone = errors.New("kwik: secondary stream closed")
)

// OpenSecondaryStream returns a new secondary stream, on a primary and on a secondary alike. Nothing is sent before the first
// bytes are, and it is no public stream: the client's application never sees it.
func (s *ServerSession) OpenSecondaryStream() *SecondaryStream { return &SecondaryStream{session: s} }

// SetKwikStreamMapping says which pushed stream the bytes belong to, and at which offset they begin: a unit boundary. The
// client must have attached this server to it (AcceptPushedStream). A stream is mapped once, or fails with ErrStreamMappingConflict.
func (s *SecondaryStream) SetKwikStreamMapping(id StreamID, offset int64) error {
	if s.pushed != nil {
		return errorf(ErrStreamMappingConflict, "the secondary stream is mapped to %#x already", uint64(s.pushed.id)).onStream(id, offset)
	}
	s.session.mu.Lock()
	p := s.session.pushed[id]
	s.session.mu.Unlock()
	if p == nil {
		return errorf(ErrStreamMappingConflict, "this server is not attached to the stream").onStream(id, offset)
	}
	if offset < 0 || offset >= p.units.total || !p.units.isBoundary(offset) {
		return errorf(ErrOffsetSyncFailure, "no unit begins there").onStream(id, offset)
	}
	stream, err := s.session.openSecondaryStream(p.ctx, id, 0, offset)
	if err != nil {
		return err
	}
	s.pushed, s.stream = p, stream
	s.block = newBlock(int(max(dataFrameSize, p.units.size)))
	return nil
}

// KwikStreamID returns the pushed stream that the secondary stream is mapped to, 0 before it is.
func (s *SecondaryStream) KwikStreamID() StreamID {
	if s.pushed == nil {
		return 0
	}
	return s.pushed.id
}

// Offset returns the offset in the KWIK stream of the next byte that Write takes.
func (s *SecondaryStream) Offset() int64 {
	if s.stream == nil {
		return 0
	}
	return s.stream.offset + int64(s.pending)
}

// SetWriteDeadline sets the time after which Write gives up waiting for the client's window; zero means never.
func (s *SecondaryStream) SetWriteDeadline(t time.Time) { s.deadline = t }

// Write writes the next bytes. It waits while the client's window does not allow them; bytes of a unit that is not complete are
// kept until it is.
func (s *SecondaryStream) Write(p []byte) (n int, err error) {
	switch {
	case s.err != nil:
		return 0, s.err
	case s.pushed == nil:
		return 0, errNotMapped
	case int64(len(p)) > s.pushed.units.total-s.Offset():
		return 0, errorf(ErrOffsetSyncFailure, "%d bytes pass the stream's end", len(p)).onStream(s.pushed.id, s.Offset())
	}
	for n < len(p) {
		k := copy(s.payload()[s.pending:], p[n:])
		s.pending += k
		n += k
		if err := s.flush(); err != nil {
			s.err = err
			return n, err
		}
	}
	return n, nil
}

// payload is where pending bytes are collected.
func (s *SecondaryStream) payload() []byte {
	return s.block.room[blockHeadroom:min(len(s.block.room), blockHeadroom+maxDataPayload)]
}

// flush sends the whole units that are pending, as the window allows them.
func (s *SecondaryStream) flush() error {
	for {
		whole := s.pushed.units.floor(s.Offset())
		if whole <= s.stream.offset {
			return nil
		}
		next := s.pushed.units.ceil(s.stream.offset + 1)
		limit, err := s.awaitWindow(next)
		if err != nil {
			return err
		}
		n := int(min(whole, s.pushed.units.floor(limit)) - s.stream.offset)
		if err := s.stream.writePayload(s.block, n); err != nil {
			return fromQUIC(err, s.session.pathID)
		}
		copy(s.payload(), s.payload()[n:s.pending])
		s.pending -= n
	}
}

// awaitWindow waits until the client allows bytes up to next.
func (s *SecondaryStream) awaitWindow(next int64) (limit int64, err error) {
	var expired <-chan time.Time
	if !s.deadline.IsZero() {
		timer := time.NewTimer(time.Until(s.deadline))
		defer timer.Stop()
		expired = timer.C
	}
	return s.pushed.wait(s.pushed.ctx, expired, func() bool { return s.pushed.limit >= next })
}

// Close ends the secondary stream. It fails if the bytes written do not end on a unit boundary.
func (s *SecondaryStream) Close() error {
	if s.stream == nil || errors.Is(s.err, errSecondaryDone) {
		return nil
	}
	defer func() {
		s.block.release()
		s.err = errSecondaryDone
	}()
	if s.err != nil || s.pending > 0 {
		s.stream.cancel()
		if s.err == nil {
			return fmt.Errorf("kwik: %d bytes of a unit that is not complete", s.pending)
		}
		return s.err
	}
	return fromQUIC(s.stream.close(""), s.session.pathID)
}

// pushedStream finds a pushed stream of the session.
func (s *ServerSession) pushedStream(id uint64) *PushedStream {
	if id > math.MaxInt64 {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.pushed[StreamID(id)]
}
