package kwik

import (
	"bufio"
	"context"
	"errors"
	"io"
	"math"
	"slices"
	"time"

	"github.com/quic-go/quic-go"

	kwikpb "kwikcp/kwik/proto"
)

// This file is about secondaries whose bytes a client could not prove. The client isolates such a secondary by itself and tells
// the primary, which offers it to nobody until it has proved itself: the primary asks it for the very bytes, on the join connection, and
// has its application check them. A client that lies about a secondary keeps it out for as long as that takes.
//
//	a client's blame -> suspended -> challenge: right -> offered again
//	                        ^------------- wrong, or no answer: again after minChallenge, doubled up to maxChallenge
//
// Each suspended member has one goroutine of the listener's, which ends when the member has proved itself or is gone.

const (
	minChallenge = 10 * time.Second
	maxChallenge = 10 * time.Minute
	// challengeTimeout bounds one challenge.
	challengeTimeout = 10 * time.Second
	// maxCharges is how many pieces a suspended member has to prove at most; clients that blame it for more are believed to mean
	// the same.
	maxCharges = 16
	// maxChallengeFrame bounds a challenge and its answer, in bytes.
	maxChallengeFrame = maxUnit + 256<<10
)

// A VerifyFunc reports whether bytes are right: p, from offset off, of the content that a descriptor names. It returns nil as well if it
// cannot know, because the content is not served any more.
type VerifyFunc func(ctx context.Context, descriptor []byte, off int64, p []byte) error

// A charge is what a client could not prove: a unit of a stream.
type charge struct {
	offer      *AggregateStream
	start, end int64
}

func (c charge) same(d charge) bool {
	return c.offer.content == d.offer.content && c.start == d.start
}

// reported acts on what a client thinks of a server.
func (l *Listener) reported(s *ServerSession, status *kwikpb.PathStatus) {
	blame := status.GetBlame()
	if blame == nil {
		return
	}
	if l.config.OnBlame != nil {
		l.config.OnBlame(s, PathID(printable(status.GetPathId())), clampOffset(blame.GetOffset()), printable(status.GetReason()))
	}
	s.mu.Lock()
	offer := s.offers[StreamID(min(blame.GetKwikStreamId(), math.MaxInt64))]
	s.mu.Unlock()
	if offer == nil || blame.GetOffset() >= uint64(offer.units.total) {
		return // it has ended, or was never there
	}
	start := offer.units.floor(int64(blame.GetOffset()))
	l.charge(PathID(status.GetPathId()), charge{offer, start, offer.units.ceil(start + 1)})
}

// charge suspends a member until it has proved what it is charged with; a primary that cannot check that, until it joins anew.
func (l *Listener) charge(id PathID, c charge) {
	l.mu.Lock()
	defer l.mu.Unlock()
	m := l.members.byID[id]
	if m == nil || l.ctx.Err() != nil || len(m.charges) >= maxCharges || slices.ContainsFunc(m.charges, c.same) {
		return
	}
	m.charges = append(m.charges, c)
	switch {
	case len(m.charges) > 1:
	case l.config.Verify == nil:
		l.config.OnSuspension(m.id, errorf(ErrSourceRefuted, "a client could not prove bytes [%d, %d) of it", c.start, c.end))
	default:
		l.wg.Go(func() { l.examine(m) })
	}
}

// examine challenges a suspended member until it has proved all it is charged with.
func (l *Listener) examine(m *member) {
	var suspended error // as last told
	for wait := minChallenge; ; wait = min(2*wait, maxChallenge) {
		err := l.challengeAll(m)
		if m.conn.Context().Err() != nil || l.ctx.Err() != nil {
			return
		}
		if err == nil {
			if l.acquit(m) {
				if suspended != nil {
					l.config.OnSuspension(m.id, nil)
				}
				return
			}
			continue // charged with more since
		}
		if suspended == nil {
			suspended = err
			l.config.OnSuspension(m.id, err)
		}
		select {
		case <-time.After(wait):
		case <-m.conn.Context().Done():
			return
		case <-l.ctx.Done():
			return
		}
	}
}

// challengeAll has a member prove what it is charged with. What it proved it is not charged with any more.
func (l *Listener) challengeAll(m *member) error {
	for {
		l.mu.Lock()
		var c charge
		if len(m.charges) > 0 {
			c = m.charges[0]
		}
		l.mu.Unlock()
		if c.offer == nil {
			return nil
		}
		if err := l.challenge(m, c); err != nil {
			return err
		}
		l.mu.Lock()
		if len(m.charges) > 1 { // the last one stays until acquit
			m.charges = m.charges[1:]
			l.mu.Unlock()
			continue
		}
		l.mu.Unlock()
		return nil
	}
}

// acquit offers a member again that has proved all but the last of its charges, and that one, too. It reports false if there are more.
func (l *Listener) acquit(m *member) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(m.charges) > 1 {
		m.charges = m.charges[1:]
		return false
	}
	m.charges = nil
	if l.members.byID[m.id] == m {
		for s := range l.sessions {
			s.tellMember(m)
		}
	}
	return true
}

// challenge asks a member for a unit and has it checked.
func (l *Listener) challenge(m *member, c charge) error {
	ctx, cancel := context.WithTimeout(l.ctx, challengeTimeout)
	defer cancel()
	stream, err := m.conn.OpenStreamSync(ctx)
	if err != nil {
		return err
	}
	defer stream.CancelRead(StreamErrorCode(NoError))
	stream.SetDeadline(time.Now().Add(challengeTimeout))
	spec := c.offer.spec
	request := &kwikpb.Challenge{
		Size: uint64(spec.Size), Alignment: uint64(spec.Alignment), Descriptor_: spec.Descriptor, Segments: c.offer.units.segments(),
		Offset: uint64(c.start), Length: uint64(c.end - c.start),
	}
	if err := writeJoin(stream, &kwikpb.JoinFrame{Frame: &kwikpb.JoinFrame_Challenge{Challenge: request}}); err != nil {
		return err
	}
	stream.Close()
	f := &kwikpb.JoinFrame{}
	if err := readDelimited(bufio.NewReader(stream), maxChallengeFrame, f); err != nil {
		return err
	}
	switch answer := f.GetAnswer(); {
	case answer == nil:
		return errors.New("no answer to a challenge")
	case int64(len(answer.GetContent())) != c.end-c.start:
		return errorf(ErrContentUnavailable, "it has no bytes [%d, %d): %s", c.start, c.end, printable(answer.GetReason()))
	default:
		return l.config.Verify(ctx, spec.Descriptor, c.start, answer.GetContent())
	}
}

// answerChallenges is the secondary's side: it answers its primary, one challenge at a time, until the membership ends.
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
		if answer.Content, err = l.read(conn.Context(), f.GetChallenge()); err != nil {
			answer.Reason = printable(err.Error())
		}
		if err := writeJoin(stream, &kwikpb.JoinFrame{Frame: &kwikpb.JoinFrame_Answer{Answer: answer}}); err != nil {
			stream.CancelWrite(StreamErrorCode(NoError))
			continue
		}
		stream.Close()
	}
}

// read reads what a challenge asks for.
func (l *Listener) read(ctx context.Context, c *kwikpb.Challenge) ([]byte, error) {
	u, err := newUnits(c.GetSize(), c.GetAlignment(), c.GetSegments())
	if err != nil {
		return nil, err
	}
	total, n := uint64(u.total), c.GetLength()
	switch {
	case c.GetOffset() >= total || n == 0 || n > maxUnit || n > total-c.GetOffset() || len(c.GetDescriptor_()) > maxDescriptor:
		return nil, errorf(ErrOffsetSyncFailure, "challenge for %d bytes at %d", n, c.GetOffset())
	case l.config.OpenContent == nil:
		return nil, errors.New("this server has no content")
	}
	content, err := l.config.OpenContent(ctx, ContentRequest{Descriptor: c.GetDescriptor_(), Size: u.total})
	if err != nil {
		return nil, err
	}
	defer content.Close()
	p := make([]byte, n)
	if k, err := content.ReadAt(p, int64(c.GetOffset())); uint64(k) < n {
		if err == nil || err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		return nil, err
	}
	return p, nil
}
