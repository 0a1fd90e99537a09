package backoff

import (
	"math"
	"testing"
	"time"
)

func TestDelayDoubles(t *testing.T) {
	p := Policy{Min: 3 * time.Second, Max: 20 * time.Second}
	for i, want := range []time.Duration{3, 6, 12, 20, 20} {
		if got := p.Delay(i + 1); got != want*time.Second {
			t.Errorf("after %d failures: %v, want %v", i+1, got, want*time.Second)
		}
	}
	if got := p.Delay(math.MaxInt); got != p.Max {
		t.Errorf("after very many failures: %v, want %v", got, p.Max)
	}
	long := Policy{Min: time.Hour, Max: math.MaxInt64}
	if got := long.Delay(100); got != long.Max {
		t.Errorf("near the largest duration: %v, want %v", got, long.Max)
	}
}

func TestDelayIsWithinItsBounds(t *testing.T) {
	p := Policy{Min: time.Minute, Max: time.Second}
	if got := p.Delay(1); got != p.Max {
		t.Errorf("with Min above Max: %v, want %v", got, p.Max)
	}
}

func TestJitterShortens(t *testing.T) {
	for random, want := range map[float64]time.Duration{0: 8 * time.Second, 0.5: 7 * time.Second, 1: 6 * time.Second} {
		p := Policy{Min: 4 * time.Second, Max: time.Minute, Random: func() float64 { return random }}
		if got := p.Delay(2); got != want {
			t.Errorf("with random %v: %v, want %v", random, got, want)
		}
	}
}
