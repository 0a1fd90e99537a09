// Package budget divides a limited quantity, such as bytes of memory, among users that do not
// trust each other.
//
// Each user has a share. Its first bytes, the floor, are guaranteed: they are set aside for as
// many users as the total is made for. The rest of the total is the pool. A share
// may take from the pool at most as much as it then leaves there. So one user alone gets half of
// the pool, n greedy ones get 1/(n+1) of it each, and a later one still finds some. The package has
// no goroutine and no clock.
package budget

import (
	"context"
	"slices"
	"sync"
)

// A Total is a limited quantity. It is safe for concurrent use.
type Total struct {
	limit int64
	pool  int64 // the part of limit that is not set aside for floors
	floor int64 // of each share
	most  int64 // of each share, at least floor

	mu      sync.Mutex
	used    int64
	pooled  int64    // the part of used that is beyond the floors
	waiting []*Share // those with waiters, the one that is served next first
}

// A Share is the part of one user. It is safe for concurrent use.
type Share struct {
	total *Total

	// Guarded by the total's lock.
	used  int64
	queue []*waiter // the oldest first
}

// A waiter is a call of Acquire that waits.
type waiter struct {
	want, least int64
	got         chan int64 // gets the quantity once; buffered
}

// New returns a total of limit for the given number of users, at least 1. A share has at most most,
// and its first floor is guaranteed. The guarantees together are at most half of the limit: the
// floor is cut to that.
func New(limit, users, floor, most int64) *Total {
	floor = min(floor, limit/2/max(users, 1))
	return &Total{limit: limit, pool: limit - users*floor, floor: floor, most: min(max(floor, most), limit)}
}

// Share returns a new share, which has nothing. A share that has nothing need not be closed.
func (t *Total) Share() *Share { return &Share{total: t} }

// Limit returns the whole quantity.
func (t *Total) Limit() int64 { return t.limit }

// Floor returns the quantity that each share is guaranteed.
func (t *Total) Floor() int64 { return t.floor }

// Most returns the quantity that no share exceeds.
func (t *Total) Most() int64 { return t.most }

// Used returns how much is in use.
func (t *Total) Used() int64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.used
}

// IsScarce reports whether a user waits, or less than a quarter of the pool is left.
func (t *Total) IsScarce() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.waiting) > 0 || t.pool-t.pooled < t.pool/4
}

// Used returns how much the share has.
func (s *Share) Used() int64 {
	s.total.mu.Lock()
	defer s.total.mu.Unlock()
	return s.used
}

// Reserve takes n, and reports whether it could.
func (s *Share) Reserve(n int64) bool {
	s.total.mu.Lock()
	defer s.total.mu.Unlock()
	if !s.mayTake(n) {
		return false
	}
	s.take(n)
	return true
}

// TryAcquire is Acquire without the wait: it returns 0 if neither is available, or calls for the
// share wait.
func (s *Share) TryAcquire(want, least int64) (n int64) {
	s.total.mu.Lock()
	defer s.total.mu.Unlock()
	if len(s.queue) == 0 {
		n = s.fit(want, least)
		s.take(n)
	}
	return n
}

// Release returns n of what the share has. It panics if the share has less.
func (s *Share) Release(n int64) {
	t := s.total
	t.mu.Lock()
	defer t.mu.Unlock()
	if n < 0 || n > s.used {
		panic("budget: internal error: more released than reserved")
	}
	pooled := t.pooled
	s.take(-n)
	if t.pooled < pooled {
		t.serveAll()
	} else if len(s.queue) > 0 { // only the share's own floor grew
		s.serve()
	}
}

// Acquire takes want, or, if that is not available, least; least is at most want. If neither is
// available it waits until least is, or until ctx ends. It returns the quantity taken. Calls for
// one share are served in their order, the shares in turn.
func (s *Share) Acquire(ctx context.Context, want, least int64) (n int64, err error) {
	t := s.total
	t.mu.Lock()
	if len(s.queue) == 0 {
		if n = s.fit(want, least); n > 0 {
			s.take(n)
			t.mu.Unlock()
			return n, nil
		}
		t.waiting = append(t.waiting, s)
	}
	w := &waiter{want: want, least: least, got: make(chan int64, 1)}
	s.queue = append(s.queue, w)
	t.mu.Unlock()
	select {
	case n = <-w.got:
		return n, nil
	case <-ctx.Done():
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	select {
	case n = <-w.got: // at the same time
		return n, nil
	default:
	}
	s.queue = slices.DeleteFunc(s.queue, func(v *waiter) bool { return v == w })
	if len(s.queue) == 0 {
		t.waiting = slices.DeleteFunc(t.waiting, func(v *Share) bool { return v == s })
	} else {
		s.serve() // the next one may want less
	}
	return 0, context.Cause(ctx)
}

// mayTake reports whether n more may be taken. Called with the lock held.
func (s *Share) mayTake(n int64) bool {
	t, used := s.total, s.used+n
	if n < 0 || used > t.most || n > t.limit-t.used {
		return false
	}
	beyond := used - t.floor // from the pool, in all
	return beyond <= 0 || beyond <= t.pool-t.pooled-(beyond-max(0, s.used-t.floor))
}

// take adds n, perhaps negative, to the share. Called with the lock held.
func (s *Share) take(n int64) {
	t := s.total
	before := max(0, s.used-t.floor)
	s.used += n
	t.used += n
	t.pooled += max(0, s.used-t.floor) - before
}

// fit returns want or least, whichever may be taken, or 0. Called with the lock held.
func (s *Share) fit(want, least int64) int64 {
	switch {
	case s.mayTake(want):
		return want
	case s.mayTake(least):
		return least
	}
	return 0
}

// serve serves the share's oldest waiters while it can. Called with the lock held.
func (s *Share) serve() {
	for len(s.queue) > 0 && s.serveOne() {
	}
	if len(s.queue) == 0 {
		t := s.total
		t.waiting = slices.DeleteFunc(t.waiting, func(v *Share) bool { return v == s })
	}
}

// serveOne serves the share's oldest waiter, and reports whether it could. Called with the lock
// held.
func (s *Share) serveOne() bool {
	w := s.queue[0]
	n := s.fit(w.want, w.least)
	if n == 0 {
		return false
	}
	s.take(n)
	w.got <- n
	s.queue = s.queue[1:]
	return true
}

// serveAll serves the waiters of all shares, one of each in turn. A share that was served goes to
// the end. Called with the lock held.
func (t *Total) serveAll() {
	for i := 0; i < len(t.waiting); {
		s := t.waiting[i]
		if !s.serveOne() {
			i++
			continue
		}
		t.waiting = slices.Delete(t.waiting, i, i+1)
		if len(s.queue) > 0 {
			t.waiting = append(t.waiting, s)
		}
	}
}
