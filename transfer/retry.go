package transfer

import (
	"context"
	"errors"
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

// retry calls attempt until it succeeds, fails for good, has been retried as often as it may, or ctx ends. The error is
// that of the last attempt.
func (g *get) retry(ctx context.Context, attempt func() error) error {
	for n := 1; ; n++ {
		err := attempt()
		if n > g.Retries || ctx.Err() != nil || !g.mayPass(err) {
			return err
		}
		delay := retryDelay(n, g.RetryDelay)
		g.observer.retry(Retry{Attempt: n, Of: g.Retries, Delay: delay, Err: err})
		pause := time.NewTimer(delay)
		select {
		case <-pause.C:
		case <-ctx.Done():
			pause.Stop()
			return err
		}
	}
}

// mayPass reports whether what an attempt ended with may be over when it is repeated.
func (g *get) mayPass(err error) bool {
	e, ok := errors.AsType[*Error](err)
	return ok && e.Kind == KindNetwork && (g.part != nil || g.result.Bytes == 0)
}
