package serve

import (
	"context"
	"kwikcp/internal/bucket"
	"kwikcp/kwik"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/sync/semaphore"
)

// This file bounds the requests of clients. More requests wait: the server does not read them.
// QUIC bounds the streams on which those of a session wait (docs/PROTOCOL.md, section 11).

// The rates of requests. A program that fetches single files from a fast server, 64 at a time,
// stays below them.
var (
	sessionRequests = bucket.Rate{PerSecond: 2000, Burst: 2000}
	prefixRequests  = bucket.Rate{PerSecond: 4000, Burst: 4000}
	totalRequests   = bucket.Rate{PerSecond: 10_000, Burst: 10_000}
)

const (
	// maxRequests bounds the requests of all clients to which the server responds at a time, and
	// maxPrefixRequests those of an address. The content that follows a response does not count.
	maxRequests       = 4096
	maxPrefixRequests = maxRequests / 4
	// maxPrefixes bounds the addresses that have a separate rate.
	maxPrefixes = 4096
)

// A requestLimit bounds the requests of all clients of a server. It is safe for concurrent use.
type requestLimit struct {
	running *semaphore.Weighted // requests to which the server responds

	mu       sync.Mutex // guards the fields below; not held while a request waits
	prefixes *bucket.Keyed[netip.Prefix]
	total    bucket.Bucket
	byPrefix map[netip.Prefix]*prefixSlots // of clients that have a request
}

// prefixSlots are the requests of an address to which the server responds.
type prefixSlots struct {
	running *semaphore.Weighted
	users   int // requests that run or wait
}

func newRequestLimit() *requestLimit {
	return &requestLimit{
		running:  semaphore.NewWeighted(maxRequests),
		prefixes: bucket.NewKeyed[netip.Prefix](prefixRequests, maxPrefixes),
		byPrefix: make(map[netip.Prefix]*prefixSlots),
	}
}

// A sessionRequestRate limits the requests of a session. One goroutine uses it.
type sessionRequestRate struct {
	limit  *requestLimit
	prefix netip.Prefix
	bucket bucket.Bucket
}

// pause waits until the next request of the session may be served, or ctx ends. It counts the
// request.
func (r *sessionRequestRate) pause(ctx context.Context) error {
	delay := r.take(time.Now())
	if delay <= 0 {
		return nil
	}
	timer := time.NewTimer(delay)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// take counts a request and returns how long it must wait.
func (r *sessionRequestRate) take(now time.Time) time.Duration {
	l := r.limit
	l.mu.Lock()
	defer l.mu.Unlock()
	delay := max(r.bucket.Delay(sessionRequests, now), l.prefixes.Delay(r.prefix, now))
	delay = max(delay, l.total.Delay(totalRequests, now))
	r.bucket.Take(sessionRequests, now)
	l.prefixes.Take(r.prefix, now)
	l.total.Take(totalRequests, now)
	return delay
}

// begin waits until the server may respond to a request of an address, or ctx ends. The caller
// calls end after the response.
func (l *requestLimit) begin(ctx context.Context, prefix netip.Prefix) (end func(), err error) {
	slots := l.use(prefix)
	if err := slots.running.Acquire(ctx, 1); err != nil {
		l.leave(prefix, slots)
		return nil, err
	}
	if err := l.running.Acquire(ctx, 1); err != nil {
		slots.running.Release(1)
		l.leave(prefix, slots)
		return nil, err
	}
	return func() {
		l.running.Release(1)
		slots.running.Release(1)
		l.leave(prefix, slots)
	}, nil
}

func (l *requestLimit) use(prefix netip.Prefix) *prefixSlots {
	l.mu.Lock()
	defer l.mu.Unlock()
	slots := l.byPrefix[prefix]
	if slots == nil {
		slots = &prefixSlots{running: semaphore.NewWeighted(maxPrefixRequests)}
		l.byPrefix[prefix] = slots
	}
	slots.users++
	return slots
}

func (l *requestLimit) leave(prefix netip.Prefix, slots *prefixSlots) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if slots.users--; slots.users == 0 {
		delete(l.byPrefix, prefix)
	}
}

// requestMemory is about the memory of a request besides its message, in bytes: its goroutines,
// their buffers and the reply that is being written.
const requestMemory = 16 << 10

// A charge is memory that a request holds for its client. One goroutine at a time uses it.
type charge struct {
	session *kwik.ServerSession
	bytes   int64
	refused error // the last error of add; nil if there was none
}

// add charges n more bytes. The error is kwik.ErrServerBusy.
func (c *charge) add(n int64) error {
	if err := c.session.Reserve(n); err != nil {
		c.refused = err
		return err
	}
	c.bytes += n
	return nil
}

// sub returns n bytes.
func (c *charge) sub(n int64) {
	c.session.Release(n)
	c.bytes -= n
}

// release returns all bytes.
func (c *charge) release() {
	c.session.Release(c.bytes)
	c.bytes = 0
}
