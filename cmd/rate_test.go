package cmd

import "testing"

func TestParseSize(t *testing.T) {
	for text, want := range map[string]int64{
		"0": 0, "1": 1, "1023": 1023, "1K": 1024, "1k": 1024, "10M": 10 << 20, "1.5M": 3 << 19, "2G": 2 << 30, "3t": 3 << 40, ".5K": 512,
	} {
		if got, err := parseSize(text); err != nil || got != want {
			t.Errorf("%q: %d, %v, want %d", text, got, err, want)
		}
	}
	for _, text := range []string{"", "K", "-1", "+1", "1KB", "1 K", "0x10", "1e3", "inf", "NaN", "9999999999999999999", "1..2", "8388608T"} {
		if n, err := parseSize(text); err == nil {
			t.Errorf("%q: %d", text, n)
		}
	}
}
