package kwik

import (
	"sync"
	"time"

	"kwikcp/kwik/internal/sched"
	kwikpb "kwikcp/kwik/proto"
)

// This file is about head starts: the first bytes of an aggregate stream, which its primary writes without waiting for the client's
// attachment and grant, a round trip earlier. To the client's scheduler they are a grant like any other, the stream's first.

// An endpoint of QUIC cannot hold back a part of a connection's window, or of its streams, for what matters. So head starts, which stay
// unread until somebody wants their streams, must never use them up: they are read only after the offer and the answer of the application,
// which would find no room (RFC 9204 section 2.1.3 knows such deadlocks). Therefore a client asks for no more at once than it has reserved.

// maxHeadStart bounds a head start, in bytes.
const maxHeadStart = 1 << 20

// headStart returns how much of a stream the primary may write unasked: whole units, and no more than its equal part of what several
// servers share, as in sched.Scheduler.
func (spec *AggregateStreamSpec) headStart(u sched.Units, secondaries int) int64 {
	most := min(spec.HeadStart, maxHeadStart)
	if u.WorthSharing(u.Total()) {
		most = min(most, u.Total()/int64(1+secondaries))
	}
	if spec.Pushed || most <= 0 {
		return 0
	}
	return u.Floor(most)
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

// ReserveHeadStart reserves room for a head start of up to n bytes and returns for how many, which is what the primary may be asked for. All
// head starts together have half the window with which the primary's connection begins, and each gets at most a quarter of what is left of
// that, so that there is some for many small files at once; and half its secondary streams. release gives the room back; it is to be called
// when the stream begins to be read, and when that will not be.
func (s *ClientSession) ReserveHeadStart(n int64) (reserved int64, release func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	reserved = max(min(n, maxHeadStart, s.headStartRoom/4), 0)
	if reserved == 0 || s.headStarts >= s.config.SecondaryStreams.MaxStreamsPerPath/2 {
		return 0, func() {}
	}
	s.headStarts++
	s.headStartRoom -= reserved
	return reserved, sync.OnceFunc(func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.headStarts--
		s.headStartRoom += reserved
	})
}

// checkHeadStart checks what an offer says of a head start.
func checkHeadStart(u sched.Units, o *kwikpb.StreamOffer) error {
	n := o.GetHeadStart()
	if n > 0 && (o.GetPushed() || n > maxHeadStart || !u.IsBoundary(int64(n))) {
		return errorf(ErrMetadataProtocolViolation, "head start of %d bytes", n)
	}
	return nil
}

// headStart takes note that the primary writes [0, end) of a stream that nobody else knows yet. Called with the lock held.
func (s *ClientSession) headStart(open *openStream, p *path, end int64) {
	open.attached[p.id] = p
	open.agg.headStart(p.id, p.rtt, end, p.leaving)
}

// headStart makes a path a source that was granted [0, end). Nobody else knows the stream yet.
func (a *streamAggregator) headStart(id PathID, rtt func() time.Duration, end int64, leaving bool) {
	s := &source{id: id, primary: true, rtt: rtt}
	s.passed, _ = a.queue(id)
	a.sources[id] = s
	a.sched.AddHeadStart(schedSource(id, rtt()), end, time.Now())
	if leaving {
		a.sched.Drain(sched.SourceID(id), time.Now())
	}
}
