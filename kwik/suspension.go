package kwik

import (
	"bufio"
	"context"
	"errors"
	"math"
	"slices"
	"time"

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
	// provedPause is the pause after a charge that was false, so that lying clients keep neither server busy.
	provedPause = time.Second
	// challengeTimeout bounds one challenge.
	challengeTimeout = 10 * time.Second
	// maxStaleAnswers is how often a member may answer that it has another version, while it is one.
	maxStaleAnswers = 16
	// maxRejectedUnits is how many pieces a member has to prove at a time; clients that blame it for more are believed to mean the same.
	maxRejectedUnits = 16
	// maxRejectionReports is how often one session is listened to.
	maxRejectionReports = 256
	// maxChallengeFrame bounds a challenge and its answer, in bytes.
	maxChallengeFrame = maxUnit + 256<<10
)

// A VerifyFunc reports whether bytes are right: p, from offset off, of the content that a descriptor names. It returns nil as well if it
// cannot know, because the content is not served any more.
type VerifyFunc func(ctx context.Context, descriptor []byte, off int64, p []byte) error

// A rejectedUnit is what a client could not prove: a unit of a stream.
type rejectedUnit struct {
	offer      *AggregateStream
	start, end int64
}

func (c rejectedUnit) same(d rejectedUnit) bool {
	return c.offer.content == d.offer.content && c.start == d.start
}

// handlePathStatus acts on what a client thinks of a server.
func (l *Listener) handlePathStatus(s *ServerSession, status *kwikpb.PathStatus) {
	blame := status.GetBlame()
	if blame == nil {
		return
	}
	s.mu.Lock()
	offer := s.offers[StreamID(min(blame.GetKwikStreamId(), math.MaxInt64))]
	s.rejectionReports++
	enough := s.rejectionReports > maxRejectionReports
	s.mu.Unlock()
	if enough {
		return
	}
	if l.config.OnBlame != nil {
		l.config.OnBlame(s, PathID(printable(status.GetPathId())), clampOffset(blame.GetOffset()), printable(status.GetReason()))
	}
	// What is pushed cannot be asked for, and a stream that has ended, or was never there, says nothing about what to ask for.
	if offer == nil || offer.spec.Pushed || blame.GetOffset() >= uint64(offer.units.total) || l.config.Verify == nil {
		return
	}
	start := offer.units.floor(int64(blame.GetOffset()))
	l.addRejected(PathID(status.GetPathId()), rejectedUnit{offer, start, offer.units.ceil(start + 1)})
}

// addRejected has a member prove a unit.
func (l *Listener) addRejected(id PathID, c rejectedUnit) {
	l.mu.Lock()
	defer l.mu.Unlock()
	m := l.members.byID[id]
	if m == nil || l.ctx.Err() != nil || len(m.rejected) >= maxRejectedUnits || slices.ContainsFunc(m.rejected, c.same) {
		return
	}
	m.rejected = append(m.rejected, c)
	l.startChallenges(m)
}

// startChallenges starts the goroutine that has a charged member prove what it is charged with, unless it runs. Called with the lock held.
func (l *Listener) startChallenges(m *member) {
	if len(m.rejected) > 0 && !m.challenging {
		m.challenging = true
		l.wg.Go(func() { l.challengeUntilProved(m) })
	}
}

// challengeUntilProved challenges a member until it has proved all it is charged with, or is gone.
func (l *Listener) challengeUntilProved(m *member) {
	wait := minChallenge
	for {
		l.mu.Lock()
		if len(m.rejected) == 0 {
			m.challenging = false
			reinstated := l.reinstate(m)
			l.mu.Unlock()
			if reinstated {
				l.config.OnSuspension(m.id, nil)
			}
			return
		}
		c, suspended := m.rejected[0], m.suspended
		l.mu.Unlock()
		err := l.challenge(m, c)
		if m.conn.Context().Err() != nil || l.ctx.Err() != nil {
			return
		}
		pause := wait
		l.mu.Lock()
		stale := errors.Is(err, ErrContentChanged) && m.staleAnswers < maxStaleAnswers
		switch {
		case err == nil || stale:
			if stale {
				m.staleAnswers++
			}
			m.rejected = m.rejected[1:]
			pause, wait = provedPause, minChallenge
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
func (l *Listener) challenge(m *member, c rejectedUnit) error {
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
		code := ErrContentUnavailable
		if answer.GetCode() == uint64(ErrContentChanged) {
			code = ErrContentChanged
		}
		return errorf(code, "it has no bytes [%d, %d): %s", c.start, c.end, printable(answer.GetReason()))
	default:
		return l.config.Verify(ctx, spec.Descriptor, c.start, answer.GetContent())
	}
}
