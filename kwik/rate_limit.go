package kwik

import (
	"context"
	"math"
	"sync"
	"time"

	"kwikcp/internal/fair"
)

// A RateLimit bounds a rate in bytes per second. On a client it bounds the payload of aggregate
// streams from all servers together. On a server it bounds the bytes that the server sends to all
// clients together: on secondary streams, plain streams and control streams. The overhead of QUIC,
// and connections between servers, do not count. Sessions may share a limit. It is safe for
// concurrent use.
//
// A server shares its rate equally among the addresses of clients (IPv6: the /64 networks). The
// sessions of an address share its part, and the streams of a session that of the session. A client
// shares its rate equally among its streams, and the part of a stream among the servers. Only those
// that wait for bytes have a share.
//
// A RateLimit is a token bucket. It holds the bytes of a quarter of a second, to make up for the
// delays of a busy host. It starts empty. So in any period at most the bytes of that period and
// of a quarter of a second pass. Callers that wait receive tokens in small pieces.
//
// QUIC's flow control makes the servers of a limited client slow down. Its connections start with
// small windows, which grow with the round-trip time, so that few bytes are in flight beyond
// those that the client takes.
type RateLimit struct {
	rate  int64
	burst int64 // capacity of the bucket in bytes, at least 1
	piece int   // bytes that pass at once

	mu     sync.Mutex // guards the fields below
	root   *fair.Node // of those that wait
	tokens float64    // bytes that may pass at the time filled, at most burst
	filled time.Time
	last   time.Time   // of the last call of wait
	timer  *time.Timer // runs dispatch when the next piece may pass; nil before the first wait
}

const (
	// bucketTime is the capacity of the bucket, as a time. A longer delay is not made up for.
	bucketTime = 250 * time.Millisecond
	// minPiece and maxPiece bound the pieces in which limited payload passes, in bytes. A piece
	// is the bytes of 2 ms if that is between them.
	minPiece = 1 << 10
	maxPiece = 64 << 10
	// minLimitedWindow is the minimum initial window of a limited client's connection, in bytes.
	// The handshake needs less.
	minLimitedWindow = 16 << 10
)

// NewRateLimit returns a limit in bytes per second. Values below 1 count as 1.
func NewRateLimit(bytesPerSecond int64) *RateLimit {
	bytesPerSecond = max(bytesPerSecond, 1)
	burst := max(bytesPerSecond/int64(time.Second/bucketTime), 1)
	return &RateLimit{
		rate: bytesPerSecond, burst: burst,
		piece: int(min(max(bytesPerSecond/500, minPiece), maxPiece, burst)),
		root:  fair.Root(),
	}
}

// A rateShare is a member of those that share a RateLimit, or a group of them. The zero rateShare
// has no limit. It is a value; copies are the same member.
type rateShare struct {
	limit *RateLimit
	node  *fair.Node
}

// share returns a new member. l may be nil, for no limit.
func (l *RateLimit) share() rateShare {
	if l == nil {
		return rateShare{}
	}
	return rateShare{l, l.root.Member()}
}

// share returns a new member of a group.
func (s rateShare) share() rateShare {
	if s.limit == nil {
		return s
	}
	return rateShare{s.limit, s.node.Member()}
}

// isLimited reports whether wait may block.
func (s rateShare) isLimited() bool { return s.limit != nil }

// cut returns how many of n bytes should pass at once.
func (s rateShare) cut(n int) int {
	if s.limit == nil {
		return n
	}
	return min(n, s.limit.piece)
}

// wait blocks until n bytes of the member, which is no group, may pass or ctx ends.
func (s rateShare) wait(ctx context.Context, n int) error {
	if s.limit == nil {
		return nil
	}
	for n > 0 {
		k := int(min(int64(n), s.limit.burst))
		if err := s.waitOnce(ctx, k); err != nil {
			return err
		}
		n -= k
	}
	return nil
}

// write passes p to send in pieces, each when it may pass.
func (s rateShare) write(ctx context.Context, p []byte, send func([]byte) error) error {
	for len(p) > 0 {
		k := s.cut(len(p))
		if err := s.wait(ctx, k); err != nil {
			return err
		}
		if err := send(p[:k]); err != nil {
			return err
		}
		p = p[k:]
	}
	return nil
}

// waitOnce is wait for at most the capacity of the bucket.
func (s rateShare) waitOnce(ctx context.Context, n int) error {
	l := s.limit
	r := &fair.Request{Size: int64(n)}
	l.mu.Lock()
	now := time.Now()
	l.begin(now)
	s.node.Push(r)
	l.dispatch(now)
	if !r.Waits() {
		l.mu.Unlock()
		return nil
	}
	r.Done = make(chan struct{})
	l.mu.Unlock()
	select {
	case <-r.Done:
		return nil
	case <-ctx.Done():
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.root.Remove(r) {
		return nil // it has just passed
	}
	l.dispatch(time.Now()) // the next one may be smaller
	return context.Cause(ctx)
}

// begin empties the bucket after an idle time: its bytes make up for delays and must not start a
// transfer at full speed. Called with the lock held.
func (l *RateLimit) begin(now time.Time) {
	if now.Sub(l.last) >= bucketTime && l.root.Next() == nil {
		l.fill(now)
		l.tokens = 0
	}
	l.last = now
}

// fill adds the tokens of the time since filled. Called with the lock held.
func (l *RateLimit) fill(now time.Time) {
	if l.filled.IsZero() {
		l.filled = now
	}
	l.tokens = min(l.tokens+now.Sub(l.filled).Seconds()*float64(l.rate), float64(l.burst))
	l.filled = now
}

// dispatch lets pass whatever the tokens suffice for, and sets the timer for the next request.
// Called with the lock held.
func (l *RateLimit) dispatch(now time.Time) {
	l.fill(now)
	const rounding = 1e-3 // bytes
	for r := l.root.Next(); r != nil; r = l.root.Next() {
		if missing := float64(r.Size) - l.tokens; missing > rounding {
			l.wake(missing / float64(l.rate))
			return
		}
		l.tokens -= float64(r.Size)
		l.root.Pop()
		if r.Done != nil {
			close(r.Done)
		}
	}
}

// wake runs dispatch again after some seconds. Called with the lock held.
func (l *RateLimit) wake(seconds float64) {
	const longest = 1e6 // a lower rate is served as well, after an early look
	d := time.Duration(math.Ceil(min(seconds, longest) * float64(time.Second)))
	if l.timer == nil {
		l.timer = time.AfterFunc(d, func() {
			l.mu.Lock()
			defer l.mu.Unlock()
			l.dispatch(time.Now())
		})
		return
	}
	l.timer.Reset(d)
}

// window returns the initial window of a limited client's connection in bytes: those of 10 ms.
func (l *RateLimit) window() uint64 { return uint64(min(max(l.rate/100, minLimitedWindow), 8<<20)) }

// bufferSize returns the bytes to hold and verify at once: those of a sixteenth of a second, so
// that progress stays smooth.
func (l *RateLimit) bufferSize() int { return int(min(max(l.rate/16, 64<<10), dataFrameSize)) }
