package simnet

import (
	"bufio"
	"os"
	"strconv"
	"strings"
)

// ReadSeeds reads a file of seeds that failed once, which simulators repeat: a
// seed a line, and comments after #.
func ReadSeeds(path string) (seeds []uint64, err error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		text, _, _ := strings.Cut(lines.Text(), "#")
		if text = strings.TrimSpace(text); text == "" {
			continue
		}
		seed, err := strconv.ParseUint(text, 10, 64)
		if err != nil {
			return nil, err
		}
		seeds = append(seeds, seed)
	}
	return seeds, lines.Err()
}
