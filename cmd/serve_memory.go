package cmd

import (
	"fmt"
	"math"
	"runtime/debug"

	"github.com/urfave/cli/v2"
)

const (
	// minMaxMemory is the least value of --max-memory, in bytes: that of kwik's MemoryLimit.
	minMaxMemory = 16 << 20
	// uncharged is the memory that a server needs besides that for clients, in bytes: 1,024
	// connections of 128 KiB, and its own tables.
	uncharged = 192 << 20
	// maxOpenContents bounds the files that are open for clients on a machine that allows more.
	maxOpenContents = 16 << 10
)

// maxMemoryOption returns --max-memory.
func maxMemoryOption(to *string) cli.Flag {
	f := stringOption(to, "max-memory", "hold at most `SIZE` bytes of memory for clients, such as 256M, at least 16M; "+
		"connections need about 100K each besides")
	f.DefaultText = "a quarter of the memory, 64M to 4G"
	return f
}

// parseMaxMemory reads the value of --max-memory; 0 means the default.
func parseMaxMemory(text string) (int64, error) {
	if text == "" {
		return 0, nil
	}
	n, err := parseSize(text)
	if err == nil && n < minMaxMemory {
		err = fmt.Errorf("%q is less than 16M", text)
	}
	if err != nil {
		return 0, usagef(adviseMemory, "--max-memory: %w", err)
	}
	return n, nil
}

// collectEarly makes the garbage collector run before the process holds half as much again as it
// may hold for clients, unless GOMEMLIMIT is set. Without it the collector waits until the heap has
// doubled.
func collectEarly(forClients int64) (restore func()) {
	before := debug.SetMemoryLimit(-1)
	if before != math.MaxInt64 || forClients > math.MaxInt64/2 {
		return func() {}
	}
	debug.SetMemoryLimit(forClients + forClients/2 + uncharged)
	return func() { debug.SetMemoryLimit(before) }
}

// openContents returns how many contents may be open at once for clients. It is half of the files
// that the process may open, 0 if that is unknown.
func openContents() int { return int(min(openFileLimit()/2, maxOpenContents)) }
