package kwik

import "kwikcp/kwik/internal/sched"

// maxHeadStart bounds a head start, in bytes.
const maxHeadStart = 1 << 20

// headStartLength returns the length of the head start in bytes. It is whole units. If several
// servers share the stream, it is at most the primary's equal part. sched.Scheduler applies the
// same rule.
func (spec *AggregateStreamSpec) headStartLength(u sched.Units, secondaries int) int64 {
	most := min(spec.HeadStart, maxHeadStart)
	if u.WorthSharing(u.Total()) {
		most = min(most, u.Total()/int64(1+secondaries))
	}
	if spec.Pushed || most <= 0 {
		return 0
	}
	return u.Floor(most)
}

// newHeadStart attaches the primary itself to a stream that it offers, with [0, end) to write. It
// returns nil if the session has ended or has too many streams. The caller holds s.mu, and runs the
// attachment after it has sent the offer.
func (s *ServerSession) newHeadStart(o *AggregateStream, end int64) *attachment {
	if s.ended || len(s.attached)+len(s.pushed) >= maxStreamsPerSession {
		return nil
	}
	a := newAttachment(s, o.id, o.units, o.spec.Descriptor)
	a.last, a.offer = 1, o
	a.queue = []*extent{{grant: a.last, end: end}}
	a.start = o.spec.HeadStartAfter
	s.attached[o.id] = a
	s.uses++
	return a
}
