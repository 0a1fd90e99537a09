package kwik

import (
	"slices"
	"testing"
	"time"
)

// TestWidthPolicy gives the policy one report on each path in every reportInterval. The rate
// of the server follows from the number of its paths.
func TestWidthPolicy(t *testing.T) {
	const rtt = 40 * time.Millisecond
	type scene struct {
		fixed int
		rate  func(paths int) float64               // bytes a second
		next  func(at time.Duration, r *pathReport) // fills in a report
	}
	each := func(n int) float64 { return 2e6 * float64(n) }
	shared := func(n int) float64 { return 2e6 }
	lossy := func(_ time.Duration, r *pathReport) { r.lost++ }
	play := func(s scene, seconds int) (widths []int) {
		w := newWidthPolicy(s.fixed)
		now := time.Unix(1e9, 0)
		last := make(map[PathID]pathReport)
		received := 0.0
		for at := time.Duration(0); at < time.Duration(seconds)*time.Second; at += reportInterval {
			paths := w.width
			received += s.rate(paths) * reportInterval.Seconds()
			for n := range paths {
				id := ServerID("s1").path(n + 1)
				r := last[id]
				r.sent, r.rtt, r.minRTT = r.sent+1000, rtt, rtt
				s.next(at, &r)
				last[id] = r
				w.report(id, r, int64(received), now.Add(at))
			}
			for id := range last { // paths that the policy no longer wants
				n := 1
				for ; id != ServerID("s1").path(n); n++ {
				}
				if n > w.width {
					w.removePath(id)
					delete(last, id)
				}
			}
			if len(widths) == 0 || widths[len(widths)-1] != w.width {
				widths = append(widths, w.width)
			}
		}
		return widths
	}
	for name, tt := range map[string]struct {
		scene
		seconds int
		want    []int
	}{
		"loss without a queue":        {scene{0, each, lossy}, 20, []int{1, 2, 4}},
		"no loss":                     {scene{0, each, func(time.Duration, *pathReport) {}}, 20, []int{1}},
		"loss behind a queue":         {scene{0, each, func(_ time.Duration, r *pathReport) { r.lost++; r.rtt = 2 * rtt }}, 20, []int{1}},
		"the queue just short enough": {scene{0, each, func(_ time.Duration, r *pathReport) { r.lost++; r.rtt = rtt * 5 / 4 }}, 20, []int{1, 2, 4}},
		"the queue just too long":     {scene{0, each, func(_ time.Duration, r *pathReport) { r.lost++; r.rtt = rtt*5/4 + 1 }}, 20, []int{1}},
		"a short way": {scene{0, each, func(_ time.Duration, r *pathReport) {
			r.lost++
			r.rtt, r.minRTT = 1999*time.Microsecond, 1999*time.Microsecond
		}}, 20, []int{1}},
		"two are no faster":           {scene{0, shared, lossy}, 6, []int{1, 2, 1}},
		"two are no faster, for long": {scene{0, shared, lossy}, 18, []int{1, 2, 1, 2, 1}},
		"four are no faster than two": {scene{0, func(n int) float64 { return 2e6 * float64(min(n, 2)) }, lossy}, 9, []int{1, 2, 4, 2}},
		"one loss long ago":           {scene{0, each, func(at time.Duration, r *pathReport) { r.lost = uint64(min(at/reportInterval, 1)) }}, 20, []int{1, 2}},
		"nothing comes":               {scene{0, func(int) float64 { return 0 }, lossy}, 20, []int{1}},
		"a fixed number":              {scene{3, each, lossy}, 20, []int{3}},
		"one, fixed":                  {scene{1, each, lossy}, 20, []int{1}},
	} {
		if got := play(tt.scene, tt.seconds); !slices.Equal(got, tt.want) {
			t.Errorf("%s: %v, want %v", name, got, tt.want)
		}
	}
}

// Reports that arrive too often are sampled like others, and cost no more.
func TestReportsAreHeardNowAndThen(t *testing.T) {
	w := newWidthPolicy(0)
	now := time.Unix(1e9, 0)
	for i := range 100_000 {
		w.report("s1", pathReport{sent: uint64(i), lost: uint64(i), rtt: time.Second, minRTT: time.Second}, int64(i), now.Add(time.Duration(i)*time.Microsecond))
	}
	if len(w.samples) != 1 {
		t.Errorf("%d samples of a tenth of a second", len(w.samples))
	}
}
