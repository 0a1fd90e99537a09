package transfer

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// MaxRetryDelay bounds the pause before a retry that doubles each time, as curl's.
const MaxRetryDelay = 10 * time.Minute

// A Retry says that a transfer is about to be tried again.
type Retry struct {
	Attempt int           // counted from 1
	Of      int           // how many there are at most
	Delay   time.Duration // until it begins
	Err     error         // of the attempt before
}

// retryDelay returns the pause before a retry, counted from 1. fixed is RetryDelay of the options.
func retryDelay(attempt int, fixed time.Duration) time.Duration {
	if fixed > 0 {
		return fixed
	}
	delay := time.Second
	for ; attempt > 1 && delay < MaxRetryDelay; attempt-- {
		delay *= 2
	}
	return min(delay, MaxRetryDelay)
}

// A TimeLimitError says that an attempt took longer than GetOptions.MaxTime.
type TimeLimitError struct{ Limit time.Duration }

func (e *TimeLimitError) Error() string { return fmt.Sprintf("not done after %v", e.Limit) }

// retryPolicy is how often, and for how long, something is tried.
type retryPolicy struct {
	retries      int
	delay        time.Duration // 0 for the one that doubles
	maxTime      time.Duration // of an attempt; 0 for any
	retryMaxTime time.Duration // after the start of the first; 0 for ever
}

// try calls attempt until it succeeds, fails for good, has been retried as often or for as long as it may, or ctx ends. The error is
// that of the last attempt. isRetryable reports whether what one ended with may be over when it is repeated; then told hears of the retry.
func (p retryPolicy) run(ctx context.Context, attempt func(context.Context) error, isRetryable func(error) bool, told func(Retry)) error {
	start := time.Now()
	for n := 1; ; n++ {
		err := p.limited(ctx, attempt)
		if n > p.retries || ctx.Err() != nil || !isRetryable(err) {
			return err
		}
		delay := retryDelay(n, p.delay)
		if p.retryMaxTime > 0 && time.Since(start)+delay > p.retryMaxTime {
			return err
		}
		told(Retry{Attempt: n, Of: p.retries, Delay: delay, Err: err})
		pause := time.NewTimer(delay)
		select {
		case <-pause.C:
		case <-ctx.Done():
			pause.Stop()
			return err
		}
	}
}

// limited calls attempt with a context that ends after maxTime.
func (p retryPolicy) limited(ctx context.Context, attempt func(context.Context) error) error {
	if p.maxTime <= 0 {
		return attempt(ctx)
	}
	limited, cancel := context.WithTimeout(ctx, p.maxTime)
	defer cancel()
	err := attempt(limited)
	if err != nil && limited.Err() != nil && ctx.Err() == nil {
		return &TimeLimitError{p.maxTime}
	}
	return err
}

// isRetryable reports whether what an attempt ended with is the network's, or took too long.
func isRetryable(err error) bool {
	_, slow := errors.AsType[*TimeLimitError](err)
	e, ok := errors.AsType[*Error](err)
	return slow || (ok && e.Kind == KindNetwork)
}
