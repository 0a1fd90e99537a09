package kwik

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"slices"
	"sync"
	"time"

	"kwikcp/kwik/internal/sched"
	kwikpb "kwikcp/kwik/proto"
)

// A PushedStream is a server's part in an aggregate stream whose bytes are pushed (AggregateStreamSpec.Pushed): there
// are no grants; the servers agree among themselves who writes what, and each writes its parts through SecondaryStreams. What may
// be written ahead is bounded by the client's reorder window, which moves as the client reads.
type PushedStream struct {
	session    *ServerSession
	id         StreamID
	units      sched.Units
	descriptor []byte
	ctx        context.Context
	cancel     context.CancelFunc

	mu       sync.Mutex
	expected int64         // the client's next expected offset, as last heard
	limit    int64         // no byte at or beyond this offset yet
	asked    uint64        // the newest question to the client
	answered uint64        // the newest question that it answered
	changed  chan struct{} // closed and made anew whenever something above changes
}

func newPushedStream(s *ServerSession, id StreamID, u sched.Units, descriptor []byte) *PushedStream {
	p := &PushedStream{session: s, id: id, units: u, descriptor: descriptor, changed: make(chan struct{})}
	p.ctx, p.cancel = context.WithCancel(s.conn.Context())
	return p
}

// StreamID returns the KWIK stream's id.
func (p *PushedStream) StreamID() StreamID { return p.id }

// Size returns the KWIK stream's size, in bytes.
func (p *PushedStream) Size() int64 { return p.units.Total() }

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
func (s *ServerSession) attachPushed(id StreamID, u sched.Units, descriptor []byte) {
	p := newPushedStream(s, id, u, descriptor)
	s.pushed[id] = p
	s.waiting = append(s.waiting, p)
	close(s.news)
	s.news = make(chan struct{})
}

// window takes what the client allows.
func (p *PushedStream) window(w *kwikpb.OffsetSyncResponse) error {
	start, n, total := w.GetExpectedOffset(), w.GetLength(), uint64(p.units.Total())
	if start > total || n > total-start || w.GetGrantId() != 0 {
		return errorf(ErrOffsetSyncFailure, "window of %d bytes at %d", n, start).onStream(p.id, -1)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.expected, p.limit = int64(start), max(p.limit, int64(start+n)) // what was allowed once stays allowed
	p.answered = max(p.answered, min(w.GetTimestamp(), p.asked))
	close(p.changed)
	p.changed = make(chan struct{})
	return nil
}

// Sync asks the client where it is and returns its next expected offset: for a source that lost its place. offset is where the
// source believes to be.
func (p *PushedStream) Sync(ctx context.Context, offset int64) (expected int64, err error) {
	p.mu.Lock()
	p.asked = max(p.asked+1, uint64(time.Now().UnixMicro())) // a timestamp that no other question has
	question := p.asked
	p.session.control.sendMetadata(kwikpb.MetadataFrameType_OFFSET_SYNC_REQUEST, &kwikpb.OffsetSyncRequest{
		KwikStreamId: uint64(p.id), CurrentOffset: uint64(max(offset, 0)), Room: 1, Timestamp: question,
	})
	p.mu.Unlock()
	_, err = p.wait(ctx, nil, func() bool { return p.answered >= question })
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.expected, err
}

// ended says why the stream's context has ended: errStreamClosed if the client needs nothing more, and otherwise what ended the
// session.
func (p *PushedStream) ended() error {
	if conn := p.session.conn.Context(); conn.Err() != nil {
		return fromQUIC(context.Cause(conn), p.session.pathID)
	}
	return errStreamClosed
}

// wait waits until ready, which is called with the lock held, and returns the limit.
func (p *PushedStream) wait(ctx context.Context, expired <-chan time.Time, ready func() bool) (limit int64, err error) {
	for {
		if p.ctx.Err() != nil {
			return 0, p.ended()
		}
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
	errWriteTimeout  = &Error{Code: ErrAggregationTimeout, Stream: -1, Offset: -1, Reason: "the client did not take the bytes in time", Err: os.ErrDeadlineExceeded}
	errNotMapped     = errors.New("kwik: SetKwikStreamMapping has to come before Write")
	errSecondaryDone = errors.New("kwik: secondary stream closed")
)

// OpenSecondaryStream returns a new secondary stream, on a primary and on a secondary alike. Nothing is sent before it is mapped,
// and it is no public stream: the client's application never sees it.
func (s *ServerSession) OpenSecondaryStream() *SecondaryStream { return &SecondaryStream{session: s} }

// SetKwikStreamMapping says which pushed stream the bytes belong to, and at which offset they begin: a unit boundary. The
// client must have attached this server to it (AcceptPushedStream). A stream is mapped once, or fails with ErrStreamMappingConflict.
// It waits, until the write deadline, while as many secondary streams as the client allows, 32, are open.
func (s *SecondaryStream) SetKwikStreamMapping(id StreamID, offset int64) error {
	if s.err != nil {
		return s.err
	}
	if s.pushed != nil {
		return errorf(ErrStreamMappingConflict, "the secondary stream is mapped to %#x already", uint64(s.pushed.id)).onStream(id, offset)
	}
	s.session.mu.Lock()
	p := s.session.pushed[id]
	s.session.mu.Unlock()
	if p == nil {
		return errorf(ErrStreamMappingConflict, "this server is not attached to the stream").onStream(id, offset)
	}
	if offset < 0 || offset >= p.units.Total() || !p.units.IsBoundary(offset) {
		return errorf(ErrOffsetSyncFailure, "no unit begins there").onStream(id, offset)
	}
	ctx := p.ctx
	if !s.deadline.IsZero() {
		var cancel context.CancelFunc
		ctx, cancel = context.WithDeadline(ctx, s.deadline)
		defer cancel()
	}
	stream, err := s.session.openSecondaryStream(ctx, id, 0, offset)
	switch {
	case err != nil && p.ctx.Err() != nil:
		return p.ended()
	case err != nil:
		return writeError(err, s.session.pathID)
	}
	stream.stream.SetWriteDeadline(s.deadline)
	if err := stream.announce(); err != nil { // the window may stay shut for long
		stream.cancel()
		return writeError(err, s.session.pathID)
	}
	s.pushed, s.stream = p, stream
	s.block = newBlock(max(s.session.listener.config.SecondaryStreams.BufferSize, int(p.units.Size())))
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

// SetWriteDeadline sets the time after which Write, Close and SetKwikStreamMapping fail with os.ErrDeadlineExceeded (and
// ErrAggregationTimeout) instead of waiting for the client; zero means never.
func (s *SecondaryStream) SetWriteDeadline(t time.Time) {
	s.deadline = t
	if s.stream != nil {
		s.stream.stream.SetWriteDeadline(t)
	}
}

// Write writes the next bytes. It waits while the client's window does not allow them; bytes of a unit that is not complete are
// kept until it is. After an error the stream is of no use, except that one that waited for the window too long may go on, with
// the bytes after the n that it took, when there is a new deadline. If the client needs nothing more, or the session has
// ended, the pushed stream's Context has, too.
func (s *SecondaryStream) Write(p []byte) (n int, err error) {
	switch {
	case s.err != nil:
		return 0, s.err
	case s.pushed == nil:
		return 0, errNotMapped
	case int64(len(p)) > s.pushed.units.Total()-s.Offset():
		return 0, errorf(ErrOffsetSyncFailure, "%d bytes pass the stream's end", len(p)).onStream(s.pushed.id, s.Offset())
	}
	for n < len(p) {
		k := copy(s.payload()[s.pending:], p[n:])
		s.pending += k
		n += k
		if err := s.flush(); err != nil {
			return n, err
		}
	}
	return n, nil
}

// payload is where pending bytes are collected.
func (s *SecondaryStream) payload() []byte {
	return s.block.room[blockHeadroom:min(len(s.block.room), blockHeadroom+maxDataPayload)]
}

// flush sends the whole units that are pending, as the window allows them. Its errors stick, but for a window that stays shut.
func (s *SecondaryStream) flush() (err error) {
	defer func() {
		if err != errWriteTimeout {
			s.err = err
		}
	}()
	for {
		whole := s.pushed.units.Floor(s.Offset())
		if whole <= s.stream.offset {
			return nil
		}
		next := s.pushed.units.Ceil(s.stream.offset + 1)
		limit, err := s.awaitWindow(next)
		if err != nil {
			return err
		}
		n := int(min(whole, s.pushed.units.Floor(limit)) - s.stream.offset)
		if err := s.stream.writePayload(s.block, n); err != nil {
			if s.pushed.ctx.Err() != nil {
				return s.pushed.ended()
			}
			return writeError(err, s.session.pathID)
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
	return s.pushed.wait(context.Background(), expired, func() bool { return s.pushed.limit >= next })
}

// Close sends what is left and ends the secondary stream. If the bytes written do not end on a unit boundary it fails; whole units
// that were written before count. A client that needs nothing more is no error.
func (s *SecondaryStream) Close() error {
	switch {
	case s.err == errSecondaryDone:
		return nil
	case s.stream == nil:
		s.err = errSecondaryDone
		return nil
	}
	err := s.err
	if err == nil {
		err = s.flush()
	}
	switch {
	case err != nil:
		s.stream.cancel()
	case s.pending > 0:
		err = fmt.Errorf("kwik: %d bytes of a unit that is not complete", s.pending)
		s.stream.close(err.Error())
	default:
		err = writeError(s.stream.close(""), s.session.pathID)
	}
	s.block.release()
	s.err = errSecondaryDone
	if err != nil && s.pushed.ctx.Err() != nil {
		if err = s.pushed.ended(); err == errStreamClosed {
			return nil
		}
	}
	return err
}

// writeError gives an error of a QUIC stream its type.
func writeError(err error, path PathID) error {
	if errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, context.DeadlineExceeded) {
		return fmt.Errorf("%w", errWriteTimeout) // another one than of a shut window: the stream is of no use any more
	}
	return fromQUIC(err, path)
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
