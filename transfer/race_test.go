//go:build race

package transfer

// defaultCrashFates is lower under the race detector, because the explorer of crashes is one
// slow goroutine.
const defaultCrashFates, minCrashStates = 8, 0

// faultStep is higher under the race detector: most operations lead through the same code.
const faultStep = 7
