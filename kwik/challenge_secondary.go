package kwik

import (
	"bufio"
	"context"
	"errors"
	"io"
	"time"

	"github.com/quic-go/quic-go"

	"kwikcp/kwik/internal/sched"
	kwikpb "kwikcp/kwik/proto"
)

// This file is the secondary's side of suspension.go.

// answerChallenges answers the primary's challenges, one at a time, until the membership ends.
func (l *Listener) answerChallenges(conn *quic.Conn) {
	for {
		stream, err := conn.AcceptStream(conn.Context())
		if err != nil {
			return
		}
		stream.SetDeadline(time.Now().Add(challengeTimeout))
		f := &kwikpb.JoinFrame{}
		err = readDelimited(bufio.NewReader(stream), maxChallengeFrame, f)
		stream.CancelRead(StreamErrorCode(NoError))
		if err != nil || f.GetChallenge() == nil {
			stream.CancelWrite(StreamErrorCode(ErrMetadataProtocolViolation))
			continue
		}
		answer := &kwikpb.ChallengeAnswer{}
		ctx, cancel := context.WithTimeout(conn.Context(), answerTimeout)
		err = Contain(func() (err error) {
			answer.Content, err = l.readChallenged(ctx, f.GetChallenge())
			return err
		})
		if e, ok := errors.AsType[*PanicError](err); ok {
			l.config.OnPanic(conn.RemoteAddr(), e)
			err = errors.New(messageFailed)
		}
		if err != nil {
			answer.Reason = printable(err.Error())
			if errors.Is(err, ErrContentChanged) {
				answer.Code = uint64(ErrContentChanged)
			}
		}
		cancel()
		if err := writeJoin(stream, &kwikpb.JoinFrame{Frame: &kwikpb.JoinFrame_Answer{Answer: answer}}); err != nil {
			stream.CancelWrite(StreamErrorCode(NoError))
			continue
		}
		stream.Close()
	}
}

// readChallenged reads the bytes that a challenge requests.
func (l *Listener) readChallenged(ctx context.Context, c *kwikpb.Challenge) ([]byte, error) {
	u, err := newUnits(c.GetSize(), c.GetAlignment(), c.GetSegments())
	if err != nil {
		return nil, err
	}
	total, off, n := uint64(u.Total()), c.GetOffset(), c.GetLength()
	isInside := off < total && n > 0 && n <= total-off
	switch {
	case !isInside || n > sched.MaxUnit || len(c.GetDescriptor_()) > maxDescriptor:
		return nil, errorf(ErrOffsetSyncFailure, "challenge for %d bytes at %d", n, off)
	case l.config.OpenContent == nil:
		return nil, errors.New("this server has no content")
	}
	content, err := l.config.OpenContent(ctx, ContentRequest{Descriptor: c.GetDescriptor_(), Size: u.Total()})
	if err != nil {
		return nil, err
	}
	defer content.Close()
	p := make([]byte, n)
	if k, err := content.ReadAt(p, int64(off)); uint64(k) < n {
		if err == nil || err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		return nil, err
	}
	return p, nil
}
