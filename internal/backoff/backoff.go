// Package backoff computes the delays of retry loops. It has no clock and starts no goroutine:
// the caller waits.
package backoff

import "time"

// A Policy doubles the delay with each failure in a row and subtracts a random part of it. So
// peers that failed together do not retry together.
type Policy struct {
	// Min is the delay after the first failure, and Max bounds all delays; both before jitter.
	// They must be positive.
	Min, Max time.Duration
	// Random returns a number from [0, 1). Each delay is shortened by up to jitterPart of it.
	// With nil the delays are exact.
	Random func() float64
}

// jitterPart is the largest part of a delay that jitter takes away.
const jitterPart = 0.25

// Delay returns the delay after so many failures in a row, 1 or more: from Min*(1-jitterPart)
// up to Max.
func (p Policy) Delay(failures int) time.Duration {
	delay := min(p.Min, p.Max)
	for i := 1; i < failures && delay < p.Max; i++ {
		delay += min(delay, p.Max-delay) // doubles, and cannot overflow
	}
	if p.Random != nil {
		delay -= time.Duration(p.Random() * jitterPart * float64(delay))
	}
	return delay
}
