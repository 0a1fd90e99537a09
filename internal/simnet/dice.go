package simnet

import (
	"math"
	"math/rand/v2"
	"time"
)

// Dice draws what the scenarios of the simulators are made of. The same seed and stream draw
// the same sequence.
//
// The order of the draws inside each method is part of the meaning of recorded seeds: a change
// makes every recorded seed another scenario.
type Dice struct{ *rand.Rand }

// NewDice returns the dice of a seed. stream separates dice of one seed that must not
// influence each other.
func NewDice(seed, stream uint64) Dice { return Dice{rand.New(rand.NewPCG(seed, stream))} }

// Half is true in one half of the cases.
func (d Dice) Half() bool { return d.IntN(2) == 0 }

// OneIn is true in one of n cases.
func (d Dice) OneIn(n int) bool { return d.IntN(n) == 0 }

// Log draws from [low, high), with the same probability for every order of magnitude.
func (d Dice) Log(low, high float64) float64 {
	return low * math.Exp(d.Float64()*math.Log(high/low))
}

// Duration is Log for durations.
func (d Dice) Duration(low, high time.Duration) time.Duration {
	return time.Duration(d.Log(float64(low), float64(high)))
}

// Links draws the kinds of trouble that a scenario has, and returns the function that draws
// the link of each host. A kind that is off is off for all hosts, so that scenarios with few
// kinds are frequent.
func (d Dice) Links() func() Link {
	base := Link{}
	loss, far := d.Half(), d.Half()
	if d.Half() {
		base.Jitter = d.Duration(100*time.Microsecond, 10*time.Millisecond)
	}
	if d.Half() {
		base.Reorder = d.Log(0.0005, 0.02)
	}
	if d.Half() {
		base.Duplicate = d.Log(0.001, 0.05)
	}
	if d.Half() {
		base.Flip = d.Log(0.0001, 0.002)
	}
	return func() Link {
		l := base
		l.Latency, l.Rate = 5*time.Millisecond, 100e6
		if far { // each host at its own distance
			l.Latency, l.Rate = d.Duration(500*time.Microsecond, 80*time.Millisecond), d.Log(10e6, 200e6)
		}
		if loss {
			l.Loss = []float64{0, 0.001, 0.01, 0.03}[d.IntN(4)]
		}
		return l
	}
}
