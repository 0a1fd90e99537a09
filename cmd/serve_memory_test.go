package cmd

import (
	"math"
	"runtime/debug"
	"testing"
)

func TestParseMaxMemory(t *testing.T) {
	for text, want := range map[string]int64{"": 0, "16M": 16 << 20, "16777216": 16 << 20, "1.5G": 3 << 29} {
		if got, err := parseMaxMemory(text); err != nil || got != want {
			t.Errorf("%q: %d, %v, want %d", text, got, err, want)
		}
	}
	for _, text := range []string{"0", "-1", "x", "16777215", "15M", "8388608T"} {
		if got, err := parseMaxMemory(text); err == nil {
			t.Errorf("%q: %d", text, got)
		}
	}
}

// The collector's limit is set for a server, unless the user has set one, and is restored.
func TestCollectEarly(t *testing.T) {
	before := debug.SetMemoryLimit(math.MaxInt64)
	defer debug.SetMemoryLimit(before)
	restore := collectEarly(256 << 20)
	if got := debug.SetMemoryLimit(-1); got != 384<<20+uncharged {
		t.Errorf("limit %d", got)
	}
	restore()
	if got := debug.SetMemoryLimit(-1); got != math.MaxInt64 {
		t.Errorf("limit %d in the end", got)
	}
	collectEarly(math.MaxInt64)()
	debug.SetMemoryLimit(1 << 40)
	collectEarly(1)
	if got := debug.SetMemoryLimit(-1); got != 1<<40 {
		t.Errorf("GOMEMLIMIT became %d", got)
	}
}

func TestOpenContents(t *testing.T) {
	if n := openContents(); n < 0 || n > maxOpenContents {
		t.Errorf("%d contents", n)
	}
}
