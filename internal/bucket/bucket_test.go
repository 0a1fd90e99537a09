package bucket

import (
	"math/rand/v2"
	"testing"
	"time"
)

var start = time.Unix(1_000_000, 0)

func TestBucket(t *testing.T) {
	for _, r := range []Rate{{1, 1}, {5, 20}, {0.1, 3}, {1000, 1}, {1e6, 7}} {
		var b Bucket
		for i := range r.Burst {
			if !b.TryTake(r, start) {
				t.Fatalf("%+v: no token %d of the burst", r, i)
			}
		}
		interval := time.Duration(float64(time.Second) / r.PerSecond)
		if d := b.Delay(r, start); d != interval {
			t.Errorf("%+v: the next token is there after %v, want %v", r, d, interval)
		}
		next := start.Add(interval)
		if b.TryTake(r, next.Add(-1)) || !b.TryTake(r, next) || b.TryTake(r, next) {
			t.Errorf("%+v: not one token after %v", r, interval)
		}
		later := start.Add(time.Hour)
		n := 0
		for b.TryTake(r, later) {
			n++
		}
		if n != r.Burst {
			t.Errorf("%+v: %d tokens after an hour, want %d", r, n, r.Burst)
		}
	}
}

// TestBucketRate checks the bound for any events: in any period at most the burst and the tokens of
// the period pass.
func TestBucketRate(t *testing.T) {
	dice := rand.New(rand.NewPCG(1, 2))
	r := Rate{PerSecond: 10, Burst: 5}
	var b Bucket
	var passed []time.Time
	for now := start; now.Before(start.Add(20 * time.Second)); {
		now = now.Add(time.Duration(dice.IntN(60)) * time.Millisecond)
		if b.TryTake(r, now) {
			passed = append(passed, now)
		}
	}
	for i, first := range passed {
		for j, last := range passed[i:] {
			if most := float64(r.Burst) + last.Sub(first).Seconds()*r.PerSecond + 1e-6; float64(j+1) > most {
				t.Fatalf("%d events in %v", j+1, last.Sub(first))
			}
		}
	}
	if len(passed) < 200 {
		t.Errorf("%d events passed in 20 s", len(passed))
	}
}

func TestKeyed(t *testing.T) {
	const most = 100
	k := NewKeyed[int](Rate{PerSecond: 1, Burst: 2}, most)
	passed := 0
	for key := range 10_000 {
		for range 5 {
			if k.TryTake(key, start) {
				passed++
			}
		}
	}
	if k.Len() != most || passed != 2*most+2 {
		t.Errorf("%d buckets, %d events of 10,000 keys, want %d and %d", k.Len(), passed, most, 2*most+2)
	}
	later := start.Add(10 * time.Second)
	for i, want := range []bool{true, true, false} { // a bucket holds two events
		if got := k.TryTake(5000, later); got != want {
			t.Errorf("event %d of a new key, when the old buckets are full again: %v", i+1, got)
		}
	}
	if k.Len() != 1 {
		t.Errorf("%d buckets, want that of the new key", k.Len())
	}
	for key := range 1_000_000 {
		k.TryTake(key, later.Add(time.Duration(key)*time.Second))
		if k.Len() > most {
			t.Fatalf("%d buckets", k.Len())
		}
	}
}

// A token that is given back may be taken again. A bucket never holds more than its burst.
func TestGiveBack(t *testing.T) {
	r := Rate{PerSecond: 0.1, Burst: 3}
	k := NewKeyed[int](r, 2)
	takes := func(key int, want bool) {
		t.Helper()
		if got := k.TryTake(key, start); got != want {
			t.Errorf("key %d: %v", key, got)
		}
	}
	for _, key := range []int{1, 2, 3} { // the third one uses the bucket of the others
		for range 3 {
			takes(key, true)
		}
		takes(key, false)
		k.GiveBack(key)
		takes(key, true)
		takes(key, false)
	}
	for range 9 {
		k.GiveBack(1)
	}
	for range 3 {
		takes(1, true)
	}
	takes(1, false)
}

// However many keys there are, one without tokens stays limited.
func TestAttackManyKeys(t *testing.T) {
	r := Rate{PerSecond: 0.1, Burst: 3}
	k := NewKeyed[int](r, 4096)
	for range 3 {
		k.TryTake(-1, start)
	}
	for key := range 10_000 {
		k.TryTake(key, start)
	}
	if k.TryTake(-1, start) || k.Len() > 4096 {
		t.Errorf("a key without tokens got one, or %d buckets", k.Len())
	}
}

func BenchmarkKeyed(b *testing.B) {
	k := NewKeyed[int](Rate{PerSecond: 1, Burst: 2}, 4096)
	for i := 0; b.Loop(); i++ {
		now := start.Add(time.Duration(i) * time.Microsecond)
		k.TryTake(i, now)
	}
}
