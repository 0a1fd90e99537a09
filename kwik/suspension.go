package kwik

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"math"
	"net/netip"
	"slices"
	"time"

	"kwikcp/internal/backoff"
	"kwikcp/internal/bucket"
	"kwikcp/kwik/internal/sched"
	kwikpb "kwikcp/kwik/proto"
)

// This file is the primary's side of suspension. A client that cannot prove bytes of a
// secondary bans it for its own session and reports the bytes. The primary then challenges the
// secondary: it requests the same bytes on the join connection, and its application verifies
// them. If they are wrong or there is no answer, the primary suspends the secondary. Clients are
// not told of it until it has answered right.
//
//	a client's report -> challenge --right, or excused--> nothing changes
//	                               --wrong or no answer-> suspended: challenge again with back-off
//	suspended --right, or excused--> active
//
// A client's report alone changes nothing. A report counts only if the primary gave that session
// a ticket for that stream at that secondary. The challenge decides the rest. A secondary that
// states that it cannot show the bytes is excused, as often as it does. It may lack the file, have
// another version of it, fail to read it, or be busy. Anyone could accuse it of that.
// A secondary that lies in its excuse gains little: each client bans it after one bad unit.
//
// A member with rejected units has one goroutine of the listener, which ends when the member
// has answered for all of them or has left.

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
	// answerTimeout bounds the time in which a secondary prepares its answer. It leaves time for
	// the excuse to arrive before the challenge ends.
	answerTimeout = challengeTimeout * 4 / 5
	// maxRejectedUnits bounds the units that a member has to prove at a time. Further reports
	// are dropped: they are taken to mean the same fault.
	maxRejectedUnits = 16
	// maxRejectedByClient bounds those of them that clients of one prefix reported, so that one
	// client leaves space for the reports of others.
	maxRejectedByClient = 4
	// maxRejectionReports bounds the reports of one session that are handled.
	maxRejectionReports = 256
	// unprovedLife is how long the primary remembers that a member left while it was suspended.
	unprovedLife = time.Hour
	// maxChallengeFrame bounds a challenge, in bytes.
	maxChallengeFrame = sched.MaxUnit + 256<<10
	// maxAnswerOverhead bounds the bytes of an answer besides the requested ones.
	maxAnswerOverhead = 4 << 10
)

// reportRate bounds the reports of the clients of one prefix that are handled: sessions are cheap.
var reportRate = bucket.Rate{PerSecond: 0.1, Burst: 256}

// A VerifyFunc checks bytes of the content that a descriptor names: p, from offset off. It
// returns nil if they are right. It also returns nil if it cannot know, because the content is
// not served any more.
type VerifyFunc func(ctx context.Context, descriptor []byte, off int64, p []byte) error

// A rejectedUnit is a unit of a stream that a client could not prove. It does not keep the
// client's session.
type rejectedUnit struct {
	content    contentID
	units      sched.Units
	alignment  int64
	descriptor []byte
	start, end int64
	client     netip.Prefix // of the client that reported it
}

func (u rejectedUnit) same(v rejectedUnit) bool { return u.content == v.content && u.start == v.start }

// An excuse is the answer of a member that states that it cannot show the bytes.
type excuse struct{ reason string }

func (e *excuse) Error() string { return e.reason }

// An unprovedUnit is a unit that a suspended member owed when it left.
type unprovedUnit struct {
	unit    rejectedUnit
	expires time.Time
}

// maxRecheck bounds the bytes that a primary checks because of one report. No piece is longer.
const maxRecheck = 1 << 20

// handlePathStatus handles a client's report on a server.
func (l *Listener) handlePathStatus(s *ServerSession, status *kwikpb.PathStatus) {
	rejected := status.GetBlame()
	if rejected == nil {
		switch status.GetState() {
		case kwikpb.PathState_PATH_STATE_ACTIVE:
			l.handleReach(s, ServerID(status.GetPathId()), true, "")
		case kwikpb.PathState_PATH_STATE_UNREACHABLE:
			l.handleReach(s, ServerID(status.GetPathId()), false, printable(status.GetReason()))
		}
		return
	}
	id := ServerID(status.GetPathId())
	s.mu.Lock()
	offer := s.offers[StreamID(min(rejected.GetKwikStreamId(), math.MaxInt64))]
	hasTicket := offer != nil && offer.hasTicket(id)
	s.rejectionReports++
	isFlood := s.rejectionReports > maxRejectionReports
	s.mu.Unlock()
	client := clientPrefix(s.RemoteAddr())
	if isFlood || !l.takeReport(client) {
		return
	}
	server, offset := ServerID(printable(status.GetPathId())), clampOffset(rejected.GetOffset())
	l.config.OnReject(s, server, offset, printable(status.GetReason()))
	if offer == nil || offer.spec.Pushed || rejected.GetOffset() >= uint64(offer.units.Total()) {
		return // the stream has ended or never existed, or its bytes cannot be requested
	}
	start := offer.units.Floor(int64(rejected.GetOffset()))
	if id == primaryID {
		// The wrong unit may be any of those that arrived in one piece.
		length := clampOffset(min(max(rejected.GetLength(), 1), maxRecheck))
		end := min(clampOffset(rejected.GetOffset())+length, offer.units.Total())
		l.config.Recheck(offer.spec.Descriptor, offer.units.Total(), start, offer.units.Ceil(end))
		return
	}
	if l.config.Verify == nil || !hasTicket {
		return // the server was no source of the stream
	}
	l.addRejected(id, rejectedUnit{
		content: offer.content, units: offer.units, alignment: offer.spec.Alignment, descriptor: offer.spec.Descriptor,
		start: start, end: offer.units.Ceil(start + 1), client: client,
	})
}

// takeReport reports whether a report of a client of this prefix is handled.
func (l *Listener) takeReport(client netip.Prefix) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.reports.TryTake(client, time.Now())
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
	ofClient := 0
	for _, r := range m.rejected {
		if r.client == u.client {
			ofClient++
		}
	}
	if ofClient >= maxRejectedByClient {
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
		l.wg.Go(func() { l.contain(m.conn, func() { l.challengeUntilProved(m) }) })
	}
}

// challengeUntilProved challenges a member until it has answered for all its rejected units or
// has left.
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

// nextRejected returns the unit that a member has to prove next. If there is none, the member's
// goroutine must end.
func (l *Listener) nextRejected(m *member) (unit rejectedUnit, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(m.rejected) == 0 {
		m.challenging = false
		return rejectedUnit{}, false
	}
	return m.rejected[0], true
}

// settleChallenge records the result of the challenge for the member's first rejected unit, and
// reports whether it settles the unit. If it does, a suspension ends: it was for this unit, and
// no later report may outlast the proof. If it does not, the member is suspended.
func (l *Listener) settleChallenge(m *member, err error) (settled bool) {
	_, isExcused := errors.AsType[*excuse](err)
	settled = err == nil || isExcused
	if l.recordChallenge(m, settled) {
		if settled {
			err = nil
		}
		l.config.OnSuspension(m.id, err)
	}
	return settled
}

// recordChallenge is settleChallenge's change of state. It reports whether the member's suspension
// began or ended.
func (l *Listener) recordChallenge(m *member, settled bool) (changed bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if settled {
		m.rejected = m.rejected[1:]
		return l.reinstate(m)
	}
	changed = !m.suspended
	m.suspended = true
	return changed
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
	request := &kwikpb.Challenge{
		Size: uint64(u.units.Total()), Alignment: uint64(u.alignment),
		Descriptor_: l.config.ChallengeDescriptor(u.descriptor), Segments: u.units.Segments(),
		Offset: uint64(u.start), Length: uint64(u.end - u.start),
	}
	if err := writeJoin(stream, &kwikpb.JoinFrame{Frame: &kwikpb.JoinFrame_Challenge{Challenge: request}}); err != nil {
		return err
	}
	stream.Close()
	f := &kwikpb.JoinFrame{}
	if err := readDelimited(bufio.NewReader(stream), int(u.end-u.start)+maxAnswerOverhead, f); err != nil {
		return err
	}
	switch answer := f.GetAnswer(); {
	case answer == nil:
		return errors.New("no answer to a challenge")
	case len(answer.GetContent()) == 0:
		return &excuse{printable(answer.GetReason())}
	case int64(len(answer.GetContent())) != u.end-u.start:
		return fmt.Errorf("%d bytes in answer to a challenge for %d", len(answer.GetContent()), u.end-u.start)
	default:
		err := Contain(func() error { return l.config.Verify(ctx, u.descriptor, u.start, answer.GetContent()) })
		if e, ok := errors.AsType[*PanicError](err); ok {
			l.config.OnPanic(nil, e)
			return nil // no fault of the member
		}
		return err
	}
}
