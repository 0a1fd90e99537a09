package transfer

import (
	"context"
	"errors"
	"fmt"
	"time"

	"kwikcp/internal/backoff"
	"kwikcp/kwik"
)

// MaxRetryDelay bounds the pause before a retry when it doubles, like curl's.
const MaxRetryDelay = 10 * time.Minute

// A Retry announces that a transfer failed and will be tried again.
type Retry struct {
	Attempt int           // counted from 1
	Of      int           // the largest number of retries
	Delay   time.Duration // until the retry begins
	Err     error         // of the attempt before
}

// retryDelays is the policy without RetryDelay. It has no jitter: the manual page and the JSON
// output promise the delays, and a simulated transfer must replay exactly.
var retryDelays = backoff.Policy{Min: time.Second, Max: MaxRetryDelay}

// retryDelay returns the pause before a retry, counted from 1. fixed is RetryDelay of the options.
func retryDelay(attempt int, fixed time.Duration) time.Duration {
	if fixed > 0 {
		return fixed
	}
	return retryDelays.Delay(attempt)
}

// A TimeLimitError reports that an attempt took longer than GetOptions.MaxTime.
type TimeLimitError struct{ Limit time.Duration }

func (e *TimeLimitError) Error() string { return fmt.Sprintf("not done after %v", e.Limit) }

// A retryPolicy bounds the number and the duration of attempts.
type retryPolicy struct {
	retries      int
	delay        time.Duration // 0 doubles it with each retry
	maxTime      time.Duration // of an attempt; 0 for no limit
	retryMaxTime time.Duration // from the start of the first attempt to that of the last; 0 for no limit
	stall        *stallWatch   // nil repeats no attempt after an outage
}

// run calls attempt until it succeeds, fails for good, the limits are reached, or ctx ends. It
// returns the error of the last attempt. retryable reports whether another attempt may succeed
// after an error; notify is called before each retry.
func (p retryPolicy) run(
	ctx context.Context, attempt func(context.Context) error, retryable func(error) bool, notify func(Retry),
) error {
	start := time.Now()
	for n := 1; ; n++ {
		err := p.limited(ctx, attempt, retryable)
		if n > p.retries || ctx.Err() != nil || !retryable(err) {
			return err
		}
		delay := retryDelay(n, p.delay)
		if p.retryMaxTime > 0 && time.Since(start)+delay > p.retryMaxTime {
			return err
		}
		notify(Retry{Attempt: n, Of: p.retries, Delay: delay, Err: err})
		pause := time.NewTimer(delay)
		select {
		case <-pause.C:
		case <-ctx.Done():
			pause.Stop()
			return err
		}
	}
}

// maxIdleCloses bounds how often an attempt is repeated because the session was idle.
const maxIdleCloses = 3

// awake calls attempt, and again at once if the server closed the session because it was idle. A
// long local operation is no failure of the network.
func (p retryPolicy) awake(ctx context.Context, attempt func(context.Context) error) error {
	err := attempt(ctx)
	for n := 0; n < maxIdleCloses && kwik.IsIdleClose(err) && ctx.Err() == nil; n++ {
		err = attempt(ctx)
	}
	return err
}

// limited calls attempt, also after outages, with a context that ends after maxTime.
func (p retryPolicy) limited(
	ctx context.Context, attempt func(context.Context) error, retryable func(error) bool,
) error {
	if p.maxTime <= 0 {
		return p.patient(ctx, attempt, retryable)
	}
	limited, cancel := context.WithTimeout(ctx, p.maxTime)
	defer cancel()
	err := p.patient(limited, attempt, retryable)
	if err != nil && limited.Err() != nil && ctx.Err() == nil {
		return &TimeLimitError{p.maxTime}
	}
	return err
}

// isRetryable reports whether another attempt may succeed after err: the network failed, or the
// attempt took too long.
func isRetryable(err error) bool {
	_, slow := errors.AsType[*TimeLimitError](err)
	e, ok := errors.AsType[*Error](err)
	return slow || (ok && e.Kind == KindNetwork)
}
