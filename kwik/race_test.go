//go:build race

package kwik

const raceEnabled = true
