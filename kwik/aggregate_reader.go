package kwik

import (
	"context"
	"io"
	"time"
)

// A Range is the bytes [Start, End) of an aggregate stream.
type Range struct{ Start, End int64 }

// A ProofFunc verifies bytes of an aggregate stream: p, from offset off, is one or more whole
// units that one server delivered. If it returns an error, the client drops the bytes and bans
// the server for the session. It reports the server to the primary and requests the bytes from
// another server. [RecoveryPolicy] has other strategies. It must be safe for concurrent use.
type ProofFunc func(server ServerID, off int64, p []byte) error

// An AggregateOffer is an aggregate stream that the primary opened and that the client does not
// read yet. Until a reader begins, servers send nothing of it, except for a head start. Every
// offer must be opened or closed: the session holds 128 at most.
type AggregateOffer struct {
	agg   *streamAggregator
	close func(*streamAggregator) // forgets the stream
}

// StreamID returns the stream's ID.
func (o *AggregateOffer) StreamID() StreamID { return o.agg.id }

// Size returns the size of the stream in bytes, as the primary states it.
func (o *AggregateOffer) Size() int64 { return o.agg.units.Total() }

// Descriptor returns the bytes with which the primary's application describes the content.
func (o *AggregateOffer) Descriptor() []byte { return o.agg.descriptor }

// Open returns the reader of the stream. verify decides which bytes count. If it is nil all do:
// the client trusts every server of the session, or verifies what it read by itself. Open fails
// after Close, after the end of the session, and if it is called twice.
func (o *AggregateOffer) Open(verify ProofFunc) (*AggregateReader, error) {
	if err := o.agg.open(verify); err != nil {
		return nil, err
	}
	return &AggregateReader{agg: o.agg, close: o.close}, nil
}

// Close declines the offer, or closes its reader: see [AggregateReader.Close].
func (o *AggregateOffer) Close() error {
	o.close(o.agg)
	return nil
}

// An AggregateReader is the client's end of an aggregate stream. Every server of the session may
// deliver bytes of it. It has one consumer: either Read, in order and inside
// [ClientConfig].ReorderWindow, or CopyTo, in the order of arrival and without a window. Nothing
// is requested before the first call.
type AggregateReader struct {
	agg   *streamAggregator
	close func(*streamAggregator)
}

// StreamID returns the stream's ID.
func (r *AggregateReader) StreamID() StreamID { return r.agg.id }

// Size returns the size of the stream in bytes, as the primary states it.
func (r *AggregateReader) Size() int64 { return r.agg.units.Total() }

// Read reads the stream in order; io.EOF marks its end. An [*Error] of code
// [ErrAggregationTimeout] means that no server delivers any more.
func (r *AggregateReader) Read(p []byte) (int, error) { return r.agg.read(p) }

// SetZeros lists bytes that are zeros, whole units. Read returns them without a request for them,
// and they count as present, as those of CopyOptions.Have do. It must be called before the first
// Read, and does not apply to pushed streams.
func (r *AggregateReader) SetZeros(zeros []Range) error { return r.agg.setZeros(zeros) }

// CopyOptions say which bytes CopyTo writes, and which first. The zero value and nil mean all
// bytes, in any order. They do not apply to pushed streams.
type CopyOptions struct {
	// Have lists bytes that the application has already, whole units. They are not requested and
	// not written, but count as present.
	Have []Range
	// Priority is requested before all other bytes; whole units. The zero value means no priority.
	Priority Range
}

// CopyTo writes the stream to w, each byte once, at its offset, in the order of arrival. It
// returns the number of bytes present at the end, those of CopyOptions.Have included. w.WriteAt
// must be safe for concurrent use, as *os.File's is. CopyTo returns early if w fails or ctx ends.
// After its return w is not used any more.
func (r *AggregateReader) CopyTo(ctx context.Context, w io.WriterAt, options *CopyOptions) (int64, error) {
	return r.agg.copyTo(ctx, w, options)
}

// SetLimit sets the offset, a unit boundary, at and beyond which nothing is requested yet,
// because the application could not verify it. Without a limit the whole stream may be requested.
// Once Read or CopyTo has begun, the limit can only rise. SetLimit is safe for concurrent use.
func (r *AggregateReader) SetLimit(end int64) error { return r.agg.setLimit(end) }

// SetReadDeadline sets the time after which Read fails with os.ErrDeadlineExceeded; zero means
// never. CopyTo has a context instead.
func (r *AggregateReader) SetReadDeadline(t time.Time) error {
	r.agg.setReadDeadline(t)
	return nil
}

// Stats returns a snapshot of the stream's progress.
func (r *AggregateReader) Stats() StreamStats { return r.agg.stats() }

// Close ends the stream, releases its servers and waits for its goroutine. A Read or CopyTo that
// blocks returns.
func (r *AggregateReader) Close() error {
	r.close(r.agg)
	return nil
}
