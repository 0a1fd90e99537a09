package kwik

import (
	"context"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"github.com/quic-go/quic-go"
)

// A Stream is a bidirectional stream between the client and the primary. It behaves as quic-go's
// does.
type Stream struct {
	quic *quic.Stream
	path PathID
	rate rateShare // of a server's stream
	// reading counts the calls of Read and Write on a client's path, and carried the bytes. They
	// are nil on a server.
	reading *atomic.Int32
	carried *atomic.Int64

	mu       sync.Mutex    // guards the fields below
	deadline time.Time     // of Write; zero for none
	delay    time.Duration // that Write has waited for the rate limit since the deadline was set
}

// StreamID returns the stream's ID, which is QUIC's.
func (s *Stream) StreamID() StreamID { return StreamID(s.quic.StreamID()) }

// Read reads from the stream; io.EOF marks its end.
func (s *Stream) Read(p []byte) (int, error) {
	if s.reading != nil {
		s.reading.Add(1)
		defer s.reading.Add(-1)
	}
	n, err := s.quic.Read(p)
	s.carry(n)
	return n, s.wrap(err)
}

// Write writes to the stream. It blocks while QUIC's flow control does not allow more, and on a
// server while the RateLimit does not.
func (s *Stream) Write(p []byte) (written int, err error) {
	if s.reading != nil {
		s.reading.Add(1)
		defer s.reading.Add(-1)
	}
	for {
		piece := p[written:]
		piece = piece[:s.rate.cut(min(len(piece), writePiece))]
		if err := s.awaitRate(len(piece)); err != nil {
			return written, s.wrap(err)
		}
		n, err := s.quic.Write(piece)
		s.carry(n)
		if written += n; err != nil || written == len(p) {
			return written, s.wrap(err)
		}
	}
}

// writePiece is how many bytes QUIC is given at once. Each piece that it accepts shows that the
// stream makes progress.
const writePiece = 16 << 10

// carry counts bytes that were read or written.
func (s *Stream) carry(n int) {
	if s.carried != nil {
		s.carried.Add(int64(n))
	}
}

// awaitRate waits until the rate limit lets n bytes pass. The deadline of Write moves by as much:
// it is for the peer, and the peer does not cause the wait.
func (s *Stream) awaitRate(n int) error {
	if !s.rate.isLimited() {
		return nil
	}
	start := time.Now()
	err := s.rate.wait(s.quic.Context(), n)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.delay += time.Since(start)
	if !s.deadline.IsZero() {
		s.quic.SetWriteDeadline(s.deadline.Add(s.delay))
	}
	return err
}

// Close ends the direction in which this side writes: the peer reads io.EOF. As in quic-go,
// reading continues until the peer closes its direction, or CancelRead.
func (s *Stream) Close() error { return s.wrap(s.quic.Close()) }

// CancelRead stops reading and asks the peer to stop writing.
func (s *Stream) CancelRead(code StreamErrorCode) { s.quic.CancelRead(code) }

// CancelWrite ends the direction in which this side writes abruptly.
func (s *Stream) CancelWrite(code StreamErrorCode) { s.quic.CancelWrite(code) }

// Context ends when the direction in which this side writes ends, as in quic-go.
func (s *Stream) Context() context.Context { return s.quic.Context() }

// SetDeadline sets the deadlines of Read and Write.
func (s *Stream) SetDeadline(t time.Time) error {
	if err := s.SetReadDeadline(t); err != nil {
		return err
	}
	return s.SetWriteDeadline(t)
}

// SetReadDeadline sets the time after which Read fails with os.ErrDeadlineExceeded; zero means
// never.
func (s *Stream) SetReadDeadline(t time.Time) error { return s.quic.SetReadDeadline(t) }

// SetWriteDeadline sets the time after which Write fails with os.ErrDeadlineExceeded; zero means
// never. The time that Write waits for a server's RateLimit does not count.
func (s *Stream) SetWriteDeadline(t time.Time) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.deadline, s.delay = t, 0
	return s.quic.SetWriteDeadline(t)
}

// wrap turns QUIC errors that carry a KWIK code into *Error.
func (s *Stream) wrap(err error) error {
	if err == nil || err == io.EOF {
		return err
	}
	return fromQUIC(err, s.path)
}
