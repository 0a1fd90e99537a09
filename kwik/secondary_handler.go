package kwik

import (
	"context"
	"errors"
	"io"
	"sync"
	"time"

	"github.com/quic-go/quic-go"

	kwikpb "kwikcp/kwik/proto"
)

// A secondaryStreamHandler receives the secondary streams of every path of a session: it parses their frames, keeps
// their mappings and hands the payload to the aggregator of the KWIK stream. It starts no goroutine; each path runs
// handle in one of its own per stream and waits for them.
type secondaryStreamHandler struct {
	// aggregator finds a KWIK stream; known is false for an id that was never offered, and the aggregator nil
	// for one that has ended.
	aggregator      func(StreamID) (a *streamAggregator, known bool)
	metadataTimeout time.Duration
	recovery        RecoveryPolicy
	done            <-chan struct{} // closed with the session

	mu       sync.Mutex
	mappings *streamMappingManager
	streams  map[secondaryStreamID]*secondaryStreamInfo
}

// A secondaryStreamState is where a secondary stream is in its life.
type secondaryStreamState int

const (
	secondaryStreamOpening secondaryStreamState = iota // no OPEN yet
	secondaryStreamActive                              // mapped, DATA comes
	secondaryStreamClosing                             // CLOSE came, FIN is due
)

// A secondaryStreamInfo is an open secondary stream.
type secondaryStreamInfo struct {
	quic  *quic.ReceiveStream
	state secondaryStreamState
	kwik  StreamID // once active
}

func newSecondaryStreamHandler(aggregator func(StreamID) (*streamAggregator, bool), c *Config, done <-chan struct{}) *secondaryStreamHandler {
	return &secondaryStreamHandler{
		aggregator:      aggregator,
		metadataTimeout: c.MetadataTimeout,
		recovery:        c.Recovery,
		done:            done,
		mappings:        newStreamMappingManager((maxSecondaryPaths + 1) * maxSecondaryStreams),
		streams:         make(map[secondaryStreamID]*secondaryStreamInfo),
	}
}

// handle reads a secondary stream to its end. A returned error means that the source broke the protocol or sent wrong
// bytes and its path must be closed; a stream that was merely interrupted is no error.
func (h *secondaryStreamHandler) handle(path PathID, s *quic.ReceiveStream) error {
	id := secondaryStreamID{path: path, id: int64(s.StreamID())}
	info := &secondaryStreamInfo{quic: s}
	h.mu.Lock()
	h.streams[id] = info
	h.mu.Unlock()
	a, err := h.serve(id, info)
	h.mu.Lock()
	delete(h.streams, id)
	h.mappings.remove(id)
	h.mu.Unlock()
	reset := NoError
	if fault, ok := errors.AsType[streamFault](err); ok {
		reset = codeOf(fault)
	}
	s.CancelRead(StreamErrorCode(reset)) // no effect on a stream that was read to its end
	return h.recovery.Metadata.recover(err, path, a)
}

// serve reads a secondary stream and returns the KWIK stream that it belonged to, nil if that was not found out, and why it
// ended before its CLOSE and FIN.
func (h *secondaryStreamHandler) serve(id secondaryStreamID, info *secondaryStreamInfo) (*streamAggregator, error) {
	frames := &metadataProtocol{r: info.quic, id: uint64(id.id)}
	info.quic.SetReadDeadline(time.Now().Add(h.metadataTimeout))
	f, err := frames.next(0, 0)
	if err != nil {
		return nil, err
	}
	if f.open == nil {
		return nil, errorf(ErrMetadataProtocolViolation, "a secondary stream begins with OPEN")
	}
	if named := f.open.GetSecondaryStreamId(); named != 0 && named != frames.id {
		return nil, errorf(ErrStreamMappingConflict, "OPEN for secondary stream %d on stream %d", named, frames.id)
	}
	info.quic.SetReadDeadline(time.Time{})

	kwikID := StreamID(clampOffset(f.open.GetTargetKwikStreamId()))
	a := h.target(kwikID, id.path, f.open.GetGrantId() == 0)
	if a == nil {
		if _, known := h.aggregator(kwikID); known {
			return nil, nil // it ended while this was under way
		}
		return nil, errorf(ErrMetadataProtocolViolation, "secondary stream for a stream that was never offered").onStream(kwikID, -1)
	}
	src, grant, start, end, err := h.admit(a, id.path, f.open)
	if err != nil {
		return a, err
	}
	h.mu.Lock()
	mapping, err := h.mappings.create(id, kwikID, grant, start, time.Now())
	if err == nil {
		info.state, info.kwik = secondaryStreamActive, kwikID
	}
	h.mu.Unlock()
	if err != nil {
		return a, err
	}
	// From here on the grant is this stream's, and ends with it. The aggregator may have ended before info said whose
	// the stream is; then nobody will cancel it.
	if a.ctx.Err() != nil {
		return a, nil
	}
	err = h.receive(frames, a, src, info, mapping, end)
	a.ended(src, grant, err)
	return a, err
}

// target finds the KWIK stream that a secondary stream names; nil if it has ended or does not come. It waits, as the retry
// policy says, for its offer, and for the attachment of a source that pushes.
func (h *secondaryStreamHandler) target(kwikID StreamID, path PathID, pushed bool) (a *streamAggregator) {
	h.recovery.Mapping.retry(h.done, func() (known bool) {
		a, known = h.aggregator(kwikID)
		if a != nil && pushed {
			return a.hasSource(path)
		}
		return known || !kwikID.IsAggregate()
	})
	return a
}

// admit decides whether a source may write what OPEN announces, and where: under a grant, or, on a pushed stream, on its own.
func (h *secondaryStreamHandler) admit(a *streamAggregator, path PathID, open *kwikpb.SecondaryStreamOpen) (src *source, grant uint64, start, end int64, err error) {
	offset := clampOffset(open.GetInitialOffset())
	if grant = open.GetGrantId(); grant == 0 {
		src, grant, err = a.adopt(path, offset)
		return src, grant, offset, a.units.total, err
	}
	src, start, end, err = a.extent(path, grant)
	if err == nil && offset != start && !(h.recovery.Metadata == RecoveryUseDefaults && offset == 0) {
		err = errorf(ErrMetadataProtocolViolation, "grant %d begins at %d", grant, start).onStream(a.id, offset)
	}
	return src, grant, start, end, err
}

// receive reads DATA frames up to CLOSE and FIN. end is where the grant ended when it was first given.
func (h *secondaryStreamHandler) receive(frames *metadataProtocol, a *streamAggregator, src *source, info *secondaryStreamInfo, mapping *mappingMetadata, end int64) error {
	for {
		off := mapping.Offset // written by this goroutine only
		f, err := frames.next(a.id, off)
		switch {
		case err != nil:
			return err
		case f.open != nil:
			return errorf(ErrStreamMappingConflict, "second OPEN on a secondary stream").onPath(src.id).onStream(a.id, off)
		case f.close != nil:
			return h.finish(a, src, info, f.close, off)
		}
		next := off + int64(f.dataLen)
		if next > end || !a.units.isBoundary(next) {
			return errorf(ErrMetadataProtocolViolation, "data up to %d under a grant that ends at %d", next, end).onPath(src.id).onStream(a.id, off)
		}
		if a.pushed {
			if err := a.mayPush(src.id, next); err != nil {
				return err
			}
		}
		b := newBlock(f.dataLen)
		if err := src.readFull(info.quic, b.data); err != nil {
			b.release()
			return err
		}
		h.mu.Lock()
		h.mappings.advance(mapping, f.dataLen, time.Now())
		h.mu.Unlock()
		if err := a.deliver(src, mapping.grant, off, b); err != nil {
			return err
		}
	}
}

// finish checks CLOSE and waits for FIN.
func (h *secondaryStreamHandler) finish(a *streamAggregator, src *source, info *secondaryStreamInfo, c *kwikpb.SecondaryStreamClose, off int64) error {
	id, kwikID := c.GetSecondaryStreamId(), c.GetKwikStreamId()
	if c.GetFinalOffset() != uint64(off) || (id != 0 && id != uint64(info.quic.StreamID())) || (kwikID != 0 && kwikID != uint64(a.id)) {
		return errorf(ErrMetadataProtocolViolation, "CLOSE of stream %d at %d", id, c.GetFinalOffset()).onPath(src.id).onStream(a.id, off)
	}
	h.mu.Lock()
	info.state = secondaryStreamClosing
	h.mu.Unlock()
	info.quic.SetReadDeadline(time.Now().Add(h.metadataTimeout))
	var one [1]byte
	switch n, err := info.quic.Read(one[:]); {
	case n > 0:
		return errorf(ErrMetadataProtocolViolation, "data after CLOSE").onPath(src.id).onStream(a.id, off)
	case err != io.EOF:
		return err
	}
	return nil
}

// readFull fills p and counts what arrives, as it arrives.
func (s *source) readFull(r io.Reader, p []byte) error {
	for len(p) > 0 {
		n, err := r.Read(p)
		s.received.Add(int64(n))
		p = p[n:]
		if err != nil && len(p) > 0 {
			if err == io.EOF {
				err = io.ErrUnexpectedEOF
			}
			return err
		}
	}
	return nil
}

// cancel ends every secondary stream of a KWIK stream that has ended.
func (h *secondaryStreamHandler) cancel(kwikID StreamID) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, info := range h.streams {
		if info.kwik == kwikID && info.state != secondaryStreamOpening {
			info.quic.CancelRead(StreamErrorCode(NoError))
		}
	}
}

// activeStreams returns how many secondary streams of a path are open.
func (h *secondaryStreamHandler) activeStreams(path PathID) (n int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for id := range h.streams {
		if id.path == path {
			n++
		}
	}
	return n
}

// violation returns err if it is the source's fault in a way that ends its path, and nil if its stream was interrupted.
func violation(err error, path PathID) error {
	e, ok := errors.AsType[*Error](err)
	if _, mere := errors.AsType[streamFault](err); mere || !ok || e.Remote || errors.Is(err, context.Canceled) {
		return nil
	}
	switch e.Code {
	case ErrMetadataProtocolViolation, ErrStreamMappingConflict, ErrSecondaryStreamOverflow, ErrSourceRefuted:
		return e.onPath(path)
	}
	return nil
}
