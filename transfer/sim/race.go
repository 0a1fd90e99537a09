//go:build race

package sim

// DefaultSeeds is how many seeds a plain run of the tests takes. It is lower under the slow
// race detector.
const DefaultSeeds = 40
