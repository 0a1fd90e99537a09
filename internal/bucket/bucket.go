// Package bucket bounds how often something may happen: in all, or for each of many keys, such as
// the addresses of clients. It has no clock and no lock. The caller passes the time, which must not
// go back, and guards the values.
package bucket

import "time"

// A Rate bounds events: Burst of them at once, and PerSecond a second in the long run. Both must be
// positive.
type Rate struct {
	PerSecond float64
	Burst     int
}

func (r Rate) interval() time.Duration { return time.Duration(float64(time.Second) / r.PerSecond) }

// A Bucket holds tokens, of which each event takes one. It starts full; the zero Bucket is full.
type Bucket struct {
	full time.Time // when the bucket will be full if no token is taken
}

// Delay returns the time from now until the bucket has a token, 0 if it has one.
func (b *Bucket) Delay(r Rate, now time.Time) time.Duration {
	earliest := b.full.Add(-time.Duration(r.Burst-1) * r.interval())
	return max(0, earliest.Sub(now))
}

// Take takes a token. Without one the bucket goes into debt.
func (b *Bucket) Take(r Rate, now time.Time) {
	if b.full.Before(now) {
		b.full = now
	}
	b.full = b.full.Add(r.interval())
}

// TryTake takes a token. It reports false if there is none.
func (b *Bucket) TryTake(r Rate, now time.Time) bool {
	if b.Delay(r, now) > 0 {
		return false
	}
	b.Take(r, now)
	return true
}

// GiveBack returns a token that was taken. A full bucket stays full.
func (b *Bucket) GiveBack(r Rate) { b.full = b.full.Add(-r.interval()) }

// A Keyed holds a bucket for each key. It holds at most max of them, besides full ones, which it
// does not remember. The keys beyond share one bucket.
type Keyed[K comparable] struct {
	rate    Rate
	max     int
	buckets map[K]*Bucket
	others  Bucket // of the keys beyond max
	sweep   int    // number of buckets at which full ones are looked for
}

// NewKeyed returns a Keyed of at most max buckets with a rate each.
func NewKeyed[K comparable](r Rate, max int) *Keyed[K] {
	return &Keyed[K]{rate: r, max: max, buckets: make(map[K]*Bucket), sweep: min(64, max)}
}

// Delay returns the time from now until the bucket of a key has a token.
func (k *Keyed[K]) Delay(key K, now time.Time) time.Duration {
	if b := k.buckets[key]; b != nil {
		return b.Delay(k.rate, now)
	}
	if len(k.buckets) >= k.max && !k.forget(now) {
		return k.others.Delay(k.rate, now)
	}
	return 0
}

// Take takes a token of a key.
func (k *Keyed[K]) Take(key K, now time.Time) {
	b := k.buckets[key]
	if b == nil && len(k.buckets) >= k.sweep {
		k.forget(now)
	}
	if b == nil && len(k.buckets) >= k.max {
		k.others.Take(k.rate, now)
		return
	}
	if b == nil {
		b = &Bucket{}
		k.buckets[key] = b
	}
	b.Take(k.rate, now)
}

// TryTake takes a token of a key. It reports false if there is none.
func (k *Keyed[K]) TryTake(key K, now time.Time) bool {
	if k.Delay(key, now) > 0 {
		return false
	}
	k.Take(key, now)
	return true
}

// GiveBack returns a token of a key that was taken.
func (k *Keyed[K]) GiveBack(key K) {
	if b := k.buckets[key]; b != nil {
		b.GiveBack(k.rate)
	} else if len(k.buckets) >= k.max {
		k.others.GiveBack(k.rate)
	}
}

// Len returns the number of buckets.
func (k *Keyed[K]) Len() int { return len(k.buckets) }

// forget forgets the buckets that are full, and reports whether there is space for another one. It
// looks at all buckets, but only after their number has doubled, so that an event costs little on
// average. At the maximum it looks at most every time that the bucket of the other keys is full.
func (k *Keyed[K]) forget(now time.Time) bool {
	atMax := len(k.buckets) >= k.max
	if atMax && k.others.full.After(now) {
		return false
	}
	for key, b := range k.buckets {
		if !b.full.After(now) {
			delete(k.buckets, key)
		}
	}
	k.sweep = min(max(64, 2*len(k.buckets)), k.max)
	return len(k.buckets) < k.max
}
