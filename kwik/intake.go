package kwik

import (
	"io"
	"time"
)

// An intake takes the payload of one secondary stream and hands it to the aggregator: a long frame as it comes, in pieces
// of BufferSize, read straight into the block that is proved and placed; short ones, of which AggregationBatchSize holds two or
// more, gathered while they are there, so that a source that writes tiny frames costs neither a lock nor a proof nor a write
// for each. It never waits while it holds something back. It is used by the secondary stream's goroutine, which drops it.
type intake struct {
	h       *secondaryStreamHandler
	a       *streamAggregator
	src     *source
	info    *secondaryStreamInfo
	mapping *mappingMetadata
	frames  *frameReader
	batch   int // AggregationBatchSize, or negative: nothing is gathered

	allowed int64  // up to where bytes may be pushed, as last heard
	off     int64  // of the next byte, in the KWIK stream
	b       *block // what was gathered: its first held bytes, which end at off; nil if nothing was
	held    int
}

// take takes the payload of a DATA frame: n bytes, whole units, which the stream has next.
func (in *intake) take(n int) error {
	if err := in.mayTake(n); err != nil {
		return err
	}
	if 2*n > in.batch {
		if err := in.flush(); err != nil {
			return err
		}
		in.frames.resetReadAhead()
		for end := in.off + int64(n); in.off < end; {
			if err := in.piece(in.a.units.Cut(in.off, int64(in.h.config.BufferSize), end)); err != nil {
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
		in.b = newBlock(in.frames.buffered()) // which holds all frames that can be gathered
	}
	if _, err := io.ReadFull(in.frames, in.b.data[in.held:in.held+n]); err != nil {
		return err
	}
	in.held += n
	in.off += int64(n)
	return nil
}

// batch returns how many bytes of a stream are gathered. Where a conflict rejects what is delivered together nothing is, so that
// the bytes before the conflict count however they arrived.
func (a *streamAggregator) batch(c SecondaryStreamConfig) int {
	if a.pushed && a.offsets.strategy == ConflictResolutionReject {
		return -1
	}
	return c.AggregationBatchSize
}

// mayTake asks whether n bytes may be pushed. Under a grant that is clear.
func (in *intake) mayTake(n int) error {
	next := in.off + int64(n)
	if !in.a.pushed || next <= in.allowed {
		return nil
	}
	var err error
	if in.allowed, err = in.a.mayPush(in.src, next); err != nil {
		if err := in.flush(); err != nil { // what came before counts
			return err
		}
	}
	return err
}

// piece reads the bytes up to end and hands them over.
func (in *intake) piece(end int64) error {
	b := newBlock(int(end - in.off))
	for p := b.data; len(p) > 0; {
		n, err := in.frames.Read(p[:in.a.pace.cut(len(p))])
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
	return in.handOver(b)
}

// flush hands over what was gathered.
func (in *intake) flush() error {
	if in.held == 0 {
		return nil
	}
	b := in.b
	b.data = b.data[:in.held]
	in.b, in.held = nil, 0
	return in.handOver(b)
}

// handOver gives a block, whose bytes end at off, to the aggregator.
func (in *intake) handOver(b *block) error {
	n := len(b.data)
	in.h.mu.Lock()
	in.h.mappings.advance(in.mapping, n, time.Now())
	in.h.mu.Unlock()
	err := in.a.deliver(in.src, in.mapping.grant, in.off-int64(n), b)
	in.h.addCounted(in.src)
	return err
}

// arrived counts payload as it arrives, and waits where that is more than the limit allows: nothing more is read meanwhile, which holds
// the source up and is not its fault. Whoever ends the stream ends the wait.
func (in *intake) arrived(n int) {
	in.src.received.Add(int64(n))
	in.info.received.Add(int64(n))
	if in.a.pace != nil {
		in.src.placing.Add(1)
		defer in.src.placing.Add(-1)
		in.a.pace.wait(in.a.ctx, n)
	}
}

// drop gives up what was gathered.
func (in *intake) drop() {
	if in.b != nil {
		in.b.release()
		in.b, in.held = nil, 0
	}
	in.frames.release()
}
