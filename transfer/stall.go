package transfer

import (
	"context"
	"errors"
	"net"
	"sync"
	"syscall"
	"time"

	"github.com/quic-go/quic-go"

	"kwikcp/internal/backoff"
	"kwikcp/kwik"
)

// This file decides how long a transfer waits while nothing arrives.
//
// An outage of the network, a restart of the primary and a suspended machine end connections. Within
// one attempt, aggregate streams connect again by themselves (kwik.ClientConfig.SourceTimeout).
// Requests do not, so the attempt is repeated, for as long as GetOptions.StallTimeout allows. This
// counts as no retry. There are three limits:
//
//   - A server that has not been reached in this transfer is not waited for: ConnectTimeout counts.
//   - A server whose port is closed is waited for as long as a restart takes.
//   - Without new content between them, maxReconnects attempts follow each other in which the primary
//     answers.

const (
	// DefaultStallTimeout bounds the wait while nothing arrives.
	DefaultStallTimeout = time.Minute
	// stallTick is the interval at which the silence is measured. A tick counts maxStallTick at most:
	// a process that was suspended has waited for nothing meanwhile.
	stallTick    = 250 * time.Millisecond
	maxStallTick = time.Second
	// waitingAfter is the silence after which it is reported, and waitingInterval the time between
	// two reports.
	waitingAfter    = 3 * time.Second
	waitingInterval = time.Second
	// restartTime is how long the port of a server must be closed until the server counts as gone.
	restartTime = 3 * time.Second
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

	mu       sync.Mutex // guards the rest
	waits    int        // what the transfer waits for now: replies, streams, connections
	reached  bool       // the primary was reached
	arrived  bool       // something arrived since the last tick
	silent   time.Duration
	reported time.Duration // the silence that was reported last; 0 for none
	content  int64         // bytes of content that were in place so far
	attempts int           // in a row without new content
	answered bool          // something has arrived since the last attempt failed
	barren   int           // attempts in a row in which something arrived, and no new content
	refused  time.Time     // since when the port of the primary is closed; zero while it is not known
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
	if w.reached {
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

// progress records that something has arrived. content is how many bytes of content are in place;
// 0 if that is not known.
func (w *stallWatch) progress(content int64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.answered = true
	w.reached, w.arrived, w.silent, w.refused = true, true, 0, time.Time{}
	if content > w.content {
		w.content, w.attempts, w.barren = content, 0, 0
	}
}

// mayReconnect decides at a time whether another attempt follows one that failed with err, and
// after which pause.
func (w *stallWatch) mayReconnect(err error, now time.Time) (pause time.Duration, ok bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	isRefused := errors.Is(err, syscall.ECONNREFUSED)
	switch {
	case !isRefused:
		w.refused = time.Time{}
	case w.refused.IsZero():
		w.refused = now
	}
	w.attempts++
	if w.answered {
		w.answered = false
		w.barren++
	}
	isGone := isRefused && now.Sub(w.refused) >= restartTime
	if !w.reached || isGone || !isOutage(err) || w.silent >= stallLimit(w.timeout) || w.barren > maxReconnects {
		return 0, false
	}
	return reconnectDelays.Delay(w.attempts), true
}

// isOutage reports whether err is the loss of a connection, or no answer. A server that answers with
// an error is not out.
func isOutage(err error) bool {
	if e, ok := errors.AsType[*Error](err); !ok || e.Kind != KindNetwork {
		return false
	}
	if e, ok := errors.AsType[*quic.ApplicationError](err); ok {
		return e.ErrorCode == kwik.ApplicationErrorCode(kwik.NoError)
	}
	_, isReset := errors.AsType[*quic.StatelessResetError](err)
	_, isSilent := errors.AsType[*quic.IdleTimeoutError](err)
	_, isUnresolved := errors.AsType[*net.DNSError](err)
	_, isOfSystem := errors.AsType[syscall.Errno](err)
	return isReset || isSilent || isUnresolved || isOfSystem ||
		errors.Is(err, errNoAnswer) || errors.Is(err, errSilent)
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
		pause, ok := p.stall.mayReconnect(err, time.Now())
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
