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

	"kwikcp/kwik/internal/sched"
	kwikpb "kwikcp/kwik/proto"
)

// This file is about secondaries whose bytes a client could not prove. The client isolates such a secondary by itself and tells
// the primary. The primary asks the secondary for the very bytes, on the join connection, and has its application check them. If they
// are wrong, or do not come, it offers the secondary to nobody until they are right. The word of a client alone changes nothing. A
// secondary that finds that it has another version of the content may say so, now and then: it is stale, not corrupt.
//
//	a client's blame -> challenge: right -> nothing happens
//	                        |
//	                      wrong, or no answer -> suspended -> challenge ... right -> offered again
//	                                                          every minChallenge, doubled up to maxChallenge
//
// A member that is charged with something has one goroutine of the listener's, which ends when the member has proved all or is gone.

const (
	// minChallenge and maxChallenge are the shortest and the longest pause between two challenges of a suspended member.
	minChallenge = 10 * time.Second
	maxChallenge = 10 * time.Minute
	// chargePause is the pause after a charge that was false, so that lying clients keep neither server busy.
	chargePause = time.Second
	// challengeTimeout bounds one challenge.
	challengeTimeout = 10 * time.Second
	// maxExcuses is how often a member may answer that it has another version, while it is one.
	maxExcuses = 16
	// maxCharges is how many pieces a member has to prove at a time; clients that blame it for more are believed to mean the same.
	maxCharges = 16
	// maxBlames is how often one session is listened to.
	maxBlames = 256
	// maxChallengeFrame bounds a challenge and its answer, in bytes.
	maxChallengeFrame = sched.MaxUnit + 256<<10
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
	s.mu.Lock()
	offer := s.offers[StreamID(min(blame.GetKwikStreamId(), math.MaxInt64))]
	s.blames++
	enough := s.blames > maxBlames
	s.mu.Unlock()
	if enough {
		return
	}
	if l.config.OnBlame != nil {
		l.config.OnBlame(s, PathID(printable(status.GetPathId())), clampOffset(blame.GetOffset()), printable(status.GetReason()))
	}
	// What is pushed cannot be asked for, and a stream that has ended, or was never there, says nothing about what to ask for.
	if offer == nil || offer.spec.Pushed || blame.GetOffset() >= uint64(offer.units.Total()) || l.config.Verify == nil {
		return
	}
	start := offer.units.Floor(int64(blame.GetOffset()))
	l.charge(PathID(status.GetPathId()), charge{offer, start, offer.units.Ceil(start + 1)})
}

// charge has a member prove a unit.
func (l *Listener) charge(id PathID, c charge) {
	l.mu.Lock()
	defer l.mu.Unlock()
	m := l.members.byID[id]
	if m == nil || l.ctx.Err() != nil || len(m.charges) >= maxCharges || slices.ContainsFunc(m.charges, c.same) {
		return
	}
	m.charges = append(m.charges, c)
	l.examineCharged(m)
}

// examineCharged starts the goroutine that has a charged member prove what it is charged with, unless it runs. Called with the lock held.
func (l *Listener) examineCharged(m *member) {
	if len(m.charges) > 0 && !m.examined {
		m.examined = true
		l.wg.Go(func() { l.examine(m) })
	}
}

// examine challenges a member until it has proved all it is charged with, or is gone.
func (l *Listener) examine(m *member) {
	wait := minChallenge
	for {
		l.mu.Lock()
		if len(m.charges) == 0 {
			m.examined = false
			reinstated := l.reinstate(m)
			l.mu.Unlock()
			if reinstated {
				l.config.OnSuspension(m.id, nil)
			}
			return
		}
		c, suspended := m.charges[0], m.suspended
		l.mu.Unlock()
		err := l.challenge(m, c)
		if m.conn.Context().Err() != nil || l.ctx.Err() != nil {
			return
		}
		pause := wait
		l.mu.Lock()
		stale := errors.Is(err, ErrContentChanged) && m.excuses < maxExcuses
		switch {
		case err == nil || stale:
			if stale {
				m.excuses++
			}
			m.charges = m.charges[1:]
			pause, wait = chargePause, minChallenge
		default:
			m.suspended = true
			wait = min(2*wait, maxChallenge)
		}
		l.mu.Unlock()
		if err != nil && !stale && !suspended {
			l.config.OnSuspension(m.id, err)
		}
		select {
		case <-time.After(pause):
		case <-m.conn.Context().Done():
			return
		case <-l.ctx.Done():
			return
		}
	}
}

// reinstate offers a member again if it was suspended, and reports whether it was. Called with the lock held.
func (l *Listener) reinstate(m *member) bool {
	if !m.suspended || l.members.byID[m.id] != m {
		return false
	}
	m.suspended = false
	for s := range l.sessions {
		s.tellMember(m)
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
	defer stream.CancelWrite(StreamErrorCode(NoError)) // after an answer it was read to its end
	stream.SetDeadline(time.Now().Add(challengeTimeout))
	spec := c.offer.spec
	request := &kwikpb.Challenge{
		Size: uint64(spec.Size), Alignment: uint64(spec.Alignment), Descriptor_: spec.Descriptor, Segments: c.offer.units.Segments(),
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
		code := ErrContentUnavailable
		if answer.GetCode() == uint64(ErrContentChanged) {
			code = ErrContentChanged
		}
		return errorf(code, "it has no bytes [%d, %d): %s", c.start, c.end, printable(answer.GetReason()))
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
		ctx, cancel := context.WithTimeout(conn.Context(), challengeTimeout)
		if answer.Content, err = l.read(ctx, f.GetChallenge()); err != nil {
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

// read reads what a challenge asks for.
func (l *Listener) read(ctx context.Context, c *kwikpb.Challenge) ([]byte, error) {
	u, err := newUnits(c.GetSize(), c.GetAlignment(), c.GetSegments())
	if err != nil {
		return nil, err
	}
	total, n := uint64(u.Total()), c.GetLength()
	switch {
	case c.GetOffset() >= total || n == 0 || n > sched.MaxUnit || n > total-c.GetOffset() || len(c.GetDescriptor_()) > maxDescriptor:
		return nil, errorf(ErrOffsetSyncFailure, "challenge for %d bytes at %d", n, c.GetOffset())
	case l.config.OpenContent == nil:
		return nil, errors.New("this server has no content")
	}
	content, err := l.config.OpenContent(ctx, ContentRequest{Descriptor: c.GetDescriptor_(), Size: u.Total()})
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
