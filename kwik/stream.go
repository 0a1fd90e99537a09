package kwik

import (
	"context"
	"errors"
	"io"
	"time"

	"github.com/quic-go/quic-go"
)

// A Stream is a KWIK stream.
//
// A plain stream is a bidirectional QUIC stream between the client and the primary, and behaves as quic-go's. An
// aggregate stream (IsAggregate) is the client's end of one that the primary opened with a known size: it is
// read only, and its bytes may come from every server of the session. Nothing moves before it is read, with Read (in
// order, inside Config.ReorderWindow) or with CopyTo (as bytes come, without a window), but for what the primary gives as a head start.
type Stream struct {
	plain *quic.Stream
	agg   *streamAggregator
	path  PathID
	close func(*streamAggregator) // forgets an aggregate stream
}

var errReadOnly = errors.New("kwik: an aggregate stream is read only")

// StreamID returns the stream's id.
func (s *Stream) StreamID() StreamID {
	if s.agg != nil {
		return s.agg.id
	}
	return StreamID(s.plain.StreamID())
}

// IsAggregate reports whether the stream's bytes may come from several servers.
func (s *Stream) IsAggregate() bool { return s.agg != nil }

// Size returns the size of an aggregate stream in bytes, as the primary states it, and -1 for a plain stream.
func (s *Stream) Size() int64 {
	if s.agg != nil {
		return s.agg.units.Total()
	}
	return -1
}

// Descriptor returns what the primary said an aggregate stream is; nil for a plain stream.
func (s *Stream) Descriptor() []byte {
	if s.agg != nil {
		return s.agg.descriptor
	}
	return nil
}

// SetProof sets the function that proves the bytes of an aggregate stream before they count. It has to be called
// before Read and CopyTo; without one, bytes count as they come. It does nothing on a plain stream.
func (s *Stream) SetProof(prove ProofFunc) {
	if s.agg != nil {
		s.agg.setProof(prove)
	}
}

// SetHave says that the application has the bytes [start, end) of an aggregate stream already, whole units, from a transfer before:
// nobody is asked for them, and CopyTo does not write them. It has to be called before CopyTo, once for each range. A
// stream of which a part is had cannot be read in order.
func (s *Stream) SetHave(start, end int64) error {
	if s.agg == nil {
		return errors.New("kwik: SetHave is for aggregate streams")
	}
	return s.agg.setHave(start, end)
}

// SetHorizon says that nothing of an aggregate stream at or beyond end, the end of a unit, is to be asked for yet, because the application
// could not prove it. It has to be called before Read or CopyTo first, and with rising ends then. Without it all may be asked for.
func (s *Stream) SetHorizon(end int64) error {
	if s.agg == nil {
		return errors.New("kwik: SetHorizon is for aggregate streams")
	}
	return s.agg.setHorizon(end)
}

// SetFirst has the bytes [start, end) of an aggregate stream, whole units, asked for before all others. It has to be called before CopyTo
// or Read, and holds until they are there; a reader in order gets them no sooner than its window allows.
func (s *Stream) SetFirst(start, end int64) error {
	if s.agg == nil {
		return errors.New("kwik: SetFirst is for aggregate streams")
	}
	return s.agg.setFirst(start, end)
}

// Read reads the stream in order; io.EOF marks its end. On an aggregate stream, an error of code
// ErrAggregationTimeout means that no server is left that delivers.
func (s *Stream) Read(p []byte) (int, error) {
	if s.agg != nil {
		return s.agg.read(p)
	}
	n, err := s.plain.Read(p)
	return n, s.wrap(err)
}

// CopyTo writes an aggregate stream to w, each byte once, at its offset, in whatever order bytes come, and returns how
// many are there in the end, those of SetHave included. w must allow WriteAt from several goroutines at once, as *os.File does. An error of w or the end
// of ctx stops it. When it returns, w is not used any more.
func (s *Stream) CopyTo(ctx context.Context, w io.WriterAt) (int64, error) {
	if s.agg == nil {
		return 0, errors.New("kwik: CopyTo is for aggregate streams")
	}
	return s.agg.copyTo(ctx, w)
}

// Stats returns a snapshot of an aggregate stream, the zero value for a plain one.
func (s *Stream) Stats() StreamStats {
	if s.agg == nil {
		return StreamStats{}
	}
	return s.agg.stats()
}

// Write writes to a plain stream.
func (s *Stream) Write(p []byte) (int, error) {
	if s.agg != nil {
		return 0, errReadOnly
	}
	n, err := s.plain.Write(p)
	return n, s.wrap(err)
}

// Close ends the direction in which this side writes a plain stream: the peer reads io.EOF. As in quic-go, reading goes on
// until the peer closes, too, or CancelRead. On an aggregate stream it ends the stream and lets its sources go.
func (s *Stream) Close() error {
	if s.agg != nil {
		s.close(s.agg)
		return nil
	}
	return s.wrap(s.plain.Close())
}

// CancelRead tells the peer that nothing more will be read. On an aggregate stream it is Close.
func (s *Stream) CancelRead(code StreamErrorCode) {
	if s.agg != nil {
		s.close(s.agg)
		return
	}
	s.plain.CancelRead(code)
}

// CancelWrite ends the direction in which this side writes abruptly. It does nothing on an aggregate stream.
func (s *Stream) CancelWrite(code StreamErrorCode) {
	if s.agg == nil {
		s.plain.CancelWrite(code)
	}
}

// Context ends when this side's writing ends (as in quic-go), or, on an aggregate stream, with the stream.
func (s *Stream) Context() context.Context {
	if s.agg != nil {
		return s.agg.ctx
	}
	return s.plain.Context()
}

// SetDeadline sets the deadlines of reading and writing.
func (s *Stream) SetDeadline(t time.Time) error {
	if s.agg != nil {
		s.agg.setReadDeadline(t)
		return nil
	}
	return s.plain.SetDeadline(t)
}

// SetReadDeadline sets the time after which Read fails with os.ErrDeadlineExceeded; zero means never. CopyTo has a
// context instead.
func (s *Stream) SetReadDeadline(t time.Time) error {
	if s.agg != nil {
		s.agg.setReadDeadline(t)
		return nil
	}
	return s.plain.SetReadDeadline(t)
}

// SetWriteDeadline sets the time after which Write fails; zero means never.
func (s *Stream) SetWriteDeadline(t time.Time) error {
	if s.agg != nil {
		return errReadOnly
	}
	return s.plain.SetWriteDeadline(t)
}

// wrap gives QUIC errors that carry a KWIK code their type.
func (s *Stream) wrap(err error) error {
	if err == nil || err == io.EOF {
		return err
	}
	return fromQUIC(err, s.path)
}
