package kwik

import (
	"context"
	"errors"
	"io"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"kwikcp/internal/rangeset"
)

// A ProofFunc reports whether bytes of an aggregate stream are right: p, from offset off, is one or more whole units
// that one source delivered. An error refuses them: they are dropped, the source is banned for the session, the primary
// is told, and the bytes are fetched from another source. It is called by several goroutines at once.
type ProofFunc func(source PathID, off int64, p []byte) error

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
	units      units
	alignment  uint64
	descriptor []byte
	pushed     bool  // sources write without grants (push_client.go)
	window     int64 // of an ordered consumer, bytes
	timeout    time.Duration
	// reorderTimeout bounds the wait for the bytes of a hole in a pushed stream.
	reorderTimeout time.Duration
	recovery       RecoveryPolicy

	// What the aggregator needs of its session, as functions. tell must not block. hope reports whether a source may
	// still come that is not there now. ban is called without the lock.
	begin func() // called once, at the first demand, without the lock: attach sources now
	tell  func(schedAction)
	hope  func() bool
	ban   func(source PathID, off, n int64, cause error)
	blame func(source PathID, off, n int64, cause error) // tells the primary only; must not block
	done  func()                                         // called once, when the stream needs no source any more

	ctx    context.Context // ends with the stream
	cancel context.CancelCauseFunc
	wg     sync.WaitGroup // run

	mu       sync.Mutex
	changed  sync.Cond // guarded state changed in a way that a waiting consumer cares for
	sched    *scheduler
	offsets  *offsetManager
	sources  map[PathID]*source
	prove    ProofFunc
	mode     consumerMode
	w        io.WriterAt       // of copyTo
	writing  int               // deliveries between claim and accept
	arrived  map[int64]arrival // ordered: what waits for the reader, by offset
	deadline time.Time         // of Read
	alarm    *time.Timer       // wakes Read at the deadline
	err      error             // why the stream ended; io.EOF never
	released bool              // done was called
	idle     time.Time         // since when no source is alive; zero if one is

	// Of a pushed stream: the window's end as the sources know it, and since when the next expected offset has been what it is.
	toldLimit, lastNext int64
	waiting             time.Time
}

type consumerMode int

const (
	consumerNone consumerMode = iota
	consumerOrdered
	consumerUnordered
)

// An arrival is a run of bytes in a block that the ordered reader has not reached.
type arrival struct {
	b *block
	p []byte
}

// A source is one path's part in one aggregate stream.
type source struct {
	id       PathID
	primary  bool
	rtt      func() time.Duration
	received atomic.Int64 // payload bytes that arrived
	placing  atomic.Int32 // deliveries under way: what the source does meanwhile is not its fault
	accepted int64        // bytes that counted; guarded by the aggregator's lock
	strikes  int          // extents given up without cause, in a row; guarded likewise
	refuted  int          // deliveries that failed their proof; guarded likewise
	gone     bool         // guarded likewise
	stalled  bool         // guarded likewise
	reason   error        // why it is gone; guarded likewise
}

// maxStrikes is how many extents in a row a source may give up before it is done without.
const maxStrikes = 3

func newStreamAggregator(ctx context.Context, id StreamID, u units, alignment uint64, descriptor []byte, c *Config) *streamAggregator {
	a := &streamAggregator{
		id: id, units: u, alignment: alignment, descriptor: descriptor,
		window: c.ReorderWindow, timeout: c.SourceTimeout, reorderTimeout: c.ReorderTimeout, recovery: c.Recovery,
		offsets: newOffsetManager(ConflictResolutionFirstWins),
		sched:   newScheduler(u, u.total),
		sources: make(map[PathID]*source),
		arrived: make(map[int64]arrival),
	}
	a.changed.L = &a.mu
	a.ctx, a.cancel = context.WithCancelCause(ctx)
	return a
}

// attach makes a path a source. The caller has sent the attachment before, so that grants follow it.
func (a *streamAggregator) attach(id PathID, rtt func() time.Duration) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if old := a.sources[id]; a.err != nil || (old != nil && !old.gone) {
		return
	}
	s := &source{id: id, primary: id == primaryPathID, rtt: rtt}
	if old := a.sources[id]; old != nil {
		s.accepted = old.accepted // the same server again
		s.received.Store(0)
	}
	a.sources[id] = s
	a.sched.addPath(id, rtt(), time.Now())
	a.dispatch()
	if a.pushed {
		a.tellWindow(id, false)
	}
}

// detach takes a path out: it ended, or it cannot serve the stream.
func (a *streamAggregator) detach(id PathID, reason error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if s := a.sources[id]; s != nil && !s.gone {
		s.gone, s.reason = true, reason
		a.sched.removePath(id, time.Now())
		a.dispatch()
	}
}

// expect says how many sources are on their way and when not to count on them any more.
func (a *streamAggregator) expect(n int, until time.Time) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.sched.expect(n, until, time.Now())
	a.dispatch()
}

// dispatch sends what the scheduler decided. Called with the lock held; tell only queues.
func (a *streamAggregator) dispatch() {
	for _, action := range a.sched.take() {
		a.tell(action)
	}
}

// setProof sets the proof; it must precede the first demand.
func (a *streamAggregator) setProof(prove ProofFunc) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.prove = prove
}

var errTwoConsumers = errors.New("kwik: an aggregate stream has one consumer: Read or CopyTo, not both")

// demand starts the flow for a consumer of the given mode. Called with the lock held, which it gives up meanwhile.
func (a *streamAggregator) demand(mode consumerMode) error {
	if a.err != nil {
		return a.err
	}
	if a.mode != consumerNone {
		if a.mode != mode || mode == consumerUnordered {
			return errTwoConsumers
		}
		return nil
	}
	a.mode = mode
	if mode == consumerOrdered {
		a.sched.limit = a.units.floor(a.window)
	}
	a.mu.Unlock()
	a.begin()
	a.mu.Lock()
	if a.err != nil {
		return a.err
	}
	a.wg.Go(a.run)
	if !a.pushed {
		a.sched.start(time.Now())
		a.dispatch()
	}
	return nil
}

// run lets time pass for the scheduler until the stream ends.
func (a *streamAggregator) run() {
	ticker := time.NewTicker(tickInterval)
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
			a.sched.observe(id, s.received.Load(), s.rtt(), now)
			if s.placing.Load() > 0 {
				a.sched.excuse(id, now)
			}
		}
	}
	a.sched.tick(now)
	for _, p := range a.sched.paths {
		a.sources[p.id].stalled = p.stalled
	}
	a.dispatch()
	if a.overdue(now) {
		a.failLocked(errorf(ErrAggregationTimeout, "nobody fills the hole").onStream(a.id, a.offsets.next))
		return true
	}
	if _, live := a.sched.sources(); live > 0 {
		a.idle = time.Time{}
		return false
	}
	if a.idle.IsZero() {
		a.idle = now
	}
	all, _ := a.sched.sources()
	if (all == 0 && !a.hope()) || now.Sub(a.idle) >= a.timeout {
		a.failLocked(a.noSource())
		return true
	}
	return false
}

// noSource says why there is nobody left to deliver. Called with the lock held.
func (a *streamAggregator) noSource() error {
	var causes []error
	for _, s := range a.sources {
		if s.gone && s.reason != nil {
			causes = append(causes, s.reason)
		}
	}
	err := errorf(ErrAggregationTimeout, "no server delivers any more").onStream(a.id, a.offsets.next)
	err.Err = errors.Join(causes...)
	return err
}

// errSourceGone is what a source gets that still answers grants of a stream that it is out of: no fault, for the two cross.
var errSourceGone = errors.New("kwik: the source is out of this stream")

// extent checks that a grant is this source's and returns its range as it was first granted.
func (a *streamAggregator) extent(id PathID, grant uint64) (s *source, start, end int64, err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	start, end, ok := a.sched.extent(id, grant)
	if s := a.sources[id]; !ok && s != nil && s.gone {
		return nil, 0, 0, errSourceGone
	}
	if !ok {
		return nil, 0, 0, errorf(ErrMetadataProtocolViolation, "grant %d is not this source's", grant).onPath(id).onStream(a.id, -1)
	}
	return a.sources[id], start, end, nil
}

// deliver takes the payload of a DATA frame, whole units from off on, under a grant; it takes the block over. It returns
// an error of code ErrSourceRefuted if the bytes fail their proof, and the stream's error if that has ended.
func (a *streamAggregator) deliver(s *source, grant uint64, off int64, b *block) error {
	defer b.release()
	s.placing.Add(1)
	defer s.placing.Add(-1)
	end := off + int64(len(b.data))

	a.mu.Lock()
	prove, wanted := a.prove, a.pushed || a.sched.missing(off, end)
	a.mu.Unlock()
	if prove != nil && wanted { // what is had already was proved already
		if err := prove(s.id, off, b.data); err != nil {
			return a.refute(s, grant, off, end, err)
		}
	}

	a.mu.Lock()
	defer a.mu.Unlock()
	if a.err != nil {
		return a.err
	}
	fresh, replaced, err := a.offsets.claim(s.id, s.primary, off, end)
	if err != nil {
		return streamFault{err}
	}
	if err := a.replace(b.data, off, replaced); err != nil {
		a.failLocked(err)
		return err
	}
	if a.w == nil { // the reader sees the bytes and that they count in one step
		for _, r := range fresh {
			b.hold()
			a.arrived[r.Start] = arrival{b: b, p: b.data[r.Start-off : r.End-off]}
		}
	} else if err := a.write(b.data, off, fresh); err != nil {
		a.failLocked(err)
		return err
	}
	a.changed.Broadcast()
	for _, r := range fresh {
		s.accepted += r.End - r.Start
		s.strikes = 0
	}
	a.sched.accept(grant, end, fresh, time.Now())
	a.dispatch()
	if a.sched.done() {
		a.releaseLocked()
	}
	return nil
}

// replace puts bytes of a pushed stream over others that another source delivered before, as the conflict strategy decided: in
// the blocks that wait for the reader, or once more at their place. Called with the lock held.
func (a *streamAggregator) replace(p []byte, off int64, ranges []rangeset.Range) error {
	for a.w != nil && len(ranges) > 0 && a.writing > 0 {
		a.changed.Wait() // the older bytes must not land on the newer ones
	}
	for _, r := range ranges {
		if a.w != nil {
			if _, err := a.w.WriteAt(p[r.Start-off:r.End-off], r.Start); err != nil {
				return err
			}
			continue
		}
		for at, x := range a.arrived {
			over := r.Intersect(rangeset.Range{Start: at, End: at + int64(len(x.p))})
			if !over.Empty() {
				copy(x.p[over.Start-at:over.End-at], p[over.Start-off:over.End-off])
			}
		}
	}
	return nil
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
	if strategy != FallbackIsolateSource {
		a.blame(s.id, off, end-off, cause)
	}
	switch strategy {
	case FallbackIgnoreCorrupted, FallbackRequestRetransmission:
		a.sched.refuse(grant, off, end, strategy == FallbackRequestRetransmission, time.Now())
		a.dispatch()
		a.mu.Unlock()
		return nil
	case FallbackCloseStream:
		a.failLocked(refuted)
		a.mu.Unlock()
		return a.err
	}
	a.mu.Unlock()
	a.ban(s.id, off, end-off, cause)
	return refuted
}

// write puts what is fresh of p, which begins at off, into the unordered consumer's place. Called with the lock held, which
// it gives up meanwhile.
func (a *streamAggregator) write(p []byte, off int64, fresh []rangeset.Range) error {
	w := a.w
	a.writing++
	a.mu.Unlock()
	var err error
	for _, r := range fresh {
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
	undelivered := a.sched.closed(grant, time.Now())
	if undelivered > 0 && !s.gone {
		if cause == nil {
			cause = errShortStream
		}
		if s.strikes++; s.strikes >= maxStrikes {
			s.gone, s.reason = true, errorf(ErrContentUnavailable, "gave up %d extents in a row: %w", s.strikes, cause).onPath(s.id)
			a.sched.removePath(s.id, time.Now())
		}
	}
	a.dispatch()
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
	if a.sched.done() && !errors.Is(err, errStreamClosed) {
		return // all is here; the consumer may have it
	}
	a.err = err
	for off, x := range a.arrived {
		x.b.release()
		delete(a.arrived, off)
	}
	a.releaseLocked()
	a.cancel(err)
	a.changed.Broadcast()
}

var errStreamClosed = errors.New("kwik: stream closed")

// close ends the stream from this side and waits for its goroutine.
func (a *streamAggregator) close() {
	a.fail(errStreamClosed)
	a.cancel(errStreamClosed)
	a.wg.Wait()
}

// read is Stream.Read.
func (a *streamAggregator) read(p []byte) (int, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if err := a.demand(consumerOrdered); err != nil {
		return 0, err
	}
	if len(p) == 0 {
		return 0, nil
	}
	for {
		pos := a.offsets.read
		if x, ok := a.arrived[pos]; ok {
			n := copy(p, x.p)
			delete(a.arrived, pos)
			if n < len(x.p) {
				a.arrived[pos+int64(n)] = arrival{b: x.b, p: x.p[n:]}
			} else {
				x.b.release()
			}
			a.offsets.consume(n)
			if a.pushed {
				a.moveWindow()
			} else {
				a.sched.setLimit(a.offsets.read+a.window, time.Now())
				a.dispatch()
			}
			return n, nil
		}
		switch {
		case pos == a.units.total:
			return 0, io.EOF
		case a.err != nil:
			return 0, a.err
		case !a.deadline.IsZero() && !time.Now().Before(a.deadline):
			return 0, os.ErrDeadlineExceeded
		}
		a.changed.Wait()
	}
}

// setReadDeadline is Stream.SetReadDeadline.
func (a *streamAggregator) setReadDeadline(t time.Time) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.deadline = t
	if a.alarm != nil {
		a.alarm.Stop()
		a.alarm = nil
	}
	if !t.IsZero() {
		a.alarm = time.AfterFunc(time.Until(t), func() {
			a.mu.Lock()
			defer a.mu.Unlock()
			a.changed.Broadcast()
		})
	}
	a.changed.Broadcast()
}

// copyTo is Stream.CopyTo.
func (a *streamAggregator) copyTo(ctx context.Context, w io.WriterAt) (int64, error) {
	stop := context.AfterFunc(ctx, func() { a.fail(context.Cause(ctx)) })
	defer stop()
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.mode == consumerNone {
		a.w = w
	}
	if err := a.demand(consumerUnordered); err != nil {
		return 0, err
	}
	for (!a.sched.done() && a.err == nil) || a.writing > 0 { // w is not written to after the return
		a.changed.Wait()
	}
	return a.sched.had.Total(), a.err
}
