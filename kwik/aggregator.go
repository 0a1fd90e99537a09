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

// A streamAggregator is the client's end of one aggregate stream: it puts what many sources write in its place, for one
// consumer, which reads in order (Read) or takes bytes as they come (copyTo). It owns the stream's scheduler and its
// offset manager.
//
// Nothing is granted before a consumer asks (lazy aggregation). An ordered consumer has a window beyond which nothing
// is granted; an unordered one needs no buffer. Either way a consumer that is slow is felt by QUIC's flow control.
//
// Goroutines: deliver is called by those of the secondary stream handler; run is the aggregator's own, from the first
// demand until it ends, and close waits for it.
type streamAggregator struct {
	id         StreamID
	units      sched.Units
	alignment  uint64
	descriptor []byte
	pushed     bool  // sources write without grants (push_client.go)
	window     int64 // of an ordered consumer, bytes
	limit      int64 // nothing at or beyond it is granted yet
	timeout    time.Duration
	// reorderTimeout bounds the wait for the bytes of a hole in a pushed stream.
	reorderTimeout time.Duration
	recovery       RecoveryPolicy
	pace           *RateLimit // nil for none

	// What the aggregator needs of its session, as functions. tell must not block. hope reports whether a source may
	// still come that is not there now; queue how many bytes of a source's path have counted in all streams, and whether so many
	// secondary streams are open on it that others wait for their turn. ban is called without the lock.
	begin func() // called once, at the first demand, without the lock: attach sources now
	tell  func(sched.Action)
	// sendWindow sends a source of a pushed stream the window in which it may write. It must not block.
	sendWindow func(PathID, pushWindow)
	hope       func() bool
	queue      func(PathID) (counted int64, long bool)
	ban        func(source PathID, off, n int64, cause error)
	blame      func(source PathID, off, n int64, cause error) // tells the primary only; must not block
	done       func()                                         // called once, when the stream needs no source any more
	left       func(source PathID)                            // a source that was to leave has nothing left to do; must not block

	demanded chan struct{}   // closed when a consumer asks for the first time
	ctx      context.Context // ends with the stream
	cancel   context.CancelCauseFunc
	wg       sync.WaitGroup // run

	mu       sync.Mutex
	changed  sync.Cond // guarded state changed in a way that a waiting consumer cares for
	sched    *sched.Scheduler
	offsets  *offsetManager
	sources  map[PathID]*source
	opened   bool      // open was called
	prove    ProofFunc // nil accepts all bytes
	mode     consumerMode
	w        io.WriterAt    // of copyTo
	writing  int            // deliveries that write to w
	replaces int            // deliveries that are about to write over others in w
	returned bool           // copyTo is over: w must not be written to
	arrived  *reorderBuffer // ordered: what waits for the reader
	deadline time.Time      // of Read
	alarm    *time.Timer    // wakes Read at the deadline
	err      error          // why the stream ended; io.EOF never
	released bool           // done was called
	// idle is since when nothing came though something is asked for; zero while something does. That sources are there does not
	// count, for one may come back again and again and bring nothing. A source that pushes owes nothing: there it counts.
	idle      time.Time
	lastHeard int64
	others    int64 // bytes of other streams that counted while sources of this one waited for their turn

	// Of a pushed stream: how far it was when it last got on, and when that was.
	lastNext int64
	waiting  time.Time
}

type consumerMode int

const (
	consumerNone consumerMode = iota
	consumerOrdered
	consumerUnordered
)

func newStreamAggregator(ctx context.Context, id StreamID, u sched.Units, alignment uint64, descriptor []byte, c *ClientConfig) *streamAggregator {
	a := &streamAggregator{
		id: id, units: u, alignment: alignment, descriptor: descriptor, limit: u.Total(),
		window: c.ReorderWindow, timeout: c.SourceTimeout, reorderTimeout: c.ReorderTimeout, recovery: c.Recovery, pace: c.RateLimit,
		offsets: newOffsetManager(ConflictResolutionFirstWins),
		sched:   sched.New(u, u.Total()),
		sources: make(map[PathID]*source),
		arrived: newReorderBuffer(), demanded: make(chan struct{}),
		queue: func(PathID) (int64, bool) { return 0, false },
	}
	a.changed.L = &a.mu
	a.ctx, a.cancel = context.WithCancelCause(ctx)
	return a
}

// expect says how many sources are on their way and when not to count on them any more.
func (a *streamAggregator) expect(n int, until time.Time) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.sched.Expect(n, until, time.Now())
	a.dispatch()
}

// dispatch sends what the scheduler decided. Called with the lock held; tell only queues.
func (a *streamAggregator) dispatch() {
	for _, action := range a.sched.Actions() {
		a.tell(action)
	}
}

// run lets time pass for the scheduler until the stream ends.
func (a *streamAggregator) run() {
	ticker := time.NewTicker(sched.TickInterval)
	defer ticker.Stop()
	for {
		select {
		case <-a.ctx.Done():
			a.fail(context.Cause(a.ctx))
			return
		case now := <-ticker.C:
			if a.tick(now) {
				return
			}
		}
	}
}

// tick passes observations and the time to the scheduler and reports whether the stream has ended.
func (a *streamAggregator) tick(now time.Time) (ended bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.err != nil || a.released {
		return true
	}
	for id, s := range a.sources {
		if !s.gone {
			a.sched.Observe(sched.SourceID(id), s.received.Load(), s.rtt(), now)
			counted, long := a.queue(id)
			if long {
				a.others += max(counted-s.passed, 0)
			}
			s.passed = counted
			if s.placing.Load() > 0 {
				a.sched.ResetStallTimer(sched.SourceID(id), now)
			}
		}
	}
	a.sched.Tick(now)
	for id, s := range a.sources {
		s.stalled = a.sched.Stalled(sched.SourceID(id))
	}
	for _, drained := range a.sched.Drained() {
		id := PathID(drained)
		a.sources[id].gone, a.sources[id].reason = true, errSourceLeft
		a.sched.RemoveSource(drained, now)
		a.left(id)
	}
	a.dispatch()
	if a.overdue(now) {
		a.failLocked(errorf(ErrAggregationTimeout, "nobody fills the hole").onStream(a.id, a.offsets.next))
		return true
	}
	all, live := a.sched.Sources()
	heard := a.heard()
	if fine := heard != a.lastHeard || !a.sched.Wanting(); (a.pushed && live > 0) || (!a.pushed && fine) {
		a.lastHeard, a.idle = heard, time.Time{}
		return false
	}
	if a.idle.IsZero() {
		a.idle = now
	}
	if nobody := all == 0 || !a.pushed && !a.sched.Deliverable(); (nobody && !a.hope()) || now.Sub(a.idle) >= a.timeout {
		a.failLocked(a.noSource())
		return true
	}
	return false
}

// heard is a number that changes when payload arrives, is being placed, or counts, or when that of other streams does for which a source
// of this one has to wait. Called with the lock held.
func (a *streamAggregator) heard() int64 {
	sum := a.sched.Had() + a.others
	for _, s := range a.sources {
		if s.barren >= maxStrikes && s.accepted == s.before {
			continue // what it brings leads to nothing
		}
		sum += s.earlier + s.received.Load()
		if s.placing.Load() > 0 {
			return -1 - a.lastHeard // which is another than the last one
		}
	}
	return sum
}

// noSource says why there is nobody left to deliver. Called with the lock held.
func (a *streamAggregator) noSource() error {
	var causes []error
	for _, s := range a.sources {
		switch {
		case s.gone && s.reason != nil:
			causes = append(causes, s.reason)
		case s.lacks != nil:
			causes = append(causes, s.lacks)
		}
	}
	err := errorf(ErrAggregationTimeout, "no server delivers any more").onStream(a.id, a.offsets.next)
	err.Err = errors.Join(causes...)
	return err
}

// errSourceLeft is why a source is gone that was to leave and did.
var errSourceLeft = errors.New("kwik: the server left")

// errSourceGone is what a source gets that still answers grants of a stream that it is out of: no fault, for the two cross.
var errSourceGone = errors.New("kwik: the source is out of this stream")

// extent checks that a grant is this source's and returns its range: where it ends now, and where it did when it was first granted.
func (a *streamAggregator) extent(id PathID, grant uint64) (s *source, start, end, granted int64, err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	start, end, granted, ok := a.sched.Extent(sched.SourceID(id), grant)
	if s := a.sources[id]; !ok && s != nil && s.gone {
		return nil, 0, 0, 0, errSourceGone
	}
	if !ok {
		return nil, 0, 0, 0, errorf(ErrMetadataProtocolViolation, "grant %d is not this source's", grant).onPath(id).onStream(a.id, -1)
	}
	return a.sources[id], start, end, granted, nil
}

// deliver takes the payload of a DATA frame, whole units from off on, under a grant; it takes the block over. It returns
// an error of code ErrSourceRefuted if the bytes fail their proof, and errStreamEnded or errSourceGone if nobody wants them.
func (a *streamAggregator) deliver(s *source, grant uint64, off int64, b *block) error {
	defer b.release()
	s.placing.Add(1)
	defer s.placing.Add(-1)
	end := off + int64(len(b.data))

	a.mu.Lock()
	prove, wanted := a.prove, a.pushed || !a.sched.Has(off, end)
	a.mu.Unlock()
	if prove != nil && wanted { // what is had already was proved already
		if err := prove(s.id.server(), off, b.data); err != nil {
			return a.refute(s, grant, off, end, err)
		}
	}

	a.mu.Lock()
	defer a.mu.Unlock()
	switch {
	case a.err != nil:
		return errStreamEnded
	case s.gone:
		a.offsets.refuse(off, end)
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
	a.sched.Accept(grant, end, fresh, time.Now())
	a.dispatch()
	if a.sched.Done() {
		a.releaseLocked()
	}
	return nil
}

// place puts the payload of b, which begins at off, where it belongs: what is fresh, and what replaces bytes that another source
// of a pushed stream delivered before. Called with the lock held, which it gives up while it writes.
func (a *streamAggregator) place(b *block, off int64, fresh, replaced []rangeset.Range) error {
	if a.w == nil { // the reader sees the bytes and that they count in one step
		for _, r := range fresh {
			a.arrived.put(b, r.Start, b.data[r.Start-off:r.End-off])
		}
		for _, r := range replaced {
			a.arrived.overwrite(r, b.data[r.Start-off:r.End-off])
		}
		return nil
	}
	if len(replaced) > 0 { // the older bytes must not land on the newer ones
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

// refute drops bytes that failed their proof and does with their source what the recovery policy says. It returns the error
// that ends the secondary stream, nil if it goes on.
func (a *streamAggregator) refute(s *source, grant uint64, off, end int64, cause error) error {
	refuted := errorf(ErrSourceRefuted, "bytes [%d, %d) failed their proof: %w", off, end, cause).onPath(s.id).onStream(a.id, off)
	a.mu.Lock()
	a.offsets.refuse(off, end)
	s.refuted++
	strategy := a.recovery.Aggregation
	if s.refuted >= maxRefutations && strategy != FallbackCloseStream {
		strategy = FallbackIsolateSource
	}
	if strategy == FallbackIsolateSource {
		a.mu.Unlock()
		a.ban(s.id, off, end-off, cause)
		return refuted
	}
	defer a.mu.Unlock()
	if a.err != nil {
		return errStreamEnded // another delivery failed at the same time, and has been told of
	}
	a.blame(s.id, off, end-off, cause)
	switch again := strategy == FallbackRequestRetransmission; {
	case strategy == FallbackCloseStream:
		a.failLocked(refuted)
		return streamFault{refuted}
	case a.pushed && again: // nothing is granted here: the source hears of it and may push the bytes again
		a.tellWindow(s, true, 0)
		return streamFault{refuted}
	default:
		a.sched.Reject(grant, off, end, again, time.Now())
		a.dispatch()
		return nil
	}
}

// write puts ranges of p, which begins at off, into the unordered consumer's place. Called with the lock held, which it gives up
// meanwhile.
func (a *streamAggregator) write(p []byte, off int64, ranges []rangeset.Range) error {
	w := a.w
	a.writing++
	a.mu.Unlock()
	var err error
	for _, r := range ranges {
		if err == nil {
			_, err = w.WriteAt(p[r.Start-off:r.End-off], r.Start)
		}
	}
	a.mu.Lock()
	a.writing--
	a.changed.Broadcast()
	return err
}

var errShortStream = errors.New("its secondary stream ended early")

// ended says that the secondary stream of a grant is over.
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

// faulted says that a secondary stream broke the protocol before it was admitted. The grant that it named, 0 for none, is not
// answered by it, so it is granted anew.
func (a *streamAggregator) faulted(id PathID, grant uint64, cause error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if s := a.sources[id]; s != nil && !s.gone && violation(cause, id) != nil {
		a.sched.CloseGrant(grant, time.Now())
		a.strike(s, cause)
		a.dispatch()
	}
}

// releaseLocked lets the sources go: nothing is missing any more, or nobody wants it. Called with the lock held.
func (a *streamAggregator) releaseLocked() {
	if !a.released {
		a.released = true
		a.done()
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
		return // all is here; the consumer may have it
	}
	a.err = err
	a.arrived.drop()
	a.releaseLocked()
	a.cancel(err)
	a.changed.Broadcast()
}

var (
	errStreamClosed error = closedError("kwik: stream closed")
	// errStreamEnded is what a delivery to a stream that has ended gets, whatever ended it: that is no fault of its source.
	errStreamEnded = errors.New("kwik: the stream has ended")
)

// close ends the stream from this side and waits for its goroutine.
func (a *streamAggregator) close() {
	a.fail(errStreamClosed)
	a.cancel(errStreamClosed)
	a.wg.Wait()
}
