package transfer

import (
	"testing"

	"kwikcp/kwik"
)

// Of a range, the bytes outside count as in place once the copy has begun. A report before that
// counts no byte, and not fewer than none.
func TestProgressOfARange(t *testing.T) {
	o := newObserver(nil)
	o.outside(900)
	for _, c := range []struct{ inPlace, want int64 }{{0, 0}, {900, 0}, {901, 1}, {1000, 100}} {
		p := o.progress(nil, kwik.StreamStats{Size: 1000, Bytes: c.inPlace})
		if p.Bytes != c.want || p.Total != 100 || p.Rate < 0 {
			t.Errorf("%d bytes in place: %+v", c.inPlace, p)
		}
	}
}
