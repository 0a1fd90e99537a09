package kwik

import (
	"sync"
	"time"

	kwikpb "kwikcp/kwik/proto"
)

// This file is about head starts: the first bytes of an aggregate stream, which its primary writes without waiting for the client's
// attachment and grant, a round trip earlier. To the client's scheduler they are a grant like any other, the stream's first.

// An endpoint of QUIC cannot hold back a part of a connection's window, or of its streams, for what matters. So head starts, which stay
// unread until somebody wants their streams, must never use them up: they are read only after the offer and the answer of the application,
// which would find no room (RFC 9204 section 2.1.3 knows such deadlocks). Therefore a client asks for no more at once than it has reserved.

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
func checkHeadStart(u units, o *kwikpb.StreamOffer) error {
	n := o.GetHeadStart()
	if n > 0 && (o.GetPushed() || n > maxHeadStart || !u.isBoundary(int64(n))) {
		return errorf(ErrMetadataProtocolViolation, "head start of %d bytes", n)
	}
	return nil
}

// attachHeadStart takes note that the primary writes [0, end) of a stream that nobody else knows yet. Called with the lock held.
func (s *ClientSession) attachHeadStart(open *openStream, p *path, end int64) {
	open.attached[p.id] = p
	open.agg.addHeadStartSource(p.id, p.rtt, end, p.draining)
}

// addHeadStartSource makes a path a source that was granted [0, end). Nobody else knows the stream yet.
func (a *streamAggregator) addHeadStartSource(id PathID, rtt func() time.Duration, end int64, leaving bool) {
	s := &source{id: id, primary: true, rtt: rtt}
	s.passed, _ = a.queue(id)
	a.sources[id] = s
	a.sched.headStart(id, end, rtt(), time.Now())
	if leaving {
		a.sched.drain(id, time.Now())
	}
}
