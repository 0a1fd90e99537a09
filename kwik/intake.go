package kwik

import (
	"io"
	"time"
)

// An intake reads the payload of one secondary stream and passes it to the aggregator. A long
// frame is read in pieces of BufferSize, directly into the block that is verified and placed.
// Short frames, of which two or more fit in AggregationBatchSize, are gathered into a batch as
// long as they are buffered. So tiny frames do not each cost a lock, a verification and a write.
// An intake never waits for the network while it holds a batch back. The secondary stream's
// goroutine owns and releases it.
type intake struct {
	h       *secondaryStreamHandler
	a       *streamAggregator
	src     *source
	info    *secondaryStreamInfo
	mapping *mappingMetadata
	frames  *frameReader
	batch   int // AggregationBatchSize; negative if no frames are gathered

	allowed int64  // end of the push window at the last check
	off     int64  // of the next byte, in the KWIK stream
	b       *block // the batch; nil if there is none
	held    int    // bytes in the batch, which end at off
}

// receive reads the payload of a DATA frame: the next n bytes of the stream, whole units.
func (in *intake) receive(n int) error {
	if err := in.checkWindow(n); err != nil {
		return err
	}
	if 2*n > in.batch {
		if err := in.flush(); err != nil {
			return err
		}
		in.frames.resetReadAhead()
		for end := in.off + int64(n); in.off < end; {
			if err := in.readPiece(in.a.units.Cut(in.off, int64(in.h.config.BufferSize), end)); err != nil {
				return err
			}
		}
		return nil
	}
	if in.b != nil && in.held+n > len(in.b.data) {
		if err := in.flush(); err != nil {
			return err
		}
	}
	if err := in.frames.gather(n, in.batch, in.arrived); err != nil {
		return err
	}
	if in.b == nil {
		in.b = newBlock(in.frames.buffered()) // has room for all frames that can be gathered
	}
	if _, err := io.ReadFull(in.frames, in.b.data[in.held:in.held+n]); err != nil {
		return err
	}
	in.held += n
	in.off += int64(n)
	return nil
}

// batch returns the size of a batch, in bytes. If conflicts reject a whole delivery, frames are
// not gathered: the frames before the conflict must be accepted.
func (a *streamAggregator) batch(c SecondaryStreamConfig) int {
	if a.pushed && a.offsets.strategy == ConflictResolutionReject {
		return -1
	}
	return c.AggregationBatchSize
}

// checkWindow returns an error if the next n bytes of a pushed stream are beyond its window. The
// caller has checked the extent of a grant before.
func (in *intake) checkWindow(n int) error {
	next := in.off + int64(n)
	if !in.a.pushed || next <= in.allowed {
		return nil
	}
	var err error
	if in.allowed, err = in.a.mayPush(in.src, next); err != nil {
		if err := in.flush(); err != nil { // the bytes before these are accepted
			return err
		}
	}
	return err
}

// readPiece reads the bytes up to end and delivers them.
func (in *intake) readPiece(end int64) error {
	b := newBlock(int(end - in.off))
	for p := b.data; len(p) > 0; {
		n, err := in.frames.Read(p[:in.src.pace.cut(len(p))])
		in.arrived(n)
		if p = p[n:]; err != nil && len(p) > 0 {
			b.release()
			if err == io.EOF {
				err = io.ErrUnexpectedEOF
			}
			return err
		}
	}
	in.off = end
	return in.deliver(b)
}

// flush delivers the batch.
func (in *intake) flush() error {
	if in.held == 0 {
		return nil
	}
	b := in.b
	b.data = b.data[:in.held]
	in.b, in.held = nil, 0
	return in.deliver(b)
}

// deliver passes a block, whose bytes end at off, to the aggregator.
func (in *intake) deliver(b *block) error {
	n := len(b.data)
	in.h.mu.Lock()
	in.h.mappings.advance(in.mapping, n, time.Now())
	in.h.mu.Unlock()
	err := in.a.deliver(in.src, in.mapping.grant, in.off-int64(n), b)
	in.h.addCounted(in.src)
	return err
}

// arrived counts n bytes of payload that arrived, and waits if they exceed the rate limit. The
// stream is not read meanwhile, so a silence is not the source's fault. The end of the stream ends
// the wait.
func (in *intake) arrived(n int) {
	in.src.received.Add(int64(n))
	in.info.received.Add(int64(n))
	if in.src.pace.isLimited() {
		in.src.placing.Add(1)
		defer in.src.placing.Add(-1)
		in.src.pace.wait(in.a.ctx, n)
	}
}

// release releases the batch and the reader.
func (in *intake) release() {
	if in.b != nil {
		in.b.release()
		in.b, in.held = nil, 0
	}
	in.frames.release()
}
