//go:build !race

package kwik

const raceEnabled = false
