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

// A persistence says how often and for how long something is tried; see GetOptions.
type persistence struct {
	retries                           int
	retryDelay, maxTime, retryMaxTime time.Duration
}

// retry calls attempt until it succeeds, fails with an error that may not pass, has been retried as often or for as long as it may, or
// ctx ends. The error is that of the last attempt.
func (p persistence) retry(ctx context.Context, o *observer, attempt func(context.Context) error, mayPass func(error) bool) error {
	start := time.Now()
	for n := 1; ; n++ {
		err := p.limited(ctx, attempt)
		if n > p.retries || ctx.Err() != nil || !mayPass(err) {
			return err
		}
		delay := retryDelay(n, p.retryDelay)
		if p.retryMaxTime > 0 && time.Since(start)+delay > p.retryMaxTime {
			return err
		}
		o.retry(Retry{Attempt: n, Of: p.retries, Delay: delay, Err: err})
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
func (p persistence) limited(ctx context.Context, attempt func(context.Context) error) error {
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

// mayPass reports whether an error may be over when what met it is repeated.
func mayPass(err error) bool {
	_, slow := errors.AsType[*TimeLimitError](err)
	e, ok := errors.AsType[*Error](err)
	return slow || ok && e.Kind == KindNetwork
}

// retry repeats attempts to get the file.
func (g *get) retry(ctx context.Context, attempt func(context.Context) error) error {
	p := persistence{g.Retries, g.RetryDelay, g.MaxTime, g.RetryMaxTime}
	return p.retry(ctx, g.observer, attempt, g.mayPass)
}

// mayPass reports whether what an attempt ended with may be over when it is repeated.
func (g *get) mayPass(err error) bool {
	return mayPass(err) && (g.part != nil || g.result.Bytes == 0)
}
