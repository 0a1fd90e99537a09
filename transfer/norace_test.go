//go:build !race

package transfer

// defaultCrashFates is how many fates of each moment the explorer of crashes tries.
// minCrashStates is how many states it must at least reach.
const defaultCrashFates, minCrashStates = 32, 5000

// faultStep is the distance of the operations that fail, one in each run of a transfer.
const faultStep = 1
