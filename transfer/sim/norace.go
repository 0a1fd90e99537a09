//go:build !race

package sim

// DefaultSeeds is how many seeds a plain run of the tests takes.
const DefaultSeeds = 200
