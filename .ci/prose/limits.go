package main

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"
)

// formatLimits returns the limits file for the given counts: one line "place category count"
// each, sorted. A count that is not listed has the limit zero.
func formatLimits(counts map[key]int) []byte {
	keys := slices.SortedFunc(maps.Keys(counts), func(a, b key) int {
		return cmp.Or(cmp.Compare(a.place, b.place), cmp.Compare(a.category, b.category))
	})
	var b bytes.Buffer
	fmt.Fprintln(&b, "# The highest counts that CI accepts; everything else must be zero. Written by: go run ./.ci/prose -write")
	for _, k := range keys {
		fmt.Fprintf(&b, "%s %s %d\n", k.place, k.category, counts[k])
	}
	return b.Bytes()
}

// parseLimits reads what formatLimits wrote.
func parseLimits(content []byte) (map[key]int, error) {
	limits := map[key]int{}
	for i, line := range strings.Split(string(content), "\n") {
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		fields := strings.Fields(line)
		if len(fields) != 3 || !slices.Contains(categories, fields[1]) {
			return nil, fmt.Errorf("%s:%d: want PLACE CATEGORY COUNT, have %q", limitsFile, i+1, line)
		}
		n, err := strconv.Atoi(fields[2])
		if err != nil {
			return nil, fmt.Errorf("%s:%d: %w", limitsFile, i+1, err)
		}
		limits[key{fields[0], fields[1]}] = n
	}
	return limits, nil
}

// checkLimits compares the counts with the recorded limits. A count below its limit is
// reported and accepted.
func checkLimits(out io.Writer, counts map[key]int) error {
	content, err := os.ReadFile(limitsFile)
	if err != nil {
		return err
	}
	limits, err := parseLimits(content)
	if err != nil {
		return err
	}
	above, below := compare(counts, limits)
	if below > 0 {
		fmt.Fprintf(out, "%d counts are below their limits; record them with -write\n", below)
	}
	for _, line := range above {
		fmt.Fprintln(out, line)
	}
	if len(above) > 0 {
		return errors.New("counts exceed their limits; -v PATH lists the findings")
	}
	return nil
}

// compare returns a line for each count above its limit, sorted, and the number of counts
// below theirs.
func compare(counts, limits map[key]int) (above []string, below int) {
	for k, n := range counts {
		if n > limits[k] {
			above = append(above, fmt.Sprintf("%s %s: %d, the limit is %d", k.place, k.category, n, limits[k]))
		}
	}
	for k, limit := range limits {
		if counts[k] < limit {
			below++
		}
	}
	slices.Sort(above)
	return above, below
}

func sortedKeys[V any](m map[string]V) []string {
	return slices.Sorted(maps.Keys(m))
}
