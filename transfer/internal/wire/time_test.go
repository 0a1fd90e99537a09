package wire

import (
	"math"
	"testing"
	"time"
)

func TestTimes(t *testing.T) {
	for _, want := range []time.Time{
		time.Unix(0, 0), time.Unix(0, 1), time.Unix(-1, 999999999), time.Unix(0, math.MaxInt64), time.Unix(0, math.MinInt64),
		time.Date(1600, 1, 1, 0, 0, 0, 1, time.UTC), time.Date(1, 1, 1, 0, 0, 0, 0, time.UTC), time.Date(-5000, 1, 1, 0, 0, 0, 7, time.UTC),
		time.Date(2262, 4, 12, 0, 0, 0, 0, time.UTC), time.Date(2446, 5, 10, 22, 38, 55, 0, time.UTC),
		time.Date(9999, 12, 31, 23, 59, 59, 999999999, time.UTC), time.Date(290000000, 1, 1, 0, 0, 0, 5, time.UTC),
	} {
		ns, era := SplitTime(want)
		if got := JoinTime(ns, era); !got.Equal(want) {
			t.Errorf("%v became %v (%d, era %d)", want.UTC(), got.UTC(), ns, era)
		}
		if isNear := time.Unix(0, want.UnixNano()).Equal(want); (era == 0) != isNear {
			t.Errorf("the era of %v is %d", want.UTC(), era)
		}
	}
}

func FuzzTimes(f *testing.F) {
	f.Add(int64(-1), int32(1))
	f.Add(int64(math.MinInt64), int32(math.MinInt32))
	f.Add(int64(math.MaxInt64), int32(math.MaxInt32))
	f.Fuzz(func(t *testing.T, ns int64, era int32) {
		got, back := SplitTime(JoinTime(ns, era))
		if want := min(max(era, -maxEra), maxEra); got != ns || back != want {
			t.Errorf("%d, era %d became %d, era %d", ns, era, got, back)
		}
	})
}
