package kwik

import (
	"net/netip"
	"testing"
	"time"

	"kwikcp/internal/netprefix"
)

func prefixNumber(n int) netip.Prefix {
	return netprefix.Of(netip.AddrFrom4([4]byte{10, byte(n >> 16), byte(n >> 8), byte(n)}))
}

func TestPrefixLimit(t *testing.T) {
	now := time.Unix(1_700_000_000, 0)
	p := newPrefixLimit(3, 10*time.Second)
	a, b := prefixNumber(1), prefixNumber(2)
	takes := func(prefix netip.Prefix, at time.Duration, want bool) {
		t.Helper()
		if got := p.take(prefix, now.Add(at)); got != want {
			t.Errorf("%v after %v: %v", prefix, at, got)
		}
	}
	for range 3 {
		takes(a, 0, true)
	}
	takes(a, 0, false)
	takes(b, 0, true) // each prefix has its own
	takes(a, 10*time.Second-1, false)
	takes(a, 10*time.Second, true)
	takes(a, 10*time.Second, false)
	p.giveBack(a, now.Add(10*time.Second))
	takes(a, 10*time.Second, true)
	for range 3 {
		takes(a, time.Hour, true)
	}
	takes(a, time.Hour, false)
	for range 9 { // there are never more than burst
		p.giveBack(b, now.Add(time.Hour))
	}
	for range 3 {
		takes(b, time.Hour, true)
	}
	takes(b, time.Hour, false)
}

// However many prefixes there are, the memory is bounded, and the prefix that took most stays
// limited.
func TestAttackPrefixLimitMemory(t *testing.T) {
	now := time.Unix(1_700_000_000, 0)
	p := newPrefixLimit(3, 10*time.Second)
	hungry := prefixNumber(1 << 20)
	for range 3 {
		p.take(hungry, now)
	}
	for n := range maxPrefixes + 512 {
		if !p.take(prefixNumber(n), now) {
			t.Fatalf("prefix %d is refused", n)
		}
		if len(p.buckets) > maxPrefixes {
			t.Fatalf("%d buckets", len(p.buckets))
		}
	}
	if p.take(hungry, now) {
		t.Error("a prefix without tokens got one")
	}
	p.take(prefixNumber(1<<21), now.Add(time.Hour))
	if len(p.buckets) != 1 {
		t.Errorf("%d buckets after an hour", len(p.buckets))
	}
}
