package sysmem

import (
	"math"
	"testing"
)

// The least limit of all groups counts, also of those above the process's own.
func TestGroupLimit(t *testing.T) {
	for _, tt := range []struct {
		name, groups string
		files        map[string]string
		want         int64
	}{
		{"no groups", "", nil, math.MaxInt64},
		{"no limit", "0::/a/b\n", map[string]string{"/a/b/memory.max": "max\n"}, math.MaxInt64},
		{"own limit", "0::/a/b\n", map[string]string{"/a/b/memory.max": "1073741824\n"}, 1 << 30},
		{"limit above", "0::/a/b\n", map[string]string{"/a/memory.max": "5\n", "/a/b/memory.max": "6\n"}, 5},
		{"in a container", "0::/../../x\n", map[string]string{"/memory.max": "7\n"}, 7},
		{"version 1", "12:cpu:/x\n5:cpuset,memory:/y/z\n0::/\n", map[string]string{
			"/memory/y/z/memory.limit_in_bytes": "8\n", "/memory/memory.limit_in_bytes": "9223372036854771712\n",
			"/x/memory.max": "1\n",
		}, 8},
		{"more than an int64", "0::/\n", map[string]string{"/memory.max": "18446744073709551615\n"}, math.MaxInt64},
		{"malformed", "0::\n1\n\n::\n0::/a", map[string]string{"/a/memory.max": "4 MB", "/memory.max": "-1"},
			math.MaxInt64},
	} {
		got := groupLimit(tt.groups, func(name string) string { return tt.files[name] })
		if got != tt.want {
			t.Errorf("%s: %d, want %d", tt.name, got, tt.want)
		}
	}
}
