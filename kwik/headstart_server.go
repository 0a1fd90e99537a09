package kwik

import "sync"

// maxHeadStart bounds a head start, in bytes.
const maxHeadStart = 1 << 20

// headStartLength returns how much of a stream the primary may write unasked: whole units, and no more than its equal part of what several
// servers share, as in scheduler.heldBack.
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

// beginHeadStart makes the primary a source of a stream that it offers, which writes [0, end) when start is called. It reports whether it
// could. Called with the session's lock held.
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

// Start begins to write the head start, if there is one. It is to be called once what the client needs before the content has
// been written, since the two share the connection; a primary that does not call it is soon taken for one that is stalled.
func (o *AggregateStream) Start() {
	if o.start != nil {
		o.start()
	}
}
