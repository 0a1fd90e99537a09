//go:build race

package transfer

// Under the race detector the explorer of crashes, which is one goroutine, makes fewer states.
const defaultCrashFates, minCrashStates = 8, 0
