//go:build !race

package transfer

// The explorer of crashes tries so many fates of each moment, and fails with fewer states than that.
const defaultCrashFates, minCrashStates = 32, 5000
