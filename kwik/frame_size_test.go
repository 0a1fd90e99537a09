package kwik

import (
	"testing"
	"time"
)

func TestFrameSizer(t *testing.T) {
	const kib = 1 << 10
	type frame struct {
		n    int64 // 0: as large as the sizer says
		took time.Duration
		next int64
	}
	for _, tc := range []struct {
		name   string
		most   int64
		first  int64
		frames []frame
	}{
		{"fast path", 256 * kib, 64 * kib, []frame{
			{0, time.Millisecond, 128 * kib}, {0, time.Millisecond, 256 * kib}, {0, time.Millisecond, 256 * kib},
		}},
		{"slow path", 256 * kib, 64 * kib, []frame{{0, time.Second, 64 * kib}, {0, maxFrameTime, 64 * kib}}},
		{"bounds of time", 256 * kib, 64 * kib, []frame{
			{0, maxFrameTime / 2, 64 * kib}, {0, maxFrameTime/2 - 1, 128 * kib}, {0, maxFrameTime, 128 * kib},
			{0, maxFrameTime + 1, 64 * kib},
		}},
		{"short frame says nothing", 256 * kib, 64 * kib, []frame{{32 * kib, 0, 64 * kib}, {32*kib + 1, 0, 128 * kib}}},
		{"unit above the size", 256 * kib, 64 * kib, []frame{{1024 * kib, 0, 128 * kib}}},
		{"small limit", 4 * kib, 4 * kib, []frame{{0, 0, 4 * kib}, {0, time.Second, 4 * kib}}},
		{"limit between powers", 100 * kib, 64 * kib, []frame{{0, 0, 100 * kib}, {0, time.Second, 64 * kib}}},
	} {
		f := newFrameSizer(tc.most)
		if f.size != tc.first {
			t.Errorf("%s: the first frame has %d bytes, want %d", tc.name, f.size, tc.first)
		}
		for i, x := range tc.frames {
			n := x.n
			if n == 0 {
				n = f.size
			}
			if f.wrote(n, x.took); f.size != x.next {
				t.Errorf("%s: after frame %d the size is %d, want %d", tc.name, i, f.size, x.next)
			}
		}
	}
}
