package transfer

import (
	"context"
	"errors"
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/quic-go/quic-go"

	"kwikcp/internal/backoff"
	"kwikcp/kwik"
)

// This file decides how long a transfer waits while nothing arrives.
//
// An outage of the network, a restart of the primary and a suspended machine end connections.
// Within one attempt, aggregate streams connect again by themselves
// (kwik.ClientConfig.SourceTimeout). Requests do not, so the attempt is repeated. This counts as
// no retry. Both follow this table, and kwik/path_watch.go finds out which row a silence belongs
// to:
//
//	the primary                                        is waited for
//	has not been connected to yet                      ConnectTimeout; 0.1 s if its port is closed
//	answers with an error, or closes with a code       not at all
//	refuses packets (ICMP): its port is closed         restartTime
//	closed without a code, and does not answer         restartTime
//	does not know the connection (stateless reset)     StallTimeout: it has been restarted, and answers
//	is silent, cannot be reached, has no address       StallTimeout
//	answers QUIC, and delivers nothing                 serveTimeout
//	answers, but each attempt ends without content     maxReconnects attempts in a row
//
// A server that ends before its first reply is not waited for either. Transfers that share a Pool
// share what they know: a server that has replied to one of them has replied to all.
//
// A stream with several servers waits as long as the most patient row of any of them, and continues
// with those that live. Time in which the process was suspended does not count.

const (
	// DefaultStallTimeout bounds the wait while nothing arrives.
	DefaultStallTimeout = time.Minute
	// stallTick is the interval at which the silence is measured. A tick counts maxStallTick at
	// most: a process that was suspended has waited for nothing meanwhile.
	stallTick    = 250 * time.Millisecond
	maxStallTick = time.Second
	// waitingAfter is the silence after which it is reported, and waitingInterval the time between
	// two reports.
	waitingAfter    = 3 * time.Second
	waitingInterval = time.Second
	// restartTime is how long a server that has ended is waited for: it may be restarted.
	restartTime = 3 * time.Second
	// lastConnectTime is the least time that an attempt has to connect.
	lastConnectTime = time.Second
	// maxReconnects bounds the attempts in a row that the primary answers without new content.
	maxReconnects = 10
)

// reconnectDelays are the pauses before an attempt after an outage.
var reconnectDelays = backoff.Policy{Min: 200 * time.Millisecond, Max: 2 * time.Second}

// stallLimit returns the silence after which a transfer ends, for a StallTimeout. The attempt to
// connect that is under way then may end: an outage as long as the StallTimeout is survived.
func stallLimit(timeout time.Duration) time.Duration {
	return timeout + min(timeout/4, 15*time.Second)
}

// A Waiting reports that nothing arrives.
type Waiting struct {
	Host   string        // the primary
	Silent time.Duration // for how long; 0 if something has arrived again
	// Limit is when the transfer gives up; 0 while the primary has not been reached.
	Limit time.Duration
}

// A stallWatch measures the silence of a transfer. It is safe for concurrent use.
type stallWatch struct {
	host    string
	timeout time.Duration
	report  func(Waiting)

	// known is set once the primary has replied to any transfer of the pool; nil without a pool.
	known *atomic.Bool

	mu        sync.Mutex // guards the rest
	waits     int        // replies, streams and connections that are awaited now
	connected bool       // there was a connection to the primary
	reached   bool       // the primary has replied
	arrived   bool       // something arrived since the last tick
	silent    time.Duration
	reported  time.Duration // the silence that was reported last; 0 for none
	content   int64         // bytes of content that were in place so far
	attempts  int           // in a row without new content
	answered  bool          // something has arrived since the last attempt failed
	barren    int           // attempts in a row in which something arrived, and no new content
	// hasEnded is set while the primary is known to have ended, and endedAt is silent at that time.
	hasEnded bool
	endedAt  time.Duration
}

// run measures until stop is called.
func (w *stallWatch) run() (stop func()) {
	done, ended := make(chan struct{}), make(chan struct{})
	go func() { // stop ends it and waits for it
		defer close(ended)
		ticker := time.NewTicker(stallTick)
		defer ticker.Stop()
		for last := time.Now(); ; {
			select {
			case <-done:
				return
			case now := <-ticker.C:
				if due, ok := w.tick(min(now.Sub(last), maxStallTick)); ok {
					w.report(due)
				}
				last = now
			}
		}
	}()
	return func() {
		close(done)
		<-ended
	}
}

// tick lets time pass. It returns the report that is due, if any.
func (w *stallWatch) tick(elapsed time.Duration) (due Waiting, ok bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.arrived || w.waits == 0 {
		w.arrived, w.silent = false, 0
		ok = w.reported > 0
		w.reported = 0
		return Waiting{Host: w.host}, ok
	}
	w.silent += elapsed
	if w.silent < waitingAfter || (w.reported > 0 && w.silent-w.reported < waitingInterval) {
		return Waiting{}, false
	}
	w.reported = w.silent
	due = Waiting{Host: w.host, Silent: w.silent}
	if w.connected {
		due.Limit = w.timeout
	}
	return due, true
}

// wait records that the transfer waits for something until done is called.
func (w *stallWatch) wait() (done func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.waits++
	return func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.waits--
	}
}

// connect records that there is a connection to the primary.
func (w *stallWatch) connect() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.connected = true
}

// share makes the watch share what it knows of the primary with the other transfers of a pool.
func (w *stallWatch) share(known *atomic.Bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.known = known
	if known.Load() {
		w.connected, w.reached = true, true
	}
}

// progress records that something has arrived. content is how many bytes of content are in place;
// 0 if that is not known.
func (w *stallWatch) progress(content int64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.answered = true
	w.connected, w.reached, w.arrived, w.silent, w.hasEnded = true, true, true, 0, false
	if w.known != nil {
		w.known.Store(true)
	}
	if content > w.content {
		w.content, w.attempts, w.barren = content, 0, 0
	}
}

// mayReconnect decides whether another attempt follows one that failed with err, and after which
// pause.
func (w *stallWatch) mayReconnect(err error) (pause time.Duration, ok bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.attempts++
	if w.answered {
		w.answered = false
		w.barren++
	}
	loss := lossOf(err)
	if _, isReset := errors.AsType[*quic.StatelessResetError](err); isReset {
		w.hasEnded = false // another process answers
	}
	isGone := w.hasEnded && w.silent-w.endedAt >= restartTime
	if loss == lossEnded && !w.hasEnded {
		w.hasEnded, w.endedAt = true, w.silent
		if hasWaited := errors.Is(err, kwik.ErrAggregationTimeout); hasWaited { // one attempt is left
			w.endedAt -= restartTime
		}
	}
	isKnown := w.reached || w.connected && loss != lossEnded
	if !isKnown || isGone || loss == lossNone || w.silent >= stallLimit(w.timeout) || w.barren > maxReconnects {
		return 0, false
	}
	return reconnectDelays.Delay(w.attempts), true
}

// connectTimeout bounds the time in which an attempt connects, which is timeout at most.
func (w *stallWatch) connectTimeout(timeout time.Duration) time.Duration {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.hasEnded {
		return timeout
	}
	return min(timeout, max(restartTime-(w.silent-w.endedAt), lastConnectTime))
}

// A lossKind is why a connection, or the wait for an answer, ended. A larger one is waited for
// longer.
type lossKind int

const (
	lossNone   lossKind = iota // no loss: the server answered with an error, or the error is of this side
	lossEnded                  // the server has ended, and may be restarted
	lossOutage                 // the server, or the network, is silent
)

// lossOf returns the loss that is waited for longest of all that err consists of.
func lossOf(err error) lossKind {
	e, ok := errors.AsType[*Error](err)
	if !ok || e.Kind != KindNetwork {
		return lossNone
	}
	return lossIn(e.Err)
}

// lossIn is lossOf for a cause.
func lossIn(err error) lossKind {
	switch e := err.(type) {
	case nil:
		return lossNone
	case *ConnectError:
		if e.Reason == ConnectNoAnswer {
			return lossOutage
		}
		return lossIn(e.Err)
	case *quic.ApplicationError:
		switch {
		case e.ErrorCode != kwik.ApplicationErrorCode(kwik.NoError):
			return lossNone
		case e.Remote:
			return lossEnded
		}
		return lossOutage
	case *quic.StatelessResetError, *quic.IdleTimeoutError, *quic.HandshakeTimeoutError, *net.DNSError:
		return lossOutage
	case syscall.Errno:
		if e == syscall.ECONNREFUSED {
			return lossEnded
		}
		return lossOutage
	case interface{ Unwrap() []error }:
		worst := lossNone
		for _, cause := range e.Unwrap() {
			worst = max(worst, lossIn(cause))
		}
		return worst
	}
	if err == errNoAnswer || err == errSilent {
		return lossOutage
	}
	return lossIn(errors.Unwrap(err))
}

// patient calls attempt again after outages, for as long as the watch allows.
func (p retryPolicy) patient(
	ctx context.Context, attempt func(context.Context) error, isRetryable func(error) bool,
) error {
	for {
		err := p.awake(ctx, attempt)
		if err == nil || p.stall == nil || ctx.Err() != nil || !isRetryable(err) {
			return err
		}
		pause, ok := p.stall.mayReconnect(err)
		if !ok {
			return err
		}
		done := p.stall.wait()
		timer := time.NewTimer(pause)
		select {
		case <-timer.C:
		case <-ctx.Done():
		}
		timer.Stop()
		done()
		if ctx.Err() != nil {
			return err
		}
	}
}
