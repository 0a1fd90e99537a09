package disk

import (
	"testing"
	"time"
)

// TestVersionIsRacy checks up to when a version may stand for two contents, by the granularity
// that its times show.
func TestVersionIsRacy(t *testing.T) {
	const ns, s = time.Nanosecond, time.Second
	even, odd := time.Unix(1_000_000_000, 0), time.Unix(1_000_000_001, 0)
	fine := even.Add(123456789)
	for _, tt := range []struct {
		name    string
		changed time.Time
		after   time.Duration // from the change to now
		want    bool
	}{
		{"fine, at once", fine, 0, true},
		{"fine, within the margin", fine, s - ns, true},
		{"fine, after the margin", fine, s, false},
		{"fine, a little ahead", fine, -s, true},
		{"fine, a clock that was set back", fine, -time.Hour, false},
		{"whole seconds, within", odd, 2*s - ns, true},
		{"whole seconds, after", odd, 2 * s, false},
		{"whole seconds, a clock that was set back", odd, -time.Hour, true},
		{"FAT, within", even, 3*s - ns, true},
		{"FAT, after", even, 3 * s, false},
		{"FAT, a clock that was set back", even, -time.Hour, true},
	} {
		at := tt.changed.UnixNano()
		now := tt.changed.Add(tt.after)
		for _, v := range []Version{
			{MTime: at},
			{MTime: at, CTime: at},
			{MTime: at - int64(time.Hour), CTime: at}, // touch sets the one, not the other
			{MTime: at + int64(time.Hour), CTime: at},
		} {
			if got := v.IsRacy(now); got != tt.want {
				t.Errorf("%s: %+v is racy: %t", tt.name, v, got)
			}
			if v.Tag[3] = 1; v.IsRacy(now) {
				t.Errorf("%s: with a tag it is racy", tt.name)
			}
		}
	}
}
