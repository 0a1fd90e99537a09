package main

import (
	"math"
	"testing"
	"time"
)

const (
	us = time.Microsecond
	// At 200 Mbit/s 1,222 bytes and 28 of headers take 50 µs.
	payload, takes = 1222, 50 * us
)

var line200 = linkConfig{rate: 200e6, overhead: 28, queue: time.Millisecond, delay: 20 * time.Millisecond}

// wants checks what a link does to one datagram.
func wants(t *testing.T, l *link, now time.Duration, due time.Duration, f fate) {
	t.Helper()
	if gotDue, gotFate := l.cross(now, payload); gotDue != due || gotFate != f {
		t.Errorf("a datagram at %v: due at %v, fate %d; want %v, %d", now, gotDue, gotFate, due, f)
	}
}

func TestPerfectLink(t *testing.T) {
	l := newLink(linkConfig{}, 1, 0)
	wants(t, l, 0, 0, passed)
	wants(t, l, 0, 0, passed)
	wants(t, l, 7*us, 7*us, passed)
}

func TestRate(t *testing.T) {
	l := newLink(line200, 1, 0)
	wants(t, l, 0, takes+l.delay, passed)
	wants(t, l, 0, 2*takes+l.delay, passed)         // waits for the first
	wants(t, l, 2*takes, 3*takes+l.delay, passed)   // arrives when the second has gone
	wants(t, l, 10*takes, 11*takes+l.delay, passed) // an idle link saves nothing up
	wants(t, l, 10*takes, 12*takes+l.delay, passed)
}

// Over a second the rate is exact: headers are part of it.
func TestRateOverTime(t *testing.T) {
	l := newLink(linkConfig{rate: 33e6, overhead: 42, queue: time.Hour}, 1, 0)
	const n, size = 10_000, 1300
	var due time.Duration
	for range n {
		due, _ = l.cross(0, size)
	}
	want := float64(n*(size+42)*8) / 33e6
	if math.Abs(due.Seconds()-want) > 1e-5 {
		t.Errorf("%d datagrams took %v, want %.6f s", n, due, want)
	}
}

func TestQueue(t *testing.T) {
	l := newLink(line200, 1, 0)
	for i := range 21 { // the last one waits for 20 datagrams, 1 ms: as long as one may
		wants(t, l, 0, time.Duration(i+1)*takes+l.delay, passed)
	}
	wants(t, l, 0, 0, overflowed)
	wants(t, l, takes-1, 0, overflowed)          // it would wait a nanosecond too long
	wants(t, l, takes, 22*takes+l.delay, passed) // dropped packets took no time
	wants(t, l, takes, 0, overflowed)
}

func TestNoQueue(t *testing.T) {
	c := line200
	c.queue = 0
	l := newLink(c, 1, 0)
	wants(t, l, 0, takes+l.delay, passed)
	wants(t, l, takes-1, 0, overflowed)
	wants(t, l, takes, 2*takes+l.delay, passed)
}

// An unlimited link has no queue that could be full.
func TestUnlimited(t *testing.T) {
	l := newLink(linkConfig{delay: time.Millisecond}, 1, 0)
	for range 100_000 {
		wants(t, l, us, us+time.Millisecond, passed)
	}
}

// Readers of several sockets look at the clock before they get at the link.
func TestClockStepsBack(t *testing.T) {
	l := newLink(linkConfig{}, 1, 0)
	wants(t, l, 5*us, 5*us, passed)
	wants(t, l, 3*us, 5*us, passed)
	wants(t, l, 6*us, 6*us, passed)
}

func TestLossEdges(t *testing.T) {
	none, all := newLink(linkConfig{}, 1, 0), newLink(linkConfig{loss: 1}, 1, 0)
	for range 10_000 {
		if _, f := none.cross(0, payload); f != passed {
			t.Fatal("lost at a probability of 0")
		}
		if _, f := all.cross(0, payload); f != lost {
			t.Fatal("passed at a probability of 1")
		}
	}
}

// losses returns which of n datagrams, one every gap, are lost.
func losses(l *link, n int, gap time.Duration) []int {
	var is []int
	for i := range n {
		if _, f := l.cross(time.Duration(i)*gap, payload); f == lost {
			is = append(is, i)
		}
	}
	return is
}

func TestLoss(t *testing.T) {
	const n = 1_000_000
	c := linkConfig{loss: 0.001}
	first := losses(newLink(c, 1, 0), n, us)
	if k := len(first); k < 900 || k > 1100 { // three standard deviations are 95
		t.Errorf("%d of %d lost, want about 1000", k, n)
	}
	again := losses(newLink(c, 1, 0), n, time.Second)
	if len(again) != len(first) || again[0] != first[0] || again[len(again)-1] != first[len(first)-1] {
		t.Error("the same seed lost other datagrams")
	}
	for _, other := range []*link{newLink(c, 1, 1), newLink(c, 2, 0)} {
		if is := losses(other, n, us); is[0] == first[0] && is[1] == first[1] {
			t.Error("another direction or seed lost the same datagrams")
		}
	}
}

// The dice know nothing of the queue: a datagram that it drops has used up its throw.
func TestLossBehindQueue(t *testing.T) {
	c := line200
	c.loss = 0.1
	crowded, free := newLink(c, 1, 0), newLink(c, 1, 0)
	for i := range 10_000 {
		_, f := crowded.cross(0, payload)
		if _, g := free.cross(time.Duration(i)*time.Second, payload); f != g && f != overflowed {
			t.Fatalf("datagram %d: fate %d in a crowd, %d alone", i, f, g)
		}
	}
}

// A datagram is lost on the long way, after it has taken its share of the rate.
func TestLostTakesRate(t *testing.T) {
	c := line200
	c.loss = 1
	l := newLink(c, 1, 0)
	wants(t, l, 0, 0, lost)
	l.loss = 0
	wants(t, l, 0, 2*takes+l.delay, passed)
}

func TestJitter(t *testing.T) {
	c := linkConfig{delay: 20 * time.Millisecond, jitter: 3 * time.Millisecond}
	l := newLink(c, 1, 0)
	least, most := time.Hour, time.Duration(0)
	var last time.Duration
	for i := range 100_000 {
		now := time.Duration(i) * 10 * us
		due, _ := l.cross(now, payload)
		if due < last {
			t.Fatalf("the datagram at %v overtakes the one before it by %v", now, last-due)
		}
		last = due
		least, most = min(least, due-now), max(most, due-now)
	}
	if least < c.delay || most > c.delay+c.jitter || most-least < c.jitter*9/10 {
		t.Errorf("delays from %v to %v, want most of %v to %v", least, most, c.delay, c.delay+c.jitter)
	}
}
