package kwik

import (
	"context"
	"errors"
	"io"
	"os"
	"slices"
	"time"
)

// This file is the consumer's side of the stream aggregator.

// open sets the verifier, once.
func (a *streamAggregator) open(verify ProofFunc) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	switch {
	case a.err != nil:
		return a.err
	case a.opened:
		return errOpenedTwice
	}
	a.opened, a.prove = true, verify
	return nil
}

// prepare applies the options of a copy. Called with the lock held, before any demand.
func (a *streamAggregator) prepare(options *CopyOptions) error {
	if options == nil || a.mode != consumerNone {
		return nil
	}
	if err := a.checkWhole(append(slices.Clone(options.Have), options.Priority)); err != nil {
		return err
	}
	a.markHad(options.Have)
	a.sched.SetPriority(options.Priority.Start, options.Priority.End)
	return nil
}

// checkWhole returns an error unless the ranges that are not empty are whole units of a pulled
// stream.
func (a *streamAggregator) checkWhole(ranges []Range) error {
	for _, r := range ranges {
		switch {
		case r == Range{}:
		case a.pushed:
			return errors.New("kwik: the servers of a pushed stream choose its bytes, so the client cannot")
		case !a.isWholeUnits(r.Start, r.End):
			return errorf(ErrOffsetSyncFailure, "[%d, %d) is not whole units", r.Start, r.End).onStream(a.id, r.Start)
		}
	}
	return nil
}

// markHad counts bytes as present. Called with the lock held, before any demand.
func (a *streamAggregator) markHad(ranges []Range) {
	for _, r := range ranges {
		a.offsets.markHad(r.Start, r.End)
		a.sched.MarkHad(r.Start, r.End)
	}
}

// setZeros is AggregateReader.SetZeros.
func (a *streamAggregator) setZeros(zeros []Range) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.mode != consumerNone {
		return errTwoConsumers
	}
	if err := a.checkWhole(zeros); err != nil {
		return err
	}
	a.markHad(zeros)
	for _, r := range zeros {
		a.zeros.Add(r.Start, r.End)
	}
	return nil
}

// takeZeros writes the zeros from off on to p and returns their number.
func (a *streamAggregator) takeZeros(off int64, p []byte) int {
	r, ok := a.zeros.NextPresent(off, a.units.Total())
	if !ok || r.Start != off {
		return 0
	}
	n := int(min(int64(len(p)), r.Len()))
	clear(p[:n])
	return n
}

// setLimit is AggregateReader.SetLimit.
func (a *streamAggregator) setLimit(end int64) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	switch {
	case a.pushed:
		return errors.New("kwik: the servers of a pushed stream choose its bytes, so SetLimit does not apply")
	case end < 0 || end > a.units.Total() || !a.units.IsBoundary(end):
		return errorf(ErrOffsetSyncFailure, "limit %d is not the end of a unit", end).onStream(a.id, end)
	case a.mode == consumerNone:
		a.limit = end
		return nil
	case end < a.limit:
		return errorf(ErrOffsetSyncFailure, "limit %d after %d", end, a.limit).onStream(a.id, end)
	}
	a.limit = end
	if a.err == nil && !a.released {
		a.sched.SetLimit(a.grantable(), time.Now())
		a.dispatch()
	}
	return nil
}

// grantable returns the end of what may be granted now. Called with the lock held.
func (a *streamAggregator) grantable() int64 {
	if a.mode == consumerOrdered {
		return min(a.limit, a.offsets.read+a.window)
	}
	return a.limit
}

var (
	errOpenedTwice  = errors.New("kwik: the offer was opened before")
	errTwoConsumers = errors.New("kwik: an aggregate stream has one consumer: Read or CopyTo, not both")
)

// demand starts the transfer for a consumer of the given mode. Called with the lock held; it
// releases the lock while it attaches the sources.
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
	close(a.demanded)
	if a.sched.Done() { // every byte was had before
		a.releaseLocked()
		return nil
	}
	a.sched.InitLimit(a.grantable())
	a.mu.Unlock()
	a.attachSources()
	a.mu.Lock()
	if a.err != nil {
		return a.err
	}
	a.wg.Go(func() { containTo(a.panicked, a.run) })
	a.startExternals()
	if !a.pushed {
		a.sched.Start(time.Now())
		a.dispatch()
	}
	return nil
}

// awaitDemand waits for the first demand. It returns false if the stream, or the path that owns
// done, ends first. Meanwhile a head start stays unread, so that QUIC's flow control bounds its
// memory. A grant cannot precede the demand.
func (a *streamAggregator) awaitDemand(done <-chan struct{}) bool {
	if a.pushed {
		return true // the window bounds the memory
	}
	select {
	case <-a.demanded:
		return true
	case <-a.ctx.Done():
	case <-done:
	}
	return false
}

// read is AggregateReader.Read.
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
		n := a.takeZeros(pos, p)
		if n == 0 {
			n = a.arrived.consume(pos, p)
		}
		if n > 0 {
			a.offsets.consume(n)
			if a.pushed {
				a.moveWindow()
			} else {
				a.sched.SetLimit(a.grantable(), time.Now())
				a.dispatch()
			}
			return n, nil
		}
		switch {
		case pos == a.units.Total():
			return 0, io.EOF
		case a.err != nil:
			return 0, a.err
		case !a.deadline.IsZero() && !time.Now().Before(a.deadline):
			return 0, os.ErrDeadlineExceeded
		}
		a.changed.Wait()
	}
}

// setReadDeadline is AggregateReader.SetReadDeadline.
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

// copyTo is AggregateReader.CopyTo.
func (a *streamAggregator) copyTo(ctx context.Context, w io.WriterAt, options *CopyOptions) (int64, error) {
	stop := context.AfterFunc(ctx, func() { a.fail(context.Cause(ctx)) })
	defer stop()
	a.mu.Lock()
	defer a.mu.Unlock()
	if err := a.prepare(options); err != nil {
		return 0, err
	}
	if a.mode == consumerNone {
		a.w = w
	}
	if err := a.demand(consumerUnordered); err != nil {
		return 0, err
	}
	for (!a.sched.Done() && a.err == nil) || a.writing > 0 || a.replaces > 0 {
		a.changed.Wait() // for deliveries, too: w must not be written to after the return
	}
	a.returned = true
	return a.sched.Had(), a.err
}
