package kwik

import (
	"net/netip"
	"time"
)

// maxPrefixes bounds the prefixes that a prefixLimit remembers. Each takes about 100 bytes.
const maxPrefixes = 4096

// A prefixLimit is a token bucket for each address prefix. Its methods have no clock, and the
// caller guards them with a lock.
type prefixLimit struct {
	burst    int
	interval time.Duration // in which one token returns
	buckets  map[netip.Prefix]prefixBucket
}

// A prefixBucket is full at a time: each token that is missing is one interval before that.
type prefixBucket struct{ full time.Time }

func newPrefixLimit(burst int, interval time.Duration) *prefixLimit {
	return &prefixLimit{burst: burst, interval: interval, buckets: make(map[netip.Prefix]prefixBucket)}
}

// take takes a token of a prefix. It reports false if there is none.
func (p *prefixLimit) take(prefix netip.Prefix, now time.Time) bool {
	b := tokenBucket{burst: p.burst, interval: p.interval, full: p.buckets[prefix].full}
	if !b.take(now) {
		return false
	}
	p.makeSpace(prefix, now)
	p.buckets[prefix] = prefixBucket{b.full}
	return true
}

// giveBack returns a token that was taken.
func (p *prefixLimit) giveBack(prefix netip.Prefix, now time.Time) {
	b, ok := p.buckets[prefix]
	if !ok {
		return
	}
	if b.full = b.full.Add(-p.interval); b.full.After(now) {
		p.buckets[prefix] = b
	} else {
		delete(p.buckets, prefix)
	}
}

// makeSpace makes space for a prefix. It drops the buckets that are full again, and if that is not
// enough the one that will be full first: it limits least.
func (p *prefixLimit) makeSpace(prefix netip.Prefix, now time.Time) {
	if _, known := p.buckets[prefix]; known || len(p.buckets) < maxPrefixes {
		return
	}
	var first netip.Prefix
	var full time.Time
	for prefix, b := range p.buckets {
		switch {
		case !b.full.After(now):
			delete(p.buckets, prefix)
		case full.IsZero() || b.full.Before(full):
			first, full = prefix, b.full
		}
	}
	if len(p.buckets) >= maxPrefixes {
		delete(p.buckets, first)
	}
}
