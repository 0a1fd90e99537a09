package main

import (
	"testing"
	"testing/synctest"
	"time"
)

// numbered returns n datagrams of as many different sizes, from first on.
func numbered(first, n int) []*datagram {
	ds := make([]*datagram, n)
	for i := range ds {
		ds[i] = &datagram{size: first + i}
	}
	return ds
}

// While the ring grows and wraps, datagrams leave in the order in which they arrived, each once.
func TestLineKeepsOrder(t *testing.T) {
	l := newLine(newLink(linkConfig{}, 1, 0))
	s := &session{}
	var ds []*datagram
	in, out := 0, 0
	for round := range 50 {
		for range 1 + round%3 {
			l.put(0, s, numbered(in, 40))
			in += 40
		}
		if ds, _, _ = l.take(0, ds, ds); len(ds) == 0 {
			t.Fatal("no datagram left")
		}
		for _, d := range ds {
			if d.size != out || d.of != s {
				t.Fatalf("datagram %d left when %d was due", d.size, out)
			}
			out++
		}
		if in >= maxDatagram-200 {
			break
		}
	}
	for {
		var ok bool
		if ds, _, ok = l.take(0, ds, ds); !ok && len(ds) == 0 {
			break
		}
		out += len(ds)
	}
	if in != out || l.counts.packets != int64(in) {
		t.Errorf("%d arrived, %d left, %d were counted", in, out, l.counts.packets)
	}
}

func TestLineWaits(t *testing.T) {
	l := newLine(newLink(linkConfig{delay: 10}, 1, 0))
	if ds, _, ok := l.take(100, nil, nil); len(ds) != 0 || ok {
		t.Error("an empty line holds something")
	}
	mine := numbered(1, 2)
	first := mine[0]
	l.put(100, &session{}, mine)
	if mine[0] == nil || mine[0] == first {
		t.Error("a datagram that was kept was not replaced")
	}
	if ds, next, ok := l.take(109, nil, nil); len(ds) != 0 || next != 110 || !ok {
		t.Errorf("before it is due: %d datagrams, next at %d, %v", len(ds), next, ok)
	}
	ds, _, ok := l.take(113, nil, nil)
	if len(ds) != 2 || ds[0] != first || ok {
		t.Errorf("when it is due: %d datagrams, more: %v", len(ds), ok)
	}
	if l.counts.sent != 2 || l.counts.lateness != 6 || l.counts.latest != 3 {
		t.Errorf("two were 3 late: %+v", l.counts)
	}
	l.take(113, ds, ds)
	if len(l.spare) != 2 {
		t.Errorf("%d datagrams to be used again, want 2", len(l.spare))
	}
}

func TestLineCounts(t *testing.T) {
	l := newLine(newLink(linkConfig{loss: 1}, 1, 0))
	mine := []*datagram{{size: maxDatagram}, {size: maxDatagram + 1}}
	kept := [2]*datagram{mine[0], mine[1]}
	l.put(0, &session{}, mine)
	if mine[0] != kept[0] || mine[1] != kept[1] {
		t.Error("a datagram that was not kept was replaced")
	}
	if l.counts.packets != 2 || l.counts.bytes != 2*maxDatagram+1 {
		t.Errorf("counts: %+v, want 2 packets of %d bytes", l.counts, 2*maxDatagram+1)
	}
	if l.counts.lost != 1 || l.counts.tooLong != 1 {
		t.Errorf("counts: %+v, want 1 lost, 1 too long", l.counts)
	}
	if len(l.wake) != 0 {
		t.Error("the runner is woken for nothing")
	}
}

func TestLineIsBounded(t *testing.T) {
	l := newLine(newLink(linkConfig{delay: time.Hour}, 1, 0))
	same := &datagram{}
	for range maxHeld {
		l.put(0, &session{}, []*datagram{same})
		l.spare = append(l.spare[:0], same) // no memory for 65,536 datagrams
	}
	l.put(0, &session{}, []*datagram{same})
	if l.length != maxHeld || l.counts.overflowed != 1 {
		t.Errorf("it holds %d of at most %d, %d overflowed", l.length, maxHeld, l.counts.overflowed)
	}
}

// In virtual time: each datagram leaves when it is due, and the runner ends when it is told to.
func TestLineRuns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		begin := time.Now()
		now := func() time.Duration { return time.Since(begin) }
		l := newLine(newLink(line200, 1, 0))
		var left []time.Duration
		stop, ended := make(chan struct{}), make(chan struct{})
		go func() {
			defer close(ended)
			l.run(now, func(ds []*datagram) {
				for range ds {
					left = append(left, now())
				}
			}, stop)
		}()
		two := func() []*datagram { return []*datagram{{size: payload}, {size: payload}} }
		l.put(now(), &session{}, two())
		time.Sleep(time.Second)
		l.put(now(), &session{}, two())
		time.Sleep(30 * us)
		l.put(now(), &session{}, two()) // while the runner waits for those before
		time.Sleep(time.Second)
		synctest.Wait()
		want := []time.Duration{takes, 2 * takes, time.Second + takes, time.Second + 2*takes, time.Second + 3*takes, time.Second + 4*takes}
		if len(left) != len(want) {
			t.Fatalf("%d left, want %d", len(left), len(want))
		}
		for i, at := range left {
			if at != want[i]+l.link.delay {
				t.Errorf("datagram %d left at %v, want %v", i, at, want[i]+l.link.delay)
			}
		}
		l.put(now(), &session{}, two())
		synctest.Wait()
		close(stop) // with something on its way
		<-ended
	})
}
