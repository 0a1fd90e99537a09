package kwik

import (
	"context"
	"errors"
	"io"
	"sync"
	"time"

	"kwikcp/internal/rangeset"
	"kwikcp/kwik/internal/sched"
)

// A streamAggregator is the client's end of one aggregate stream. It places the bytes of many
// sources for one consumer, which reads them in order (Read) or takes them in any order (copyTo).
// It owns the stream's scheduler and its offset manager.
//
// Nothing is granted before a consumer demands the stream (lazy aggregation). An ordered consumer
// has a window, and nothing beyond it is granted; an unordered one needs no buffer. In both cases
// QUIC's flow control slows the sources down if the consumer is slow.
//
// Goroutines: those of the secondary stream handler call deliver. The aggregator owns run, which
// starts at the first demand, and one for each path of an external source. They end with the
// stream; close waits for them.
type streamAggregator struct {
	id         StreamID
	units      sched.Units
	alignment  uint64
	descriptor []byte
	pushed     bool  // sources write without grants (push_client.go)
	window     int64 // of an ordered consumer, bytes
	limit      int64 // nothing at or beyond it is granted yet
	timeout    time.Duration
	outage     time.Duration // the time-out while no server answers
	// reorderTimeout bounds the wait for the bytes of a hole in a pushed stream.
	reorderTimeout time.Duration
	recovery       RecoveryPolicy
	pace           rateShare // of all sources

	// The following functions are the aggregator's only access to its session.

	// attachSources attaches the sources. It is called once, at the first demand, without the
	// lock.
	attachSources func()
	// sendAction sends a decision of the scheduler to its source. It must not block.
	sendAction func(sched.Action)
	// sendWindow sends a source of a pushed stream the window in which it may write. It must not
	// block.
	sendWindow func(PathID, pushWindow)
	// expectsSource reports whether a further source may still be attached.
	expectsSource func() bool
	// isAnswering reports whether a packet of any source has just arrived.
	isAnswering func() bool
	// pathLoad returns how many bytes of a path were accepted in all streams. streamsWait is true
	// if so many secondary streams of the path are open that others wait for their turn.
	pathLoad func(PathID) (accepted int64, streamsWait bool)
	// ban bans a source that delivered wrong bytes. It is called without the lock.
	ban func(source PathID, off, n int64, cause error)
	// reportRejected reports wrong bytes to the primary, and does nothing else. It must not
	// block.
	reportRejected func(source PathID, off, n int64, cause error)
	// done is called once, when the stream needs no source any more.
	done func()
	// panicked ends the session after a panic. It is called without the lock.
	panicked func(*PanicError)
	// sourceDrained is called when a draining source has finished. It must not block.
	sourceDrained func(source PathID)

	demanded chan struct{}   // closed at the first demand
	ctx      context.Context // ends with the stream
	cancel   context.CancelCauseFunc
	wg       sync.WaitGroup // run, and those of external paths

	mu      sync.Mutex // guards the fields below
	changed sync.Cond  // signals a change for which a consumer may wait
	sched   *sched.Scheduler
	offsets *offsetManager
	sources map[PathID]*source
	// externals are the external sources, whose paths are in sources while they are attached.
	externals []*attachedExternal
	opened    bool      // open was called
	prove     ProofFunc // nil accepts all bytes
	mode      consumerMode
	w         io.WriterAt    // of copyTo
	writing   int            // deliveries that write to w
	replaces  int            // deliveries that are about to overwrite bytes in w
	returned  bool           // copyTo has returned: w must not be written to
	arrived   *reorderBuffer // ordered: bytes that were not read yet
	zeros     rangeset.Set   // ordered: bytes that are zeros
	deadline  time.Time      // of Read
	alarm     *time.Timer    // wakes Read at the deadline
	err       error          // why the stream ended; never io.EOF
	released  bool           // no source is needed any more
	told      bool           // done was called
	proving   int            // deliveries that are verified or placed
	liveness  liveness

	// The wait of a pushed stream for a hole (overdue): where it began, and when.
	lastNext int64
	waiting  time.Time
}

type consumerMode int

const (
	consumerNone consumerMode = iota
	consumerOrdered
	consumerUnordered
)

func newStreamAggregator(
	ctx context.Context, id StreamID, u sched.Units, alignment uint64, descriptor []byte, c *ClientConfig,
) *streamAggregator {
	a := &streamAggregator{
		id: id, units: u, alignment: alignment, descriptor: descriptor, limit: u.Total(),
		window: c.ReorderWindow, timeout: c.SourceTimeout, outage: c.OutageTimeout, reorderTimeout: c.ReorderTimeout,
		recovery: c.Recovery, pace: c.RateLimit.share(),
		offsets:     newOffsetManager(ConflictResolutionFirstWins),
		sched:       sched.New(u, u.Total()),
		sources:     make(map[PathID]*source),
		arrived:     newReorderBuffer(),
		demanded:    make(chan struct{}),
		isAnswering: func() bool { return true },
		pathLoad:    func(PathID) (int64, bool) { return 0, false },
	}
	a.changed.L = &a.mu
	a.ctx, a.cancel = context.WithCancelCause(ctx)
	return a
}

// expect tells the scheduler that n sources are being connected. Until the given time a small
// stream keeps their share for them.
func (a *streamAggregator) expect(n int, until time.Time) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.sched.Expect(n, until, time.Now())
	a.dispatch()
}

// dispatch sends the decisions of the scheduler. Called with the lock held.
func (a *streamAggregator) dispatch() {
	for _, action := range a.sched.Actions() {
		if p := a.externalPath(PathID(action.Source)); p != nil {
			p.act(action)
			continue
		}
		a.sendAction(action)
	}
}

// errSourceDrained is why a source that drained is gone.
var errSourceDrained = errors.New("kwik: the server left")

// errSourceGone refuses bytes of a source that was removed from the stream. They may have been in
// flight, so they are no fault.
var errSourceGone = errors.New("kwik: the source was removed from this stream")

// extent returns the extent of a grant, and the end with which it was granted first. It returns
// an error if the grant does not belong to the source.
func (a *streamAggregator) extent(id PathID, grant uint64) (s *source, start, end, granted int64, err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	start, end, granted, ok := a.sched.Extent(sched.SourceID(id), grant)
	if s := a.sources[id]; !ok && s != nil && s.gone {
		return nil, 0, 0, 0, errSourceGone
	}
	if !ok {
		err := errorf(ErrMetadataProtocolViolation, "grant %d is not this source's", grant)
		return nil, 0, 0, 0, err.onPath(id).onStream(a.id, -1)
	}
	return a.sources[id], start, end, granted, nil
}

// deliver verifies and places the payload of a DATA frame: whole units from off on, under a
// grant. It takes over the caller's hold of the block. It returns an error of code
// ErrSourceRefuted if the bytes are wrong and the secondary stream must end. It returns
// errStreamEnded or errSourceGone if the bytes are not needed.
func (a *streamAggregator) deliver(s *source, grant uint64, off int64, b *block) error {
	defer b.release()
	s.placing.Add(1)
	defer s.placing.Add(-1)
	end := off + int64(len(b.data))

	a.mu.Lock()
	prove, wanted := a.prove, a.pushed || !a.sched.Has(off, end)
	mustProve := prove != nil && wanted // bytes that are had were verified before
	if mustProve {
		a.proving++
	}
	a.mu.Unlock()
	if mustProve {
		defer a.proved()
		err := a.callOut(func() error { return prove(s.id.server(), off, b.data) })
		if isPanic(err) {
			return errStreamEnded // no fault of the source
		}
		if err != nil {
			return a.reject(s, grant, off, end, err)
		}
	}

	a.mu.Lock()
	defer a.mu.Unlock()
	switch {
	case a.err != nil:
		return errStreamEnded
	case s.gone:
		a.offsets.discard(off, end)
		return errSourceGone
	}
	fresh, replaced, err := a.offsets.claim(s.id, s.primary, off, end)
	if err != nil {
		return streamFault{err}
	}
	if err := a.place(b, off, fresh, replaced); err != nil {
		a.failLocked(err)
		return errStreamEnded
	}
	a.changed.Broadcast()
	for _, r := range fresh {
		s.accepted += r.End - r.Start
		s.counted.Add(r.End - r.Start)
		s.strikes = 0
	}
	if s.external != nil && len(fresh) > 0 {
		s.external.delivered()
	}
	a.sched.Accept(grant, end, fresh, time.Now())
	a.dispatch()
	if a.sched.Done() {
		a.releaseLocked()
	}
	return nil
}

// place writes ranges of b, which begins at off, to the consumer. The fresh ranges are new. The
// replaced ranges overwrite bytes that another source of a pushed stream delivered before. Called
// with the lock held; it releases the lock while it writes.
func (a *streamAggregator) place(b *block, off int64, fresh, replaced []rangeset.Range) error {
	if a.w == nil { // the lock is held until the bytes are accepted, so that a reader sees both or neither
		for _, r := range fresh {
			a.arrived.put(b, r.Start, b.data[r.Start-off:r.End-off])
		}
		for _, r := range replaced {
			a.arrived.overwrite(r, b.data[r.Start-off:r.End-off])
		}
		return nil
	}
	if len(replaced) > 0 { // a write of the older bytes must not land after that of the newer ones
		for a.replaces++; a.writing > 0; {
			a.changed.Wait()
		}
		a.replaces--
		if !a.returned {
			fresh = append(replaced, fresh...)
		}
	}
	return a.write(b.data, off, fresh)
}

// reject drops bytes that are wrong and applies the recovery policy to their source. It returns
// the error that ends the secondary stream, nil if the stream continues.
func (a *streamAggregator) reject(s *source, grant uint64, off, end int64, cause error) error {
	rejected := errorf(ErrSourceRefuted, "bytes [%d, %d) failed their proof: %w", off, end, cause)
	rejected = rejected.onPath(s.id).onStream(a.id, off)
	a.mu.Lock()
	a.offsets.discard(off, end)
	s.rejected++
	strategy := a.recovery.Aggregation
	if s.rejected >= maxRejections && strategy != FallbackCloseStream {
		strategy = FallbackIsolateSource
	}
	if strategy == FallbackIsolateSource {
		a.mu.Unlock()
		if s.external != nil {
			a.banExternal(s.external, cause)
		} else {
			a.ban(s.id, off, end-off, cause)
		}
		return rejected
	}
	defer a.mu.Unlock()
	if a.err != nil {
		return errStreamEnded // another delivery failed at the same time and was reported
	}
	if s.external == nil {
		a.reportRejected(s.id, off, end-off, cause)
	}
	retry := strategy == FallbackRequestRetransmission
	switch {
	case strategy == FallbackCloseStream:
		a.failLocked(rejected)
		return streamFault{rejected}
	case a.pushed && retry: // without grants; the window tells the source to push the bytes again
		a.tellWindow(s, true, 0)
		return streamFault{rejected}
	default:
		a.sched.Reject(grant, off, end, retry, time.Now())
		a.dispatch()
		return nil
	}
}

// write writes ranges of p, which begins at off, to the writer of copyTo. Called with the lock
// held; it releases the lock while it writes.
func (a *streamAggregator) write(p []byte, off int64, ranges []rangeset.Range) error {
	w := a.w
	a.writing++
	a.mu.Unlock()
	var err error
	for _, r := range ranges {
		if err == nil {
			err = a.callOut(func() error {
				_, err := w.WriteAt(p[r.Start-off:r.End-off], r.Start)
				return err
			})
		}
	}
	a.mu.Lock()
	a.writing--
	a.changed.Broadcast()
	return err
}

// callOut calls a function of the application and returns its error. A panic ends the session. It
// is called without the lock.
func (a *streamAggregator) callOut(f func() error) error {
	err := Contain(f)
	if e, ok := errors.AsType[*PanicError](err); ok {
		a.panicked(e)
	}
	return err
}

// isPanic reports whether the error of callOut is a panic.
func isPanic(err error) bool {
	_, ok := errors.AsType[*PanicError](err)
	return ok
}

var errShortStream = errors.New("its secondary stream ended early")

// ended handles the end of a grant's secondary stream. It is a fault of the source if bytes are
// undelivered; cause is nil if the source gave no reason.
func (a *streamAggregator) ended(s *source, grant uint64, cause error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	undelivered := a.sched.CloseGrant(grant, time.Now())
	if undelivered > 0 && !s.gone {
		if cause == nil {
			cause = errShortStream
		}
		a.strike(s, cause)
	}
	a.dispatch()
}

// faulted handles a secondary stream that violated the protocol before it was admitted. It does
// not answer the grant that it named, 0 for none, so the grant's bytes are granted again.
func (a *streamAggregator) faulted(id PathID, grant uint64, cause error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if s := a.sources[id]; s != nil && !s.gone && violation(cause, id) != nil {
		a.sched.CloseGrant(grant, time.Now())
		a.strike(s, cause)
		a.dispatch()
	}
}

// releaseLocked releases the sources, because no byte is missing or none is wanted any more. If
// the stream is complete it waits for the deliveries that are still verified. The primary takes a
// report on wrong bytes only until the stream is released. Called with the lock held.
func (a *streamAggregator) releaseLocked() {
	a.released = true
	mayReport := a.proving > 0 && a.sched.Done()
	if !a.told && !mayReport {
		a.told = true
		a.done()
	}
}

// proved ends a delivery that was verified.
func (a *streamAggregator) proved() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.proving--
	if a.released {
		a.releaseLocked()
	}
}

// fail ends the stream with err, unless it has ended.
func (a *streamAggregator) fail(err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.failLocked(err)
}

func (a *streamAggregator) failLocked(err error) {
	if a.err != nil {
		return
	}
	if a.sched.Done() && !errors.Is(err, errStreamClosed) {
		return // the stream is complete, and the consumer may still read it
	}
	a.err = err
	a.arrived.release()
	a.releaseLocked()
	a.cancel(err)
	a.changed.Broadcast()
}

var (
	errStreamClosed error = closedError("kwik: stream closed")
	// errStreamEnded refuses a delivery to a stream that has ended. It is no fault of the source.
	errStreamEnded = errors.New("kwik: the stream has ended")
)

// close ends the stream and waits for its goroutine.
func (a *streamAggregator) close() {
	a.fail(errStreamClosed)
	a.cancel(errStreamClosed)
	a.wg.Wait()
}
