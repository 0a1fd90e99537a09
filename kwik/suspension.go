package kwik

import (
	"bufio"
	"context"
	"errors"
	"math"
	"slices"
	"time"

	"kwikcp/internal/backoff"
	"kwikcp/kwik/internal/sched"
	kwikpb "kwikcp/kwik/proto"
)

// This file is the primary's side of suspension. A client that cannot prove bytes of a
// secondary bans it for its own session and reports the bytes. The primary then challenges the
// secondary: it requests the same bytes on the join connection, and its application verifies
// them. If they are wrong or do not arrive, the primary suspends the secondary, and clients are
// not told of it until it has answered right. A client's report alone changes nothing. A
// secondary with another version of the content is stale, not corrupt: a few such answers cost
// it nothing.
//
//	a client's report -> challenge --right--------------> nothing changes
//	                               --wrong or no answer-> suspended: challenge again with back-off
//	suspended --right--> active
//
// A member with rejected units has one goroutine of the listener, which ends when the member
// has proved all of them or has left.

const (
	// minChallenge and maxChallenge bound the delay between two challenges of a suspended
	// member, without jitter.
	minChallenge = 10 * time.Second
	maxChallenge = 10 * time.Minute
	// provedPause is the pause after a member has proved a unit, so that clients that lie keep
	// neither server busy.
	provedPause = time.Second
	// challengeTimeout bounds one challenge.
	challengeTimeout = 10 * time.Second
	// maxStaleAnswers bounds the answers of one membership that name another version of the
	// content.
	maxStaleAnswers = 16
	// maxRejectedUnits bounds the units that a member has to prove at a time. Further reports
	// are dropped: they are taken to mean the same fault.
	maxRejectedUnits = 16
	// maxRejectionReports bounds the reports of one session that are handled.
	maxRejectionReports = 256
	// maxChallengeFrame bounds a challenge and its answer, in bytes.
	maxChallengeFrame = sched.MaxUnit + 256<<10
)

// A VerifyFunc checks bytes of the content that a descriptor names: p, from offset off. It
// returns nil if they are right. It also returns nil if it cannot know, because the content is
// not served any more.
type VerifyFunc func(ctx context.Context, descriptor []byte, off int64, p []byte) error

// A rejectedUnit is a unit of a stream that a client could not prove.
type rejectedUnit struct {
	offer      *AggregateStream
	start, end int64
}

func (u rejectedUnit) same(v rejectedUnit) bool {
	return u.offer.content == v.offer.content && u.start == v.start
}

// handlePathStatus handles a client's report on a server.
func (l *Listener) handlePathStatus(s *ServerSession, status *kwikpb.PathStatus) {
	rejected := status.GetBlame()
	if rejected == nil {
		return
	}
	s.mu.Lock()
	offer := s.offers[StreamID(min(rejected.GetKwikStreamId(), math.MaxInt64))]
	s.rejectionReports++
	isFlood := s.rejectionReports > maxRejectionReports
	s.mu.Unlock()
	if isFlood {
		return
	}
	server, offset := ServerID(printable(status.GetPathId())), clampOffset(rejected.GetOffset())
	l.config.OnReject(s, server, offset, printable(status.GetReason()))
	if l.config.Verify == nil || offer == nil {
		return // a stream that has ended, or never existed, does not tell what to request
	}
	if offer.spec.Pushed || rejected.GetOffset() >= uint64(offer.units.Total()) {
		return // pushed bytes cannot be requested
	}
	start := offer.units.Floor(int64(rejected.GetOffset()))
	l.addRejected(ServerID(status.GetPathId()), rejectedUnit{offer, start, offer.units.Ceil(start + 1)})
}

// addRejected makes a member prove a unit.
func (l *Listener) addRejected(id ServerID, u rejectedUnit) {
	l.mu.Lock()
	defer l.mu.Unlock()
	m := l.members.byID[id]
	if m == nil || l.ctx.Err() != nil {
		return
	}
	if len(m.rejected) >= maxRejectedUnits || slices.ContainsFunc(m.rejected, u.same) {
		return
	}
	m.rejected = append(m.rejected, u)
	l.startChallenges(m)
}

// startChallenges starts the goroutine that challenges a member, unless it runs already or the
// member has nothing to prove. The caller holds l.mu.
func (l *Listener) startChallenges(m *member) {
	if len(m.rejected) > 0 && !m.challenging {
		m.challenging = true
		l.wg.Go(func() { l.challengeUntilProved(m) })
	}
}

// challengeUntilProved challenges a member until it has proved all its rejected units or has left.
func (l *Listener) challengeUntilProved(m *member) {
	retry := backoff.Policy{Min: minChallenge, Max: maxChallenge, Random: newJitter(string(m.id))}
	failures := 0
	for {
		unit, ok := l.nextRejected(m)
		if !ok {
			return
		}
		err := l.challenge(m, unit)
		if m.conn.Context().Err() != nil || l.ctx.Err() != nil {
			return
		}
		pause := provedPause
		if l.settleChallenge(m, err) {
			failures = 0
		} else {
			failures++
			pause = retry.Delay(failures)
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

// nextRejected returns the unit that a member has to prove next. If there is none, it lifts the
// member's suspension, and the member's goroutine must end.
func (l *Listener) nextRejected(m *member) (unit rejectedUnit, ok bool) {
	l.mu.Lock()
	if len(m.rejected) > 0 {
		defer l.mu.Unlock()
		return m.rejected[0], true
	}
	m.challenging = false
	isReinstated := l.reinstate(m)
	l.mu.Unlock()
	if isReinstated {
		l.config.OnSuspension(m.id, nil)
	}
	return rejectedUnit{}, false
}

// settleChallenge records the result of a challenge, err, and reports whether it settles the
// unit. If it does not, the member is suspended.
func (l *Listener) settleChallenge(m *member, err error) (settled bool) {
	l.mu.Lock()
	isStale := errors.Is(err, ErrContentChanged) && m.staleAnswers < maxStaleAnswers
	if isStale {
		m.staleAnswers++
	}
	if err == nil || isStale {
		defer l.mu.Unlock()
		m.rejected = m.rejected[1:]
		return true
	}
	isNew := !m.suspended
	m.suspended = true
	l.mu.Unlock()
	if isNew {
		l.config.OnSuspension(m.id, err)
	}
	return false
}

// reinstate lifts the suspension of a member and announces it to the clients. It reports false
// if the member was not suspended. The caller holds l.mu.
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

// challenge requests a unit from a member and verifies the answer.
func (l *Listener) challenge(m *member, u rejectedUnit) error {
	ctx, cancel := context.WithTimeout(l.ctx, challengeTimeout)
	defer cancel()
	stream, err := m.conn.OpenStreamSync(ctx)
	if err != nil {
		return err
	}
	defer stream.CancelRead(StreamErrorCode(NoError))
	defer stream.CancelWrite(StreamErrorCode(NoError)) // no effect after an answer: the stream is closed then
	stream.SetDeadline(time.Now().Add(challengeTimeout))
	spec := u.offer.spec
	request := &kwikpb.Challenge{
		Size: uint64(spec.Size), Alignment: uint64(spec.Alignment), Descriptor_: spec.Descriptor,
		Segments: u.offer.units.Segments(),
		Offset:   uint64(u.start), Length: uint64(u.end - u.start),
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
	case int64(len(answer.GetContent())) != u.end-u.start:
		code := ErrContentUnavailable
		if answer.GetCode() == uint64(ErrContentChanged) {
			code = ErrContentChanged
		}
		return errorf(code, "it has no bytes [%d, %d): %s", u.start, u.end, printable(answer.GetReason()))
	default:
		return l.config.Verify(ctx, spec.Descriptor, u.start, answer.GetContent())
	}
}
