package cmd

import (
	"errors"
	"math"
	"math/big"
	"strconv"
	"strings"
	"time"
)

// This file has the one notation of numbers in values of options. Numbers are decimal, also with a
// leading zero. They have no sign, no exponent, no separator and no blank. A number that is not 0
// does not become 0 by rounding.

// The texts of these errors follow the name of an option (newFlagError).
var (
	errNegative  = errors.New("must not be negative")
	errNotCount  = errors.New("it is not a whole number")
	errNotNumber = errors.New("it is not a number")
	errNotTime   = errors.New("it is not a time, such as 10, 1.5 or 2h30m")
	errLongTime  = errors.New("it is more than a century")
	errNoTime    = errors.New("it is less than a nanosecond")
	// errRounded means that a number would be rounded to 0.
	errRounded = errors.New("it is less than the smallest unit")
)

// parseCount reads a whole number of at most math.MaxInt32.
func parseCount(text string) (int, error) {
	n, err := strconv.ParseUint(text, 10, 31)
	switch {
	case err != nil && isNegative(text):
		return 0, errNegative
	case err != nil:
		return 0, errNotCount
	}
	return int(n), nil
}

// isNegative reports whether a text without its sign may be a number.
func isNegative(text string) bool {
	number, ok := strings.CutPrefix(text, "-")
	return ok && strings.Trim(number[:min(len(number), 1)], "0123456789.") == "" && number != ""
}

// maxDigits bounds the text of a number.
const maxDigits = 40

// parseDecimal reads a number with or without a fraction, and returns it times unit, rounded down.
// The product is less than math.MaxInt64.
func parseDecimal(text string, unit int64) (int64, error) {
	digits := strings.Replace(text, ".", "", 1)
	if digits == "" || len(text) > maxDigits || strings.Trim(digits, "0123456789") != "" {
		return 0, errNotNumber
	}
	n, ok := new(big.Rat).SetString(text)
	if !ok {
		return 0, errNotNumber
	}
	n.Mul(n, new(big.Rat).SetInt64(unit))
	product := new(big.Int).Quo(n.Num(), n.Denom())
	switch {
	case !product.IsInt64() || product.Int64() == math.MaxInt64:
		return 0, errNotNumber
	case product.Sign() == 0 && n.Sign() != 0:
		return 0, errRounded
	}
	return product.Int64(), nil
}

// maxTime is the longest time that an option can name, a century.
const maxTime = 100 * 365 * 24 * time.Hour

// timeUnits are the units of times.
var timeUnits = map[string]time.Duration{
	"": time.Second, "ns": time.Nanosecond, "us": time.Microsecond, "µs": time.Microsecond, "μs": time.Microsecond,
	"ms": time.Millisecond, "s": time.Second, "m": time.Minute, "h": time.Hour, "d": 24 * time.Hour,
	"w": 7 * 24 * time.Hour,
}

// parseTime reads a duration: a number of seconds, or numbers with units, such as 1h30m.
func parseTime(text string) (time.Duration, error) {
	if isNegative(text) {
		return 0, errNegative
	}
	total := time.Duration(0)
	for rest := text; ; {
		number := rest[:len(rest)-len(strings.TrimLeft(rest, "0123456789."))]
		rest = rest[len(number):]
		end := strings.IndexAny(rest, "0123456789.")
		if end < 0 {
			end = len(rest)
		}
		unit, isUnit := timeUnits[rest[:end]]
		isSeconds := end == 0
		rest = rest[end:]
		if !isUnit || isSeconds && len(number) != len(text) {
			return 0, errNotTime
		}
		n, err := parseDecimal(number, int64(unit))
		switch {
		case errors.Is(err, errRounded):
			return 0, errNoTime
		case err != nil:
			return 0, errNotTime
		}
		if total += time.Duration(min(n, int64(maxTime)+1)); total > maxTime {
			return 0, errLongTime
		}
		if rest == "" {
			return total, nil
		}
	}
}
