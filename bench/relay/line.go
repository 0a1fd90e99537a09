package main

import (
	"sync"
	"time"
)

const (
	// maxDatagram is the largest datagram that is relayed, in bytes of payload; QUIC's have at
	// most 1,452.
	maxDatagram = 2047
	// maxHeld bounds the datagrams that a line holds, and so its memory: 128 MiB. It takes an
	// unlimited rate to get there.
	maxHeld = 1 << 16
	// batch is the most datagrams that one system call moves.
	batch = 64
)

// A datagram is a UDP datagram inside a line.
type datagram struct {
	due  time.Duration // since the start of the relay
	of   *session
	size int                   // bytes of payload
	data [maxDatagram + 1]byte // one more, to notice longer ones
}

// counts are of one direction of a pair since the start.
type counts struct {
	packets, bytes int64 // that arrived, and their payload
	lost           int64 // by dice
	overflowed     int64 // dropped by the queue, or because the line held maxHeld
	tooLong        int64 // longer than maxDatagram
	refused        int64 // of clients beyond the bound on sessions
	unsent         int64 // the system refused to send them, or their session has ended
	unread         int64 // dropped by the system because the relay read too slowly: if there are any, the relay was the limit
	sent           int64
	lateness       time.Duration // how long after they were due these were sent, in sum
	latest         time.Duration // the most of one of them
}

// A line is one direction of a pair: a link, and its datagrams in the order in which they are
// due. The goroutines that read from sockets put datagrams in. One goroutine takes them out.
// There is no heap because a link keeps the order.
type line struct {
	wake chan struct{} // holds a token if the line was empty and is not any more

	mu     sync.Mutex // guards all that follows; never held across a system call
	link   *link
	held   []*datagram // a ring
	head   int         // where the first is
	length int         // how many there are
	spare  []*datagram // to be used again
	counts counts
}

func newLine(l *link) *line {
	return &line{wake: make(chan struct{}, 1), link: l, held: make([]*datagram, batch)}
}

// put takes datagrams of s that arrived at now. Those that it keeps are replaced in ds, so
// that the caller can read into all of ds again.
func (l *line) put(now time.Duration, s *session, ds []*datagram) {
	l.mu.Lock()
	defer l.mu.Unlock()
	empty := l.length == 0
	for i, d := range ds {
		l.counts.packets++
		l.counts.bytes += int64(d.size)
		if d.size > maxDatagram {
			l.counts.tooLong++
			continue
		}
		due, f := l.link.cross(now, d.size)
		switch {
		case f == lost:
			l.counts.lost++
		case f == overflowed || l.length == maxHeld:
			l.counts.overflowed++
		default:
			d.due, d.of = due, s
			l.push(d)
			ds[i] = l.unused()
		}
	}
	if empty && l.length > 0 {
		select {
		case l.wake <- struct{}{}:
		default: // it has a token
		}
	}
}

func (l *line) push(d *datagram) {
	if l.length == len(l.held) {
		larger := make([]*datagram, 2*len(l.held))
		n := copy(larger, l.held[l.head:])
		copy(larger[n:], l.held[:l.head])
		l.held, l.head = larger, 0
	}
	l.held[(l.head+l.length)%len(l.held)] = d
	l.length++
}

func (l *line) unused() *datagram {
	if n := len(l.spare); n > 0 {
		d := l.spare[n-1]
		l.spare = l.spare[:n-1]
		return d
	}
	return new(datagram)
}

// take gives back what it returned the last time (done), and appends to into[:0] up to batch
// datagrams that are due at now. If none is, it returns when the first will be, or ok false if
// the line is empty.
func (l *line) take(now time.Duration, done, into []*datagram) (ds []*datagram, next time.Duration, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.spare = append(l.spare, done...)
	ds = into[:0]
	for l.length > 0 && len(ds) < batch {
		first := l.held[l.head]
		if first.due > now {
			return ds, first.due, true
		}
		l.counts.sent++
		l.counts.lateness += now - first.due
		l.counts.latest = max(l.counts.latest, now-first.due)
		ds = append(ds, first)
		l.held[l.head] = nil
		l.head = (l.head + 1) % len(l.held)
		l.length--
	}
	return ds, 0, l.length > 0
}

// count changes the line's counts.
func (l *line) count(change func(*counts)) {
	l.mu.Lock()
	defer l.mu.Unlock()
	change(&l.counts)
}

// run sends what is due with send until stop is closed. There is one timer, for the datagram
// that is due first: as the order is kept, a later one never needs an earlier wake-up. Timers
// are late by up to 1 ms on an idle machine. Datagrams then leave in bursts of a millisecond,
// but not at another rate, since put has set the time when each is due. (Sleeping for 0.5 ms
// at least was measured and saves no CPU.)
func (l *line) run(now func() time.Duration, send func([]*datagram), stop <-chan struct{}) {
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	var ds []*datagram
	for {
		var next time.Duration
		var ok bool
		at := now()
		ds, next, ok = l.take(at, ds, ds)
		if len(ds) > 0 {
			send(ds)
			continue
		}
		if !ok {
			select {
			case <-l.wake:
			case <-stop:
				return
			}
			continue
		}
		timer.Reset(next - at)
		select {
		case <-timer.C:
		case <-stop:
			return
		}
	}
}
