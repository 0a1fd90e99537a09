//go:build race

package sim

// DefaultSeeds is how many seeds a plain run of the tests takes: fewer under the race detector, which is slow.
const DefaultSeeds = 100
