package kwik

import (
	"context"
	"errors"
	"io"
	"math"
	"sync"
	"sync/atomic"
	"time"

	"github.com/quic-go/quic-go"

	kwikpb "kwikcp/kwik/proto"
)

// A secondaryStreamHandler receives the secondary streams of all paths of a session. It parses
// their frames, keeps their mappings and passes the payload to the aggregators. It starts no
// goroutine: each path runs handle in one goroutine per stream and waits for them.
type secondaryStreamHandler struct {
	// aggregator finds a KWIK stream. known is false for an ID that was never offered; a is nil for
	// a stream that has ended.
	aggregator func(StreamID) (a *streamAggregator, known bool)
	nextOffer  func() <-chan struct{} // returns a channel that is closed when the next stream is offered
	config     SecondaryStreamConfig
	recovery   RecoveryPolicy

	mu       sync.Mutex
	mappings *streamMappingManager
	streams  map[secondaryStreamID]*secondaryStreamInfo
	paths    map[PathID]*pathStreams
}

// A secondaryStreamInfo is an open secondary stream.
type secondaryStreamInfo struct {
	quic *quic.ReceiveStream
	// isAnswering reports whether the server can be reached, for long enough to repeat what was lost.
	isAnswering func(now time.Time) bool
	createdAt   time.Time    // set by register
	received    atomic.Int64 // payload bytes that arrived

	// Guarded by the handler's lock.
	state   SecondaryStreamState
	openDue time.Time // start of the wait for OPEN; zero after its arrival
	src     *source   // nil until the stream is mapped
	seen    int64     // received at the last sweep
	expired bool      // canceled by sweep
}

func newSecondaryStreamHandler(
	aggregator func(StreamID) (*streamAggregator, bool), nextOffer func() <-chan struct{}, c *ClientConfig,
) *secondaryStreamHandler {
	return &secondaryStreamHandler{
		aggregator: aggregator,
		nextOffer:  nextOffer,
		config:     c.SecondaryStreams,
		recovery:   c.Recovery,
		mappings:   newStreamMappingManager(maxPaths * c.SecondaryStreams.MaxStreamsPerPath),
		streams:    make(map[secondaryStreamID]*secondaryStreamInfo),
		paths:      make(map[PathID]*pathStreams),
	}
}

// errNotNeeded ends a secondary stream whose KWIK stream has ended or was never read. The source
// broke no rule.
var errNotNeeded = errors.New("kwik: the KWIK stream needs no bytes")

// handle reads a secondary stream to its end. done is closed when its path ends. An error means
// that the source broke the protocol or sent wrong bytes, and the path must be closed. An
// interrupted stream is no error.
func (h *secondaryStreamHandler) handle(done <-chan struct{}, p *path, s *quic.ReceiveStream) error {
	id := secondaryStreamID{path: p.id, id: int64(s.StreamID())}
	info := &secondaryStreamInfo{quic: s, isAnswering: p.isAnswering}
	h.register(id, info)
	a, err := h.serve(done, id, info)
	h.unregister(id, info, a, err)
	reset := NoError
	if fault, ok := errors.AsType[streamFault](err); ok {
		reset = codeOf(fault)
	}
	s.CancelRead(StreamErrorCode(reset)) // no effect on a stream that was read to its end
	return h.recovery.Metadata.recover(err, p.id, a)
}

// serve reads a secondary stream. target is its KWIK stream, or nil if the stream ended before it
// was accepted for one. err is nil if the stream ended with CLOSE and FIN, and errNotNeeded if its
// bytes are not needed.
func (h *secondaryStreamHandler) serve(
	done <-chan struct{}, id secondaryStreamID, info *secondaryStreamInfo,
) (target *streamAggregator, err error) {
	reader := &frameReader{r: info.quic}
	defer reader.release()
	frames := &metadataProtocol{r: reader, id: uint64(id.id)}
	f, err := frames.next(0, 0)
	if h.opened(info) {
		err = errorf(ErrMetadataProtocolViolation, "no OPEN for %v", h.config.MetadataTimeout)
	}
	if err != nil {
		return nil, err
	}
	if f.open == nil {
		return nil, errorf(ErrMetadataProtocolViolation, "a secondary stream begins with OPEN")
	}
	if named := f.open.GetSecondaryStreamId(); named != 0 && named != frames.id {
		return nil, errorf(ErrStreamMappingConflict, "OPEN for secondary stream %d on stream %d", named, frames.id)
	}

	kwikID := StreamID(clampOffset(f.open.GetTargetKwikStreamId()))
	a := h.awaitTarget(done, kwikID, id.path, f.open.GetGrantId() == 0)
	if a == nil {
		if _, known := h.aggregator(kwikID); known {
			return nil, errNotNeeded
		}
		return nil, errorf(ErrMetadataProtocolViolation, "secondary stream for a stream that was never offered").
			onStream(kwikID, -1)
	}
	if !a.awaitDemand(done) {
		return nil, errNotNeeded
	}
	src, x, err := h.authorize(a, id.path, f.open)
	if err != nil {
		a.faulted(id.path, x.grant, err)
		return a, err
	}
	h.mu.Lock()
	mapping, err := h.mappings.create(id, kwikID, x.grant, x.start, x.end, time.Now())
	if err == nil {
		mapping.pushed = a.pushed
		info.state, info.src = SecondaryStreamActive, src
	}
	h.mu.Unlock()
	if err != nil {
		a.faulted(id.path, 0, err) // another stream has the grant
		return a, err
	}
	// The grant is this stream's now, and ends with it. If the aggregator ended before the stream
	// was mapped, cancel did not find the stream.
	if a.ctx.Err() != nil {
		return a, errNotNeeded
	}
	in := &intake{
		h: h, a: a, src: src, info: info, mapping: mapping,
		frames: reader, off: x.start, batch: a.batch(h.config),
	}
	err = h.receive(frames, in, x.granted)
	err = h.interrupted(info, mapping, err)
	a.ended(src, x.grant, err)
	return a, err
}

// awaitTarget finds the KWIK stream that a secondary stream names. It returns nil if that
// stream has ended or its offer does not arrive. The retry policy bounds the wait for the offer
// and, on a pushed stream, for the source's attachment. The wait of a head start ends with the
// path only: its offer is on the same connection, so it cannot get lost.
func (h *secondaryStreamHandler) awaitTarget(
	done <-chan struct{}, kwikID StreamID, path PathID, pushed bool,
) (a *streamAggregator) {
	policy := h.recovery.Mapping
	if path == primaryPathID && !pushed {
		policy.MaxRetries = math.MaxInt
	}
	policy.retry(done, h.nextOffer, func() (known bool) {
		a, known = h.aggregator(kwikID)
		if a != nil && pushed {
			return a.answersTo(path)
		}
		return known || !kwikID.isAggregate()
	})
	return a
}

// An admission permits a secondary stream to write bytes [start, end) of its KWIK stream.
type admission struct {
	grant      uint64
	start, end int64
	// granted is the end of the grant before it was shortened. Bytes up to it may be under way.
	granted int64
}

// authorize decides whether a source may write the bytes that OPEN announces: those of a grant, or
// any on a pushed stream. With an error, the admission names the grant if it is the source's.
func (h *secondaryStreamHandler) authorize(
	a *streamAggregator, path PathID, open *kwikpb.SecondaryStreamOpen,
) (src *source, x admission, err error) {
	offset := clampOffset(open.GetInitialOffset())
	if x.grant = open.GetGrantId(); x.grant == 0 {
		x = admission{start: offset, end: a.units.Total(), granted: a.units.Total()}
		src, x.grant, err = a.adopt(path, offset)
		return src, x, err
	}
	if src, x.start, x.end, x.granted, err = a.extent(path, x.grant); err != nil {
		return nil, admission{}, err // the grant is not this source's
	}
	if offset != x.start && !(h.recovery.Metadata == RecoveryUseDefaults && offset == 0) {
		err = errorf(ErrMetadataProtocolViolation, "grant %d begins at %d", x.grant, x.start).onStream(a.id, offset)
	}
	return src, x, err
}

// receive reads DATA frames up to CLOSE and FIN. end is the end of the grant before it was
// shortened.
func (h *secondaryStreamHandler) receive(frames *metadataProtocol, in *intake, end int64) error {
	defer in.release()
	a := in.a
	for {
		if !in.frames.ready() { // reading the next frame will block
			if err := in.flush(); err != nil {
				return err
			}
		}
		f, err := frames.next(a.id, in.off)
		if err != nil || f.dataLen == 0 { // the bytes before it count
			if err := in.flush(); err != nil {
				return err
			}
		}
		switch {
		case err != nil:
			return err
		case f.open != nil:
			return in.fault(ErrStreamMappingConflict, "second OPEN on a secondary stream")
		case f.close != nil:
			return h.finish(in, f.close)
		}
		next := in.off + int64(f.dataLen)
		if next > end || !a.units.IsBoundary(next) {
			return in.fault(ErrMetadataProtocolViolation, "data up to %d under a grant that ends at %d", next, end)
		}
		if err := in.receive(f.dataLen); err != nil {
			return err
		}
	}
}

// finish checks CLOSE and waits for FIN.
func (h *secondaryStreamHandler) finish(in *intake, c *kwikpb.SecondaryStreamClose) error {
	id, kwikID := c.GetSecondaryStreamId(), c.GetKwikStreamId()
	isForOther := (id != 0 && id != uint64(in.info.quic.StreamID())) || (kwikID != 0 && kwikID != uint64(in.a.id))
	if isForOther || c.GetFinalOffset() != uint64(in.off) {
		return in.fault(ErrMetadataProtocolViolation, "CLOSE of stream %d at %d", id, c.GetFinalOffset())
	}
	h.mu.Lock()
	in.info.state = SecondaryStreamClosing
	h.mu.Unlock()
	in.info.quic.SetReadDeadline(time.Now().Add(h.config.MetadataTimeout))
	var one [1]byte
	switch n, err := in.frames.Read(one[:]); {
	case n > 0:
		return in.fault(ErrMetadataProtocolViolation, "data after CLOSE")
	case err != io.EOF:
		return err
	}
	return nil
}

// fault returns an error that names the source and the next byte of its stream.
func (in *intake) fault(code ErrorCode, format string, args ...any) *Error {
	return errorf(code, format, args...).onPath(in.src.id).onStream(in.a.id, in.off)
}

// cancel cancels the secondary streams of a KWIK stream that has ended.
func (h *secondaryStreamHandler) cancel(kwikID StreamID) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for id := range h.mappings.sources(kwikID) {
		h.streams[id].quic.CancelRead(StreamErrorCode(NoError))
	}
}

// shorten records that the source of a grant was told to stop at end.
func (h *secondaryStreamHandler) shorten(kwikID StreamID, grant uint64, end int64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.mappings.update(kwikID, grant, end)
}

// run cancels streams without progress until the session ends.
func (h *secondaryStreamHandler) run(done <-chan struct{}) {
	ticker := time.NewTicker(min(h.config.StreamTimeout, h.config.MetadataTimeout) / 4)
	defer ticker.Stop()
	for {
		select {
		case <-done:
			return
		case now := <-ticker.C:
			h.sweep(now)
		}
	}
}

// opened records that the first frame of a stream has arrived. It returns true if sweep has
// canceled the stream already.
func (h *secondaryStreamHandler) opened(info *secondaryStreamInfo) (late bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	info.openDue = time.Time{}
	return info.expired
}

// sweep cancels streams without progress: those whose source owes bytes for StreamTimeout, or OPEN
// for MetadataTimeout. While bytes of a path are being placed, its streams are not timed: QUIC's
// flow control may delay them all. A server that cannot be reached breaks no rule: while no packet
// arrives, QUIC's idle time-out has to end the path.
func (h *secondaryStreamHandler) sweep(now time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	busy := make(map[PathID]bool)
	for id, info := range h.streams {
		if info.src != nil && info.src.placing.Load() > 0 {
			busy[id.path] = true
		}
	}
	for id, info := range h.streams {
		switch {
		case info.openDue.IsZero():
		case busy[id.path]:
			info.openDue = now
		case now.Sub(info.openDue) >= h.config.MetadataTimeout && info.isAnswering(now):
			info.expired = true
			info.quic.CancelRead(StreamErrorCode(ErrMetadataProtocolViolation))
		}
		meta := h.mappings.target(id)
		if n := info.received.Load(); meta != nil && (n != info.seen || busy[id.path]) {
			info.seen = n
			h.mappings.touch(meta, now)
		}
	}
	for _, meta := range h.mappings.expire(now.Add(-h.config.StreamTimeout)) {
		if info := h.streams[meta.secondary()]; info.state == SecondaryStreamActive {
			info.expired = true
			info.quic.CancelRead(StreamErrorCode(ErrAggregationTimeout))
		}
	}
}

// interrupted returns the reason why a stream ended: err, or a time-out if sweep canceled it.
func (h *secondaryStreamHandler) interrupted(info *secondaryStreamInfo, meta *mappingMetadata, err error) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if info.expired && err != nil {
		return errorf(ErrAggregationTimeout, "nothing arrived for %v", h.config.StreamTimeout).
			onPath(meta.Path).onStream(meta.KWIKStream, meta.Offset)
	}
	return err
}

// violation returns err if it is a fault of the source that must close its path, and nil if its
// stream was only interrupted.
func violation(err error, path PathID) error {
	e, ok := errors.AsType[*Error](err)
	if !ok || e.Remote || errors.Is(err, context.Canceled) {
		return nil
	}
	if _, concernsStreamOnly := errors.AsType[streamFault](err); concernsStreamOnly {
		return nil
	}
	if isOthers := e.Path != "" && e.Path != path; isOthers {
		return nil
	}
	switch e.Code {
	case ErrMetadataProtocolViolation, ErrStreamMappingConflict, ErrSecondaryStreamOverflow, ErrSourceRefuted:
		fault := *e // a copy: others may hold the error
		return fault.onPath(path)
	}
	return nil
}
