package disk

import (
	"math"
	"os"
	"time"
)

// chtimesFar sets the times of an entry to the one that is nearest to mtime among those that
// package os can set.
func chtimesFar(root *os.Root, name string, mtime time.Time) error {
	nearest := time.Unix(0, math.MaxInt64)
	if mtime.Before(nearest) {
		nearest = time.Unix(0, math.MinInt64)
	}
	return root.Chtimes(name, nearest, nearest)
}
