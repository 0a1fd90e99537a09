package kwik

import (
	"context"
	"io"
	"time"

	"github.com/quic-go/quic-go"
)

// A Stream is a bidirectional stream between the client and the primary. It behaves as quic-go's
// does.
type Stream struct {
	quic *quic.Stream
	path PathID
}

// StreamID returns the stream's ID, which is QUIC's.
func (s *Stream) StreamID() StreamID { return StreamID(s.quic.StreamID()) }

// Read reads from the stream; io.EOF marks its end.
func (s *Stream) Read(p []byte) (int, error) {
	n, err := s.quic.Read(p)
	return n, s.wrap(err)
}

// Write writes to the stream. It blocks while QUIC's flow control does not allow more.
func (s *Stream) Write(p []byte) (int, error) {
	n, err := s.quic.Write(p)
	return n, s.wrap(err)
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
func (s *Stream) SetDeadline(t time.Time) error { return s.quic.SetDeadline(t) }

// SetReadDeadline sets the time after which Read fails with os.ErrDeadlineExceeded; zero means
// never.
func (s *Stream) SetReadDeadline(t time.Time) error { return s.quic.SetReadDeadline(t) }

// SetWriteDeadline sets the time after which Write fails with os.ErrDeadlineExceeded; zero means
// never.
func (s *Stream) SetWriteDeadline(t time.Time) error { return s.quic.SetWriteDeadline(t) }

// wrap turns QUIC errors that carry a KWIK code into *Error.
func (s *Stream) wrap(err error) error {
	if err == nil || err == io.EOF {
		return err
	}
	return fromQUIC(err, s.path)
}
