package kwik

import (
	"context"
	"sync/atomic"

	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/qlog"
	"github.com/quic-go/quic-go/qlogwriter"
)

// Outcomes of ECN validation.
const (
	ecnCapable = "capable"
	ecnFailed  = "failed"
	ecnTesting = "testing" // not known yet: too little was sent
)

// An ecnWatch is the trace of a connection. It records the outcome of ECN validation, which quic-go
// reports nowhere else.
type ecnWatch struct {
	next  qlogwriter.Trace // may be nil
	state atomic.Value     // qlog.ECNState
}

// watchECN makes q attach an ecnWatch to each of its connections. A Tracer that q has already stays
// in use.
func watchECN(q *quic.Config) {
	next := q.Tracer
	q.Tracer = func(ctx context.Context, isClient bool, id quic.ConnectionID) qlogwriter.Trace {
		w := &ecnWatch{}
		if next != nil {
			w.next = next(ctx, isClient, id)
		}
		return w
	}
}

func (w *ecnWatch) result() string {
	switch w.state.Load() {
	case qlog.ECNStateCapable:
		return ecnCapable
	case qlog.ECNStateFailed:
		return ecnFailed
	}
	return ecnTesting
}

func (w *ecnWatch) AddProducer() qlogwriter.Recorder {
	r := &ecnRecorder{watch: w}
	if w.next != nil {
		r.next = w.next.AddProducer()
	}
	return r
}

type ecnRecorder struct {
	watch *ecnWatch
	next  qlogwriter.Recorder // may be nil
}

func (r *ecnRecorder) RecordEvent(e qlogwriter.Event) {
	if u, ok := e.(qlog.ECNStateUpdated); ok {
		r.watch.state.Store(u.State)
	}
	if r.next != nil {
		r.next.RecordEvent(e)
	}
}

func (r *ecnRecorder) Close() error {
	if r.next == nil {
		return nil
	}
	return r.next.Close()
}
