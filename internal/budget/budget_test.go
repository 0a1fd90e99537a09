package budget

import (
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"testing"
	"testing/synctest"
	"time"
)

func wantReserve(t *testing.T, s *Share, n int64, want bool) {
	t.Helper()
	if got := s.Reserve(n); got != want {
		t.Errorf("Reserve(%d) of a share that has %d: %v", n, s.Used(), got)
	}
}

// One user gets its floor and half of the pool, and not a byte more.
func TestOneUser(t *testing.T) {
	total := New(1000, 10, 20, 1000) // 800 in the pool
	s := total.Share()
	wantReserve(t, s, 421, false)
	wantReserve(t, s, 420, true)
	wantReserve(t, s, 1, false)
	wantReserve(t, s, 0, true)
	wantReserve(t, s, -1, false)
	s.Release(1)
	wantReserve(t, s, 2, false)
	wantReserve(t, s, 1, true)
	s.Release(420)
	if total.Used() != 0 || s.Used() != 0 || total.pooled != 0 {
		t.Errorf("%d, %d and %d are left", total.Used(), s.Used(), total.pooled)
	}
}

func TestMostOfAShare(t *testing.T) {
	s := New(1000, 10, 20, 100).Share()
	wantReserve(t, s, 101, false)
	wantReserve(t, s, 100, true)
	wantReserve(t, s, 1, false)
}

// The limits of shares are cut to the total.
func TestLimitsOfShares(t *testing.T) {
	for _, tt := range []struct{ limit, users, floor, most, wantFloor, wantMost int64 }{
		{1000, 10, 20, 100, 20, 100},
		{1000, 10, 50, 100, 50, 100},
		{1000, 10, 51, 100, 50, 100},
		{1000, 10, 20, 5, 20, 20},
		{1000, 10, 20, 2000, 20, 1000},
		{1000, 501, 20, 100, 0, 100},
		{0, 10, 20, 100, 0, 0},
		{100, 0, 20, 100, 20, 100},
	} {
		total := New(tt.limit, tt.users, tt.floor, tt.most)
		if total.Limit() != tt.limit || total.Floor() != tt.wantFloor || total.Most() != tt.wantMost {
			t.Errorf("%+v: floor %d, most %d", tt, total.Floor(), total.Most())
		}
	}
}

// However greedy the others are, each user gets its floor, and a part of the pool is left.
func TestGreedyUsers(t *testing.T) {
	const users, floor = 100, 10
	total := New(11000, users, floor, 11000) // 10,000 in the pool
	for range users - 1 {
		s := total.Share()
		for s.Reserve(1) {
		}
	}
	if total.Used() > 11000 {
		t.Errorf("%d are used", total.Used())
	}
	last := total.Share()
	wantReserve(t, last, floor, true)
	if free := total.pool - total.pooled; free <= 0 || free > 10000/users {
		t.Errorf("%d of the pool are left", free)
	}
}

// n greedy users that take in turn have equal parts of the pool, and leave one.
func TestEqualParts(t *testing.T) {
	total := New(1000, 0, 0, 1000)
	shares := []*Share{total.Share(), total.Share(), total.Share(), total.Share()}
	for range 1000 {
		for _, s := range shares {
			s.Reserve(1)
		}
	}
	for i, s := range shares {
		if s.Used() != 200 {
			t.Errorf("share %d has %d", i, s.Used())
		}
	}
}

func TestReleaseOfTooMuch(t *testing.T) {
	for _, n := range []int64{6, -1} {
		s := New(10, 1, 5, 10).Share()
		s.Reserve(5)
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("Release(%d) of 5 did not panic", n)
				}
			}()
			s.Release(n)
		}()
	}
}

func TestIsScarce(t *testing.T) {
	total := New(100, 0, 0, 100)
	a, b := total.Share(), total.Share()
	a.Reserve(50)
	b.Reserve(25)
	if total.IsScarce() {
		t.Error("scarce while a quarter is left")
	}
	a.Reserve(0)
	total.Share().Reserve(1)
	if !total.IsScarce() {
		t.Error("not scarce while less than a quarter is left")
	}
}

func TestAcquire(t *testing.T) {
	s := New(100, 0, 0, 50).Share()
	for _, tt := range []struct{ want, least, got int64 }{{30, 10, 30}, {30, 10, 10}, {10, 10, 10}} {
		if n, err := s.Acquire(t.Context(), tt.want, tt.least); n != tt.got || err != nil {
			t.Errorf("Acquire(%d, %d) = %d, %v", tt.want, tt.least, n, err)
		}
	}
	ended, cancel := context.WithCancelCause(t.Context())
	cause := errors.New("cause")
	cancel(cause)
	if n, err := s.Acquire(ended, 10, 1); n != 0 || err != cause {
		t.Errorf("Acquire of what is not there = %d, %v", n, err)
	}
	if s.total.IsScarce() && len(s.total.waiting) > 0 {
		t.Error("a waiter is left")
	}
}

// The calls of a share are served in their order, the shares in turn.
func TestOrderOfWaiters(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		total := New(5, 0, 0, 5)
		holder := total.Share()
		a, b, c := total.Share(), total.Share(), total.Share()
		for _, s := range []*Share{holder, a, b} {
			s.Reserve(1)
		}
		var order []string
		acquire := func(name string, s *Share) {
			go func() {
				if _, err := s.Acquire(t.Context(), 1, 1); err == nil {
					total.mu.Lock()
					order = append(order, name)
					total.mu.Unlock()
					time.Sleep(time.Second)
					s.Release(1)
				}
			}()
			synctest.Wait()
		}
		acquire("a1", a)
		acquire("a2", a)
		acquire("b1", b)
		acquire("c1", c) // may have the last but one: it has none
		if want := []string{"c1"}; !slices.Equal(order, want) {
			t.Fatalf("order %v, want %v", order, want)
		}
		for _, s := range []*Share{holder, a, b} {
			s.Release(1)
			synctest.Wait()
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		if want := []string{"c1", "a1", "b1", "a2"}; !slices.Equal(order, want) {
			t.Errorf("order %v, want %v", order, want)
		}
		if total.Used() != 0 || len(total.waiting) != 0 {
			t.Errorf("%d used, %d waiting", total.Used(), len(total.waiting))
		}
	})
}

// A waiter that gives up lets one behind it, which wants less, pass.
func TestWaiterGivesUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := New(100, 0, 0, 50).Share()
		s.Reserve(40)
		ctx, cancel := context.WithCancel(t.Context())
		go s.Acquire(ctx, 20, 20)
		synctest.Wait()
		got := make(chan int64, 1)
		go func() {
			n, _ := s.Acquire(t.Context(), 10, 10)
			got <- n
		}()
		synctest.Wait()
		if len(got) > 0 {
			t.Fatal("the second waiter passed the first")
		}
		cancel()
		synctest.Wait()
		if len(got) == 0 {
			t.Fatal("the second waiter waits after the first has gone")
		}
		s.Release(50)
	})
}

// Random users never exceed the limits, and everything that waits is served in the end.
func TestRandomUsers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		total := New(1000, 20, 10, 300)
		random := rand.New(rand.NewPCG(1, 2))
		done := 0
		for range 20 {
			s := total.Share()
			for range 10 {
				least := 1 + random.Int64N(100)
				want := least + random.Int64N(200)
				hold, start := time.Duration(random.IntN(100)), time.Duration(random.IntN(500))
				go func() {
					time.Sleep(start * time.Millisecond)
					n, err := s.Acquire(t.Context(), want, least)
					total.mu.Lock()
					isWithin := total.used <= total.limit && total.pooled <= total.pool && s.used <= total.most
					if err != nil || !isWithin {
						t.Errorf("%v; %d used, %d pooled, %d of the share", err, total.used, total.pooled, s.used)
					}
					total.mu.Unlock()
					time.Sleep(hold * time.Millisecond)
					s.Release(n)
					total.mu.Lock()
					done++
					total.mu.Unlock()
				}()
			}
		}
		time.Sleep(time.Hour)
		synctest.Wait()
		isEmpty := total.Used() == 0 && total.pooled == 0 && len(total.waiting) == 0
		if done != 200 || !isEmpty {
			t.Errorf("%d of 200 served; %d used, %d waiting", done, total.Used(), len(total.waiting))
		}
	})
}
