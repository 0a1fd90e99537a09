package kwik

import (
	"context"

	"kwikcp/kwik/internal/sched"
)

// MaxLocalUnit bounds the alignment of a local stream, in bytes.
const MaxLocalUnit = sched.MaxLocalUnit

// NewLocalStream returns an aggregate stream without a session. It has size bytes in units of
// alignment bytes. All its sources are external: see [AggregateReader.AddExternal]. It ends with
// ErrAggregationTimeout when none of them will deliver any more, or when nothing has arrived for
// OutageTimeout. verify decides which bytes count, as with [AggregateOffer.Open]. The stream ends
// with ctx. config may be nil; only its fields about streams and rates are used.
func NewLocalStream(
	ctx context.Context, size, alignment int64, verify ProofFunc, config *ClientConfig,
) (*AggregateReader, error) {
	config, err := config.effective()
	if err != nil {
		return nil, err
	}
	u, err := sched.NewLocalUnits(uint64(size), uint64(alignment))
	if err != nil {
		return nil, err
	}
	a := newStreamAggregator(ctx, firstAggregateStreamID, u, uint64(alignment), nil, config)
	a.attachSources = func() {}
	a.sendAction = func(sched.Action) {}
	a.expectsSource = func() bool { return false }
	a.isAnswering = func() bool { return false } // an external source is not, while it is tried again
	a.done = func() {}
	a.panicked = func(e *PanicError) { a.fail(e) }
	if err := a.open(verify); err != nil {
		return nil, err
	}
	return &AggregateReader{agg: a, close: func(a *streamAggregator) { a.close() }}, nil
}
