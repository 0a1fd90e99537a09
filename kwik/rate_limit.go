package kwik

import (
	"context"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

// A RateLimit bounds the payload rate of aggregate streams: on a client over all servers
// together, on a server over all clients together. Plain streams and QUIC's overhead do not
// count. Sessions may share a limit. It is safe for concurrent use.
//
// A RateLimit is a token bucket. It holds the bytes of a quarter of a second, to make up for the
// delays of a busy host. It starts empty. So in any period at most the bytes of that period and
// of a quarter of a second pass. Callers that wait receive tokens in turn, in small pieces.
//
// QUIC's flow control makes the servers of a limited client slow down. Its connections start with
// small windows, which grow with the round-trip time, so that few bytes are in flight beyond
// those that the client takes.
type RateLimit struct {
	bucket *rate.Limiter
	rate   int64
	piece  int // bytes that pass at once

	mu   sync.Mutex
	last time.Time // of the last call of wait
}

const (
	// bucketTime is the capacity of the bucket, as a time. A longer delay is not made up for.
	bucketTime = 250 * time.Millisecond
	// minPiece and maxPiece bound the pieces in which limited payload passes, in bytes. A piece
	// is the bytes of 2 ms if that is between them.
	minPiece = 256
	maxPiece = 64 << 10
	// minLimitedWindow is the minimum initial window of a limited client's connection, in bytes.
	// The handshake needs less.
	minLimitedWindow = 16 << 10
)

// NewRateLimit returns a limit in bytes per second. Values below 1 count as 1.
func NewRateLimit(bytesPerSecond int64) *RateLimit {
	bytesPerSecond = max(bytesPerSecond, 1)
	burst := max(bytesPerSecond/int64(time.Second/bucketTime), 1)
	const most = 1 << 30 // fits an int on every platform
	return &RateLimit{
		bucket: rate.NewLimiter(rate.Limit(bytesPerSecond), int(min(burst, most))),
		rate:   bytesPerSecond,
		piece:  int(min(max(bytesPerSecond/500, minPiece), maxPiece, burst)),
	}
}

// cut returns how many of n bytes should pass at once. l may be nil, for all.
func (l *RateLimit) cut(n int) int {
	if l == nil {
		return n
	}
	return min(n, l.piece)
}

// wait blocks until n bytes may pass or ctx ends. l may be nil.
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

// begin empties the bucket after an idle time: its bytes make up for delays and must not start a
// transfer at full speed.
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

// window returns the initial window of a limited client's connection in bytes: those of 10 ms.
func (l *RateLimit) window() uint64 { return uint64(min(max(l.rate/100, minLimitedWindow), 8<<20)) }

// bufferSize returns the bytes to hold and verify at once: those of a sixteenth of a second, so
// that progress stays smooth.
func (l *RateLimit) bufferSize() int { return int(min(max(l.rate/16, 64<<10), dataFrameSize)) }
