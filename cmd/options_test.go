package cmd

import (
	"testing"
	"time"
)

func TestSeconds(t *testing.T) {
	for text, want := range map[string]time.Duration{
		"0": 0, "5": 5 * time.Second, "1.5": 1500 * time.Millisecond, ".25": 250 * time.Millisecond,
		"90s": 90 * time.Second, "1h30m": 90 * time.Minute, "10ms": 10 * time.Millisecond,
	} {
		var v secondsValue
		if err := v.Set(text); err != nil || v.Duration != want {
			t.Errorf("%q: %v, %v, want %v", text, v.Duration, err, want)
		}
	}
	for _, text := range []string{"", "x", "5x", "1e3", "inf", "NaN", "0x10", "1_000", "99999999999999", "-99999999999999", "1 s", "-1"} {
		var v secondsValue
		if err := v.Set(text); err == nil {
			t.Errorf("%q: %v", text, v.Duration)
		}
	}
	if got := (&secondsValue{Duration: 10 * time.Second}).String(); got != "10s" {
		t.Error(got)
	}
}
