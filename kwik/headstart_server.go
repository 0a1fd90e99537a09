package kwik

import "sync"

// maxHeadStart bounds a head start, in bytes.
const maxHeadStart = 1 << 20

// headStartLength returns the length of the head start in bytes: whole units, and of a stream that
// several servers share at most the primary's equal part, as in scheduler.heldBack.
func (spec *AggregateStreamSpec) headStartLength(u units, secondaries int) int64 {
	most := min(spec.HeadStart, maxHeadStart)
	if u.total > reserveUnits*u.size {
		most = min(most, u.total/int64(1+secondaries))
	}
	if spec.Pushed || most <= 0 {
		return 0
	}
	return u.floor(most)
}

// beginHeadStart attaches the primary itself to a stream that it offers. The attachment writes [0,
// end) after start is called. It returns false if the session has ended or has too many streams.
// The caller holds s.mu.
func (s *ServerSession) beginHeadStart(o *AggregateStream, end int64) bool {
	if s.ended || len(s.attached)+len(s.pushed) >= maxStreamsPerSession {
		return false
	}
	a := newAttachment(s, o.id, o.units, o.spec.Descriptor)
	a.last, a.offer = 1, o
	a.queue = []*extent{{grant: a.last, end: end}}
	a.start = make(chan struct{})
	o.start = sync.OnceFunc(func() { close(a.start) })
	s.attached[o.id] = a
	s.used = true
	s.wg.Go(a.run)
	return true
}

// Start begins to write the head start, if there is one. Call it after writing what the client
// needs before the content: the two share the connection. Call it soon: the client treats a primary
// that does not write as stalled.
func (o *AggregateStream) Start() {
	if o.start != nil {
		o.start()
	}
}
