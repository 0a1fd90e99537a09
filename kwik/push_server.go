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

// A PushedStream is a server's part in an aggregate stream whose bytes are pushed
// (AggregateStreamSpec.Pushed). There are no grants: the servers agree among themselves which of
// them writes which part, and each writes its parts through SecondaryStreams. The client's
// reorder window, which moves as the client reads, bounds how far they may write ahead.
type PushedStream struct {
	session    *ServerSession
	id         StreamID
	units      sched.Units
	descriptor []byte
	ctx        context.Context
	cancel     context.CancelFunc
	memory     int64 // charged to the session, bytes

	mu       sync.Mutex
	expected int64         // the client's next expected offset, as last heard
	limit    int64         // no byte at or beyond this offset yet
	asked    uint64        // the newest question to the client
	answered uint64        // the newest question that it answered
	changed  chan struct{} // closed and replaced when a field above changes
}

func newPushedStream(s *ServerSession, id StreamID, u sched.Units, descriptor []byte) *PushedStream {
	p := &PushedStream{session: s, id: id, units: u, descriptor: descriptor, changed: make(chan struct{})}
	p.ctx, p.cancel = context.WithCancel(s.conn.Context())
	return p
}

// StreamID returns the KWIK stream's ID.
func (p *PushedStream) StreamID() StreamID { return p.id }

// Size returns the KWIK stream's size, in bytes.
func (p *PushedStream) Size() int64 { return p.units.Total() }

// Descriptor returns the primary's descriptor of the stream.
func (p *PushedStream) Descriptor() []byte { return p.descriptor }

// Context ends when the client has all bytes or releases the stream, and with the session.
func (p *PushedStream) Context() context.Context { return p.ctx }

// AcceptPushedStream returns the next pushed stream to which the client has attached this server.
// A primary accepts those that it opened, a secondary those for which the client has a ticket of
// the primary.
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
			return nil, fromQUIC(context.Cause(s.conn.Context()), s.serverID.path(1))
		}
	}
}

// attachPushed makes this server a source of a pushed stream, which is charged memory bytes. Called
// with the session's lock held. It returns false if the session may not have them.
func (s *ServerSession) attachPushed(id StreamID, u sched.Units, descriptor []byte, memory int64) bool {
	if !s.memory.Reserve(memory) {
		return false
	}
	p := newPushedStream(s, id, u, descriptor)
	p.memory = memory
	s.pushed[id] = p
	s.waiting = append(s.waiting, p)
	close(s.news)
	s.news = make(chan struct{})
	return true
}

// window takes a new window from the client.
func (p *PushedStream) window(w *kwikpb.OffsetSyncResponse) error {
	start, n, total := w.GetExpectedOffset(), w.GetLength(), uint64(p.units.Total())
	if start > total || n > total-start || w.GetGrantId() != 0 {
		return errorf(ErrOffsetSyncFailure, "window of %d bytes at %d", n, start).onStream(p.id, -1)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.expected, p.limit = int64(start), max(p.limit, int64(start+n)) // limit never falls
	p.answered = max(p.answered, min(w.GetTimestamp(), p.asked))
	close(p.changed)
	p.changed = make(chan struct{})
	return nil
}

// Sync asks the client for its next expected offset and returns it. It serves a source that lost
// its place; offset is where the source believes the client to be.
func (p *PushedStream) Sync(ctx context.Context, offset int64) (expected int64, err error) {
	p.mu.Lock()
	p.asked = max(p.asked+1, uint64(time.Now().UnixMicro())) // unique among the requests of this stream
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

// ended returns why the stream's context has ended: errStreamClosed if the client released it,
// otherwise the error of the session.
func (p *PushedStream) ended() error {
	if conn := p.session.conn.Context(); conn.Err() != nil {
		return fromQUIC(context.Cause(conn), p.session.serverID.path(1))
	}
	return errStreamClosed
}

// wait blocks until ready, which is called with the lock held, returns true. It returns the limit.
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

// A SecondaryStream carries bytes of a pushed stream from one offset on. It is not safe for
// concurrent use. Close must be called at the end.
type SecondaryStream struct {
	session  *ServerSession
	pushed   *PushedStream // once mapped
	stream   *secondaryStream
	block    *block // nil while no bytes are pending
	pending  int    // bytes in the block that wait for the rest of their unit
	deadline time.Time
	err      error // sticks
}

var (
	errWriteTimeout = &Error{Code: ErrAggregationTimeout, Stream: -1, Offset: -1,
		Message: "the client did not take the bytes in time", Err: os.ErrDeadlineExceeded}
	errNotMapped     = errors.New("kwik: call SetKwikStreamMapping before Write")
	errSecondaryDone = errors.New("kwik: secondary stream closed")
)

// OpenSecondaryStream returns a new secondary stream, on a primary and on a secondary. Nothing is
// sent before it is mapped. The client's application does not see it.
func (s *ServerSession) OpenSecondaryStream() *SecondaryStream { return &SecondaryStream{session: s} }

// SetKwikStreamMapping maps the secondary stream to a pushed stream, from offset, a unit
// boundary, on. The client must have attached this server to the stream (AcceptPushedStream). A
// second mapping fails with ErrStreamMappingConflict. The call blocks, until the write deadline,
// while the session has as many secondary streams open as the client allows, usually 32.
func (s *SecondaryStream) SetKwikStreamMapping(id StreamID, offset int64) error {
	if s.err != nil {
		return s.err
	}
	if s.pushed != nil {
		return errorf(ErrStreamMappingConflict, "the secondary stream is mapped to %#x already",
			uint64(s.pushed.id)).onStream(id, offset)
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
		return writeError(err, s.session.serverID.path(1))
	}
	stream.deadline = s.deadline
	if err := stream.announce(); err != nil { // the window may stay shut for long
		stream.cancel()
		return writeError(err, s.session.serverID.path(1))
	}
	s.pushed, s.stream = p, stream
	return nil
}

// KwikStreamID returns the ID of the pushed stream to which the secondary stream is mapped, 0
// before.
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

// SetWriteDeadline sets the time after which Write, Close and SetKwikStreamMapping fail with
// os.ErrDeadlineExceeded (and ErrAggregationTimeout) instead of waiting for the client; zero
// means never.
func (s *SecondaryStream) SetWriteDeadline(t time.Time) {
	s.deadline = t
	if s.stream != nil {
		s.stream.deadline = t
	}
}

// Write writes the next bytes. It blocks while the client's window does not allow them. It holds
// the bytes of an incomplete unit back until the unit is complete. After an error the stream cannot
// be used, with one exception. If Write missed its deadline while the window was shut, the caller
// may write the bytes after the first n with a new deadline. The pushed stream's Context ends when
// the client releases the stream or the session ends.
func (s *SecondaryStream) Write(p []byte) (n int, err error) {
	switch {
	case s.err != nil:
		return 0, s.err
	case s.pushed == nil:
		return 0, errNotMapped
	case int64(len(p)) > s.pushed.units.Total()-s.Offset():
		return 0, errorf(ErrOffsetSyncFailure, "%d bytes pass the stream's end", len(p)).onStream(s.pushed.id,
			s.Offset())
	}
	for n < len(p) {
		if err := s.acquireBlock(); err != nil {
			return n, err
		}
		k := copy(s.payload()[s.pending:], p[n:])
		s.pending += k
		n += k
		if err := s.flush(); err != nil {
			return n, err
		}
	}
	return n, nil
}

// acquireBlock takes a block for pending bytes, unless there is one. It waits, until the write
// deadline, while the server's memory is short. A missed deadline does not stick.
func (s *SecondaryStream) acquireBlock() error {
	if s.block != nil {
		return nil
	}
	ctx := s.pushed.ctx
	if !s.deadline.IsZero() {
		var cancel context.CancelFunc
		ctx, cancel = context.WithDeadlineCause(ctx, s.deadline, errWriteTimeout)
		defer cancel()
	}
	unit := int(s.pushed.units.Size())
	b, err := s.session.acquireBlock(ctx, max(s.session.listener.config.BufferSize, unit), unit)
	switch {
	case err == nil:
		s.block = b
		return nil
	case s.pushed.ctx.Err() != nil:
		err = s.pushed.ended()
	}
	if err != errWriteTimeout {
		s.err = err
	}
	return err
}

// releaseBlock returns the block.
func (s *SecondaryStream) releaseBlock() {
	if s.block != nil {
		s.session.releaseBlock(s.block)
		s.block = nil
	}
}

// payload returns the buffer of pending bytes.
func (s *SecondaryStream) payload() []byte {
	return s.block.room[blockHeadroom:min(len(s.block.room), blockHeadroom+maxDataPayload)]
}

// flush sends the whole units that are pending, as the window allows. Its errors stick, except
// for a missed deadline.
func (s *SecondaryStream) flush() (err error) {
	defer func() {
		if err != errWriteTimeout {
			s.err = err
		}
	}()
	for {
		whole := s.pushed.units.Floor(s.Offset())
		if whole <= s.stream.offset {
			if s.pending == 0 {
				s.releaseBlock()
			}
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
			return writeError(err, s.session.serverID.path(1))
		}
		copy(s.payload(), s.payload()[n:s.pending])
		s.pending -= n
	}
}

// awaitWindow waits until the client allows bytes up to next.
func (s *SecondaryStream) awaitWindow(next int64) (limit int64, err error) {
	for start := time.Now(); ; {
		isTick := s.deadline.IsZero() || time.Until(s.deadline) > scarceTakeTimeout
		until := scarceTakeTimeout
		if !isTick {
			until = time.Until(s.deadline)
		}
		timer := time.NewTimer(until)
		limit, err = s.pushed.wait(context.Background(), timer.C, func() bool { return s.pushed.limit >= next })
		timer.Stop()
		if err != errWriteTimeout || !isTick {
			return limit, err
		}
		if !s.session.listener.isScarce() { // a reader may pause for as long as it likes
			continue
		}
		if err := s.session.stalled(start); err != nil {
			return 0, err
		}
	}
}

// Close sends the remaining bytes and ends the secondary stream. It fails if the written bytes do
// not end on a unit boundary; the whole units before count. It returns nil if the client has
// released the stream.
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
		err = writeError(s.stream.close(""), s.session.serverID.path(1))
	}
	s.releaseBlock()
	s.err = errSecondaryDone
	if err != nil && s.pushed.ctx.Err() != nil {
		if err = s.pushed.ended(); err == errStreamClosed {
			return nil
		}
	}
	return err
}

// writeError returns the typed error for an error of a QUIC stream.
func writeError(err error, path PathID) error {
	if errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, context.DeadlineExceeded) {
		return fmt.Errorf("%w", errWriteTimeout) // differs from that of a shut window, since the stream cannot continue
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
