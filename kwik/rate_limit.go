package kwik

import (
	"context"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

// A RateLimit bounds how many bytes a second the aggregate streams of a side take up: on a client what it receives from all servers
// together, on a server what it sends to all clients together. It is a token bucket that holds the bytes of a quarter of a second, which make
// up for the delays of a busy machine, and is empty at first, so that the first second is no exception: within any time pass at most the
// bytes of that time and of a quarter of a second. Whoever waits for tokens gets them in turn, a little at a time. Sessions may share one.
// Plain streams and what QUIC adds do not count.
//
// A client that takes bytes more slowly than they come is felt by the servers through QUIC's flow control. Its connections therefore
// begin with small windows, which grow with the round-trip time: little more is under way than it takes.
type RateLimit struct {
	bucket *rate.Limiter
	rate   int64
	piece  int // bytes that pass at once

	mu   sync.Mutex
	last time.Time // when somebody last came
}

const (
	// bucketTime is how much time's bytes the bucket holds: what is lost in a longer delay is not made up for.
	bucketTime = 250 * time.Millisecond
	// minPiece and maxPiece bound the pieces in which limited payload passes, in bytes; a five hundredth of a second's if that is
	// between them.
	minPiece = 256
	maxPiece = 64 << 10
	// minLimitedWindow is with how large a window a connection of a limited client begins at least, in bytes. A connection sets itself
	// up with less.
	minLimitedWindow = 16 << 10
)

// NewRateLimit returns a limit of so many bytes a second, 1 at least.
func NewRateLimit(bytesPerSecond int64) *RateLimit {
	bytesPerSecond = max(bytesPerSecond, 1)
	burst := max(bytesPerSecond/int64(time.Second/bucketTime), 1)
	const most = 1 << 30 // what an int can hold anywhere
	return &RateLimit{
		bucket: rate.NewLimiter(rate.Limit(bytesPerSecond), int(min(burst, most))),
		rate:   bytesPerSecond,
		piece:  int(min(max(bytesPerSecond/500, minPiece), maxPiece, burst)),
	}
}

// cut returns how many of n bytes should pass at once: all without a limit.
func (l *RateLimit) cut(n int) int {
	if l == nil {
		return n
	}
	return min(n, l.piece)
}

// wait waits until n bytes may have passed, or ctx ends.
func (l *RateLimit) wait(ctx context.Context, n int) error {
	if l == nil {
		return nil
	}
	l.begin(time.Now())
	for n > 0 {
		k := min(n, l.bucket.Burst())
		if err := l.bucket.WaitN(ctx, k); err != nil {
			return err
		}
		n -= k
	}
	return nil
}

// begin empties the bucket if nobody came while it filled: its bytes make up for delays, and are no start at full speed.
func (l *RateLimit) begin(now time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if now.Sub(l.last) >= bucketTime {
		if left := int(l.bucket.TokensAt(now)); left > 0 {
			l.bucket.AllowN(now, left)
		}
	}
	l.last = now
}

// window returns the size, in bytes, of the window with which a connection of a limited client begins: a hundredth of a second's bytes.
func (l *RateLimit) window() uint64 { return uint64(min(max(l.rate/100, minLimitedWindow), 8<<20)) }

// bufferSize returns what is held and proved at once: a sixteenth of a second's bytes, so that what counts keeps up with what comes.
func (l *RateLimit) bufferSize() int { return int(min(max(l.rate/16, 64<<10), dataFrameSize)) }
