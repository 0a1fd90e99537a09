package kwik

import (
	"context"
	"io"
	"os"
	"time"

	"github.com/quic-go/quic-go"

	kwikpb "kwikcp/kwik/proto"
)

const (
	// dataFrameSize is the largest payload of a usual DATA frame, in bytes, unless BufferSize says
	// otherwise. A unit that is larger makes a larger frame.
	dataFrameSize = 256 << 10
	// blockHeadroom is the space before the payload of a block. It holds the frames that
	// precede the payload, so that one write sends all: a DATA header, and OPEN at the start of
	// a stream.
	blockHeadroom = 128
)

// A secondaryStream is a server's end of a secondary stream: it writes frames around payload. It is
// for one goroutine, except for cancel.
type secondaryStream struct {
	session  *ServerSession
	stream   *quic.SendStream
	kwikID   StreamID
	offset   int64     // of the next byte in the KWIK stream
	opened   []byte    // OPEN, until the first write, which is to follow at once, takes it along
	rate     rateShare // of the KWIK stream
	deadline time.Time // of writes; zero for none
	onStall  func()    // called now and then while the client takes nothing; may be nil
}

// openSecondaryStream opens a stream that writes from offset on, under a grant or, if grant is 0,
// without one. It sends nothing: the caller must write or announce at once. When the client
// receives a later stream, it knows that this one exists (RFC 9000, section 3.2) and waits for
// its OPEN.
func (s *ServerSession) openSecondaryStream(
	ctx context.Context, kwikID StreamID, grant uint64, offset int64, rate rateShare,
) (*secondaryStream, error) {
	stream, err := s.openUniStream(ctx)
	if err != nil {
		return nil, err
	}
	opened, err := appendMetadataFrame(nil, kwikpb.MetadataFrameType_SECONDARY_STREAM_OPEN, &kwikpb.SecondaryStreamOpen{
		TargetKwikStreamId: uint64(kwikID), InitialOffset: uint64(offset), GrantId: grant,
	})
	if err != nil {
		stream.CancelWrite(StreamErrorCode(NoError))
		return nil, err
	}
	return &secondaryStream{session: s, stream: stream, kwikID: kwikID, offset: offset, opened: opened, rate: rate}, nil
}

// send writes p. It fails with ErrServerBusy if the client takes nothing (taking.go).
func (s *secondaryStream) send(p []byte) error {
	return s.session.writeTaken(s.stream.Write, p, s.setWriteDeadline, func(since time.Time) error {
		if !s.deadline.IsZero() && !time.Now().Before(s.deadline) {
			return os.ErrDeadlineExceeded
		}
		if s.onStall != nil {
			s.onStall()
		}
		return s.session.stalled(since)
	})
}

// setWriteDeadline sets the deadline of the stream to t, or to its own if that is earlier.
func (s *secondaryStream) setWriteDeadline(t time.Time) error {
	if !s.deadline.IsZero() && s.deadline.Before(t) {
		t = s.deadline
	}
	return s.stream.SetWriteDeadline(t)
}

// announce sends OPEN without payload.
func (s *secondaryStream) announce() error {
	err := s.write(s.opened)
	s.opened = nil
	return err
}

// write writes bytes as the rate limit allows.
func (s *secondaryStream) write(p []byte) error {
	return s.rate.write(s.stream.Context(), p, s.send)
}

// writePayload sends the first n bytes of b's payload as one DATA frame, without copying them.
func (s *secondaryStream) writePayload(b *block, n int) error {
	var header [blockHeadroom]byte
	head := appendDataHeader(append(header[:0], s.opened...), n)
	s.opened = nil
	start := blockHeadroom - len(head)
	copy(b.room[start:], head)
	if err := s.write(b.room[start : blockHeadroom+n]); err != nil {
		return err
	}
	s.offset += int64(n)
	return nil
}

// close sends CLOSE and FIN. A reason other than "" is why the grant was not written to its end.
func (s *secondaryStream) close(reason string) error {
	frame, err := appendMetadataFrame(s.opened, kwikpb.MetadataFrameType_SECONDARY_STREAM_CLOSE,
		&kwikpb.SecondaryStreamClose{
			FinalOffset: uint64(s.offset), Reason: reason,
		})
	if err != nil {
		return err
	}
	if err := s.write(frame); err != nil {
		return err
	}
	return s.stream.Close()
}

// cancel resets the stream; a blocked write returns.
func (s *secondaryStream) cancel() { s.stream.CancelWrite(StreamErrorCode(NoError)) }

// readPayload reads n bytes of content from offset off into the part of b that writePayload sends.
func readPayload(content io.ReaderAt, b *block, off int64, n int) error {
	if k, err := content.ReadAt(b.room[blockHeadroom:blockHeadroom+n], off); k < n {
		if err == nil || err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		return contentError{err}
	}
	return nil
}

// A contentError is an error that ends an attachment: of the content, or of a server that is busy.
type contentError struct{ err error }

func (e contentError) Error() string { return e.err.Error() }
func (e contentError) Unwrap() error { return e.err }
