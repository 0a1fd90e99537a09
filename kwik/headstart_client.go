package kwik

import (
	"sync"
	"time"

	"kwikcp/kwik/internal/sched"
	kwikpb "kwikcp/kwik/proto"
)

// This file is the client's side of head starts. A head start is the first bytes of an aggregate
// stream, which the primary writes without waiting for the client's attachment and grant. It saves
// a round trip. To the client's scheduler it is a grant like any other, the first of its stream.

// QUIC cannot keep a part of a connection's flow-control window, or of its streams, for a purpose.
// A head start stays unread until the application reads its stream, and the application may first
// have to read something else from the same connection. Head starts that use up the window would
// therefore be a deadlock (RFC 9204, section 2.1.3). So a client must reserve what it requests.

// ReserveHeadStart reserves window for a head start of up to n bytes and returns how many bytes the
// client may request. All head starts together may have half of the initial window of the primary's
// connection, and half of its secondary streams. Each gets at most a quarter of the window that is
// left, so that many small files can have one at once. release returns the window. Call it when the
// stream begins to be read, or when it is clear that it will not be.
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

// checkHeadStart checks the head start of an offer.
func checkHeadStart(u sched.Units, o *kwikpb.StreamOffer) error {
	n := o.GetHeadStart()
	if n > 0 && (o.GetPushed() || n > maxHeadStart || !u.IsBoundary(int64(n))) {
		return errorf(ErrMetadataProtocolViolation, "head start of %d bytes", n)
	}
	return nil
}

// attachHeadStart records that the primary writes [0, end) of a new stream. The caller holds s.mu
// and has not published the stream yet.
func (s *ClientSession) attachHeadStart(open *openStream, p *path, end int64) {
	open.attached[p.id] = p
	open.agg.addHeadStartSource(p.id, p.rtt, end, p.draining)
}

// addHeadStartSource adds a path as a source that holds a grant for [0, end). The stream must not
// be published yet: there is no lock.
func (a *streamAggregator) addHeadStartSource(id PathID, rtt func() time.Duration, end int64, leaving bool) {
	s := &source{id: id, primary: true, rtt: rtt, pace: a.pace.share()}
	s.pathCounted, _ = a.pathLoad(id)
	a.sources[id] = s
	a.sched.AddHeadStart(schedSource(id, rtt()), end, time.Now())
	if leaving {
		a.sched.Drain(sched.SourceID(id), time.Now())
	}
}
