package simnet

import (
	"bytes"
	"fmt"
	"math"
	"testing"
	"time"
)

func TestLatency(t *testing.T) {
	bubble(t, 1, func(t *tester) {
		a := t.listen(alice, Link{Latency: 7 * time.Millisecond})
		c := t.listen(carol, Link{Latency: 30 * time.Millisecond})
		for range 3 {
			start := time.Now()
			t.send(a, carol, []byte("ping"))
			b := make([]byte, 100)
			n, from, err := c.ReadFrom(b)
			if err != nil || string(b[:n]) != "ping" || from.String() != alice.String() {
				t.Fatalf("ReadFrom: %q from %v, %v", b[:n], from, err)
			}
			if d := time.Since(start); d != 37*time.Millisecond {
				t.Errorf("one way took %v, want 37ms", d)
			}
			t.send(c, alice, []byte("pong"))
			t.recv(a)
			if d := time.Since(start); d != 74*time.Millisecond {
				t.Errorf("round trip took %v, want 74ms", d)
			}
		}
		t.wantSettled()
	})
}

func TestRate(t *testing.T) {
	for _, tt := range []struct {
		name     string
		up, down Link
		want     float64 // bit/s
	}{
		{"sender's link", Link{Rate: 10e6, Queue: time.Hour}, Link{}, 10e6},
		{"receiver's link", Link{}, Link{Rate: 3e6, Queue: time.Hour}, 3e6},
		{"the slower of both", Link{Rate: 1e9, Queue: time.Hour}, Link{Rate: 200e6, Queue: time.Hour}, 200e6},
		{"slow", Link{Rate: 9600, Queue: time.Hour, Latency: time.Second}, Link{}, 9600},
	} {
		t.Run(tt.name, func(t *testing.T) {
			bubble(t, 1, func(t *tester) {
				a, b := t.listen(alice, tt.up), t.listen(bob, tt.down)
				data := make([]byte, 1200)
				const count = 1000
				for range count {
					t.send(a, bob, data)
				}
				t.recv(b)
				start := time.Now()
				for range count - 1 {
					t.recv(b)
				}
				got := (count - 1) * 8 * float64(len(data)) / time.Since(start).Seconds()
				if math.Abs(got/tt.want-1) > 0.01 {
					t.Errorf("%.0f bit/s, want %.0f", got, tt.want)
				}
			})
		})
	}
}

// Two senders to one host share its way down, and do not disturb its way up.
func TestRateIsShared(t *testing.T) {
	bubble(t, 1, func(t *tester) {
		a, c := t.listen(alice, Link{}), t.listen(carol, Link{})
		b := t.listen(bob, Link{Rate: 8e6, Queue: time.Hour}) // 1000 bytes per ms
		start := time.Now()
		for range 50 {
			t.send(a, bob, make([]byte, 1000))
			t.send(c, bob, make([]byte, 1000))
		}
		t.send(b, alice, make([]byte, 1000))
		t.recv(a)
		if d := time.Since(start); d != time.Millisecond {
			t.Errorf("up the busy link took %v, want 1ms", d)
		}
		for range 100 {
			t.recv(b)
		}
		if d := time.Since(start); d != 100*time.Millisecond {
			t.Errorf("100 packets of two senders took %v, want 100ms", d)
		}
	})
}

func TestQueue(t *testing.T) {
	for _, tt := range []struct {
		queue time.Duration
		want  int
	}{
		{0, 101}, // the default: one at once, 100 that wait at most 100 ms
		{20 * time.Millisecond, 21},
	} {
		bubble(t, 1, func(t *tester) {
			a := t.listen(alice, Link{Rate: 8e6, Queue: tt.queue}) // 1000 bytes per ms
			t.listen(bob, Link{})
			for range 300 {
				t.send(a, bob, make([]byte, 1000))
			}
			t.wantSettled()
			if s := t.Stats(); s.Delivered != tt.want || s.Overflowed != 300-tt.want {
				t.Errorf("queue of %v: %+v, want %d delivered", tt.queue, s, tt.want)
			}
		})
	}
}

func TestJitterKeepsOrder(t *testing.T) {
	bubble(t, 1, func(t *tester) {
		const jitter = 20 * time.Millisecond
		a := t.listen(alice, Link{Latency: 10 * time.Millisecond, Jitter: jitter})
		b := t.listen(bob, Link{})
		const count = 2000
		sent := make([]time.Time, count)
		go func() {
			for i := range count {
				sent[i] = time.Now()
				t.send(a, bob, []byte{byte(i >> 8), byte(i)})
				time.Sleep(time.Millisecond)
			}
		}()
		low, high := time.Hour, time.Duration(0)
		for i := range count {
			if p := t.recv(b); int(p[0])<<8+int(p[1]) != i {
				t.Fatalf("packet %v arrived as number %d", p, i)
			}
			d := time.Since(sent[i]) - 10*time.Millisecond
			low, high = min(low, d), max(high, d)
		}
		if low < 0 || low > jitter/20 {
			t.Errorf("the lowest jitter was %v, want 0 to %v", low, jitter/20)
		}
		if high > jitter || high < jitter*19/20 {
			t.Errorf("the highest jitter was %v, want %v to %v", high, jitter*19/20, jitter)
		}
	})
}

func TestFaultStatistics(t *testing.T) {
	const count = 20000
	within := func(t *tester, what string, got int, p float64) {
		t.Helper()
		mean, sigma := count*p, math.Sqrt(count*p*(1-p))
		if math.Abs(float64(got)-mean) > 4*sigma {
			t.Errorf("%s: %d of %d, want %.0f ± %.0f", what, got, count, mean, sigma)
		}
	}
	for seed := range uint64(2) {
		bubble(t, seed, func(t *tester) {
			a := t.listen(alice, Link{Loss: 0.02, Flip: 0.01, Duplicate: 0.03, Reorder: 0.01})
			b := t.listen(bob, Link{Loss: 0.05})
			flipped, sent := 0, []byte("abcdefgh")
			for range count {
				t.send(a, bob, sent)
			}
			t.wantSettled()
			s := t.Stats()
			for range s.Delivered {
				if p := t.recv(b); !bytes.Equal(p, sent) {
					flipped++
				}
			}
			through := 1 - 0.98*0.95
			within(t, "lost", s.Lost, through)
			within(t, "flipped", s.Flipped, 0.01*(1-through))
			within(t, "duplicated", s.Duplicated, 0.03*(1-through))
			within(t, "reordered", s.Reordered, 0.01*(1-through))
			if flipped < s.Flipped || flipped > 2*s.Flipped {
				t.Errorf("%d packets arrived with a flipped bit, Stats say %d", flipped, s.Flipped)
			}
		})
	}
}

func TestFlipIsOneBit(t *testing.T) {
	bubble(t, 1, func(t *tester) {
		a, b := t.listen(alice, Link{Flip: 1}), t.listen(bob, Link{})
		places := make(map[string]bool)
		for range 200 {
			t.send(a, bob, make([]byte, 4))
			p := t.recv(b)
			places[string(p)] = true
			ones := 0
			for _, x := range p {
				for ; x != 0; x &= x - 1 {
					ones++
				}
			}
			if ones != 1 {
				t.Fatalf("%d bits differ in %x", ones, p)
			}
		}
		if len(places) < 30 {
			t.Errorf("flips hit %d of 32 bits only", len(places))
		}
		t.send(a, bob, nil) // has no bit to flip
		if p := t.recv(b); len(p) != 0 {
			t.Errorf("an empty packet became %x", p)
		}
	})
}

func TestReorder(t *testing.T) {
	bubble(t, 1, func(t *tester) {
		a, b := t.listen(alice, Link{Reorder: 0.2}), t.listen(bob, Link{})
		go func() {
			for i := range 200 {
				t.send(a, bob, []byte{byte(i)})
				time.Sleep(time.Millisecond)
			}
		}()
		overtaken, last := 0, -1
		for range 200 {
			if i := int(t.recv(b)[0]); i < last {
				overtaken++
			} else {
				last = i
			}
		}
		if overtaken < 10 || overtaken > 60 {
			t.Errorf("%d of 200 packets were overtaken", overtaken)
		}
	})
}

// drops returns which of 300 packets on each of two flows arrive.
func drops(t *testing.T, seed uint64, extra int) (ab, cb string) {
	bubble(t, seed, func(t *tester) {
		link := Link{Loss: 0.1, Duplicate: 0.1}
		a, b, c := t.listen(alice, link), t.listen(bob, Link{}), t.listen(carol, link)
		got := map[string]*bytes.Buffer{alice.String(): new(bytes.Buffer), carol.String(): new(bytes.Buffer)}
		go func() {
			for range extra {
				t.send(c, bob, []byte{255})
			}
			for i := range 250 {
				t.send(a, bob, []byte{byte(i)})
				t.send(c, bob, []byte{byte(i)})
			}
		}()
		for {
			b.SetReadDeadline(time.Now().Add(time.Second))
			p := make([]byte, 10)
			n, from, err := b.ReadFrom(p)
			if err != nil {
				break
			}
			fmt.Fprintf(got[from.String()], "%x ", p[:n])
		}
		ab, cb = got[alice.String()].String(), got[carol.String()].String()
	})
	return ab, cb
}

func TestFaultsFollowFromTheSeed(t *testing.T) {
	ab, cb := drops(t, 1, 0)
	ab1, cb1 := drops(t, 1, 0)
	if ab != ab1 || cb != cb1 {
		t.Error("the same seed gave other faults")
	}
	if ab == cb {
		t.Error("two flows have the same faults")
	}
	if ab2, _ := drops(t, 2, 0); ab2 == ab {
		t.Error("another seed gave the same faults")
	}
	ab3, cb3 := drops(t, 1, 1)
	if cb3 == cb {
		t.Error("one packet more on a flow changed nothing there")
	}
	if ab3 != ab {
		t.Error("one packet more on a flow changed the faults of another")
	}
}
