package wire

import (
	"math/bits"
	"time"
)

// maxEra bounds eras. Their times, 10^11 years from now, still fit into a time.Time.
const maxEra = 1 << 27

// SplitTime returns a time as the protocol has it: its distance from the Unix epoch in nanoseconds
// is ns + era * 2^64. The era of the years 1678 to 2261 is 0.
func SplitTime(t time.Time) (ns int64, era int32) {
	seconds := t.Unix()
	high, low := bits.Mul64(uint64(seconds), 1e9)
	if seconds < 0 { // the product of a signed number
		high -= 1e9
	}
	low, carry := bits.Add64(low, uint64(t.Nanosecond()), 0)
	high += carry
	ns = int64(low)
	if ns < 0 {
		high++
	}
	return ns, int32(min(max(int64(high), -maxEra), maxEra))
}

// JoinTime is the reverse of SplitTime. An era beyond those of SplitTime counts as the nearest one.
func JoinTime(ns int64, era int32) time.Time {
	high := int64(min(max(era, -maxEra), maxEra))
	if ns < 0 {
		high--
	}
	// Modulo 2^64, the quotient of the product is that of its remainder.
	rest := high % 1e9
	if rest < 0 {
		rest += 1e9
	}
	seconds, nanoseconds := bits.Div64(uint64(rest), uint64(ns), 1e9)
	return time.Unix(int64(seconds), int64(nanoseconds))
}
