// Package procs decides how many threads run a process's Go code at a time.
//
// Whenever a goroutine becomes ready while a core idles, Go's scheduler wakes another thread for it. Where goroutines hand packets to
// each other many thousand times a second, as quic-go's do, that costs a fifth of all CPU time in wake-ups and cold caches (docs/PERFORMANCE.md),
// and helps only if one thread cannot do the work. So a server gets along with one while it can. A client does not: where it waits for
// a disk, the scheduler may take 10 ms to notice that its only thread does nothing.
package procs

import (
	"os"
	"runtime"
	"time"
)

// Max is how many threads the process may have: as many as the system gives it, which was found out when it began.
var Max = runtime.GOMAXPROCS(0)

const (
	// interval is how often is looked at what the process takes.
	interval = 100 * time.Millisecond
	// calm is after how many intervals in which one thread would have been enough there is one. It doubles each time when that was wrong.
	calm, maxCalm = 3, 3 << 10
	// little is what a process takes at most, in cores, that gets along with one thread, where it takes less.
	little = 1.0
	// diskInputs is how much a process reads from disks in an interval that does not wait for them, in blocks of 512 bytes.
	diskInputs = 512
	// full is from where on one thread is not enough, in cores.
	full = 0.95
)

// usage is what the process has taken so far.
type usage struct {
	cpu    time.Duration
	inputs int64 // what was read from disks, in blocks of 512 bytes
}

// A governor decides. It knows no clock.
type governor struct {
	one    bool // one thread is enough
	calm   int  // intervals so far in which it would have been
	needed int  // after how many it is tried
}

// next takes what the process took in an interval, in cores, and whether there is work that should not wait for other work. It returns
// whether one thread is enough from now on.
func (g *governor) next(cores float64, many bool) bool {
	g.needed = max(g.needed, calm)
	switch {
	case many:
		g.one, g.calm = false, 0
	case g.one && cores > full:
		g.one, g.calm, g.needed = false, 0, min(2*g.needed, maxCalm)
	case g.one:
	case cores < little:
		if g.calm++; g.calm >= g.needed {
			g.one = true
		}
	default:
		g.calm = 0
	}
	return g.one
}

// Govern does it until stop is called, which waits for it and gives back all threads. many says whether there is work that should not wait
// for other work, such as that of several clients. There are all threads, too, while the process reads from a disk. If the user has set
// GOMAXPROCS, or it cannot be found out what the process takes, nothing is done. Only one may govern at a time.
func Govern(many func() bool) (stop func()) {
	last, ok := use()
	if !ok || Max == 1 || os.Getenv("GOMAXPROCS") != "" {
		return func() {}
	}
	quit, done := make(chan struct{}), make(chan struct{})
	go func() { // ends with stop, which waits
		defer close(done)
		ticks := time.NewTicker(interval)
		defer ticks.Stop()
		var g governor
		before, one := time.Now(), false
		for {
			select {
			case <-quit:
				if one {
					runtime.SetDefaultGOMAXPROCS()
				}
				return
			case <-ticks.C:
			}
			now := time.Now()
			used, _ := use()
			cores := float64(used.cpu-last.cpu) / float64(max(now.Sub(before), 1))
			next := g.next(cores, used.inputs-last.inputs > diskInputs || many())
			before, last = now, used
			switch {
			case next && !one:
				runtime.GOMAXPROCS(1)
				one = true
			case one && !next:
				runtime.SetDefaultGOMAXPROCS()
				one = false
			}
		}
	}()
	return func() {
		close(quit)
		<-done
	}
}
