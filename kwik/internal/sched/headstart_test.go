package sched

import (
	"testing"
	"time"

	"kwikcp/internal/rangeset"
)

// A head start that arrived long before a consumer wants it is no stalled grant, and is granted to no other source.
func TestHeadStartReadLate(t *testing.T) {
	const unit, rtt = 64 << 10, 10 * time.Millisecond
	u, err := NewUnits(10*unit, unit, nil)
	if err != nil {
		t.Fatal(err)
	}
	s, now := New(u, u.total), time.Unix(1e9, 0)
	s.AddHeadStart(Source{ID: "a", RTT: rtt}, 4*unit, now)
	s.AddSource(Source{ID: "b", RTT: rtt}, now)
	now = now.Add(time.Minute)
	s.Start(now)
	granted := 0
	for i := range 4 {
		for _, x := range s.Actions() {
			if x.Kind != ActionGrant {
				continue
			}
			granted++
			if x.Start < 4*unit {
				t.Errorf("[%d, %d) is granted to %s", x.Start, x.End, x.Source)
			}
			if x.Source == "b" { // which is fast
				s.Accept(x.Grant, x.End, []rangeset.Range{{Start: x.Start, End: x.End}}, now)
				s.CloseGrant(x.Grant, now)
			}
		}
		now = now.Add(TickInterval)
		s.Observe("a", int64(1+i)*unit/16, rtt, now) // arrives as fast, and is not verified yet
		s.Tick(now)
	}
	if granted == 0 {
		t.Error("nothing was granted")
	}
}
