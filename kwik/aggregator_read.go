package kwik

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"
)

// This file is the consumer's side of the stream aggregator.

// setHave is Stream.SetHave.
func (a *streamAggregator) setHave(start, end int64) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if err := a.checkAhead("SetHave", start, end); err != nil {
		return err
	}
	a.offsets.keep(start, end)
	a.sched.MarkHad(start, end)
	return nil
}

// setFirst is Stream.SetFirst.
func (a *streamAggregator) setFirst(start, end int64) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if err := a.checkAhead("SetFirst", start, end); err != nil {
		return err
	}
	a.sched.SetPriority(start, end)
	return nil
}

// checkAhead checks what is said about whole units before they are wanted. Called with the lock held.
func (a *streamAggregator) checkAhead(call string, start, end int64) error {
	switch {
	case a.err != nil:
		return a.err
	case a.pushed:
		return fmt.Errorf("kwik: %s on a pushed stream, where others say which bytes count", call)
	case a.mode != consumerNone:
		return fmt.Errorf("kwik: %s after CopyTo or Read", call)
	case start < 0 || start >= end || end > a.units.Total() || !a.units.IsBoundary(start) || !a.units.IsBoundary(end):
		return errorf(ErrOffsetSyncFailure, "[%d, %d) is not whole units", start, end).onStream(a.id, start)
	}
	return nil
}

// setHorizon is Stream.SetHorizon.
func (a *streamAggregator) setHorizon(end int64) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	switch {
	case a.pushed:
		return errors.New("kwik: SetHorizon on a pushed stream, where others say what they send")
	case end < 0 || end > a.units.Total() || !a.units.IsBoundary(end):
		return errorf(ErrOffsetSyncFailure, "horizon %d is not the end of a unit", end).onStream(a.id, end)
	case a.mode == consumerNone:
		a.horizon = end
		return nil
	case end < a.horizon:
		return errorf(ErrOffsetSyncFailure, "horizon %d after %d", end, a.horizon).onStream(a.id, end)
	}
	a.horizon = end
	if a.err == nil && !a.released {
		a.sched.SetLimit(a.limit(), time.Now())
		a.dispatch()
	}
	return nil
}

// limit returns up to where may be granted now. Called with the lock held.
func (a *streamAggregator) limit() int64 {
	if a.mode == consumerOrdered {
		return min(a.horizon, a.offsets.read+a.window)
	}
	return a.horizon
}

var errTwoConsumers = errors.New("kwik: an aggregate stream has one consumer: Read or CopyTo, not both")

var errHavePart = errors.New("kwik: a stream of which a part is had already cannot be read in order")

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
	if mode == consumerOrdered && a.offsets.kept > 0 {
		return errHavePart
	}
	a.mode = mode
	close(a.demanded)
	if a.sched.Done() { // all of it is had
		a.releaseLocked()
		return nil
	}
	a.sched.InitLimit(a.limit())
	a.mu.Unlock()
	a.begin()
	a.mu.Lock()
	if a.err != nil {
		return a.err
	}
	a.wg.Go(a.run)
	if !a.pushed {
		a.sched.Start(time.Now())
		a.dispatch()
	}
	return nil
}

// awaitDemand waits until a consumer has asked for the stream, as it has before anything is granted; false if the stream, or the path whose
// done this is, ends before. Meanwhile a head start stays unread, so that QUIC's flow control bounds what it costs.
func (a *streamAggregator) awaitDemand(done <-chan struct{}) bool {
	if a.pushed {
		return true // the window bounds that
	}
	select {
	case <-a.demanded:
		return true
	case <-a.ctx.Done():
	case <-done:
	}
	return false
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
		if n := a.arrived.take(pos, p); n > 0 {
			a.offsets.consume(n)
			if a.pushed {
				a.moveWindow()
			} else {
				a.sched.SetLimit(a.limit(), time.Now())
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
	for (!a.sched.Done() && a.err == nil) || a.writing > 0 || a.replaces > 0 { // w is not written to after the return
		a.changed.Wait()
	}
	a.returned = true
	return a.sched.Had(), a.err
}
