// Package procs limits how many threads run a process's Go code at a time.
//
// Whenever a goroutine becomes ready while a core idles, Go's scheduler wakes another
// thread for it. In quic-go, goroutines hand packets to each other many thousand times a
// second. There the wake-ups and cold caches cost a fifth of all CPU time
// (docs/PERFORMANCE.md), and they help only if one thread cannot do the work. So a server
// runs with one thread while that is enough. A client does not: while its only thread
// waits for a disk, the scheduler may take 10 ms to start another.
package procs

import (
	"os"
	"runtime"
	"time"
)

// Max is the number of threads that the system gave the process at its start.
var Max = runtime.GOMAXPROCS(0)

const (
	// interval is the time between two measurements of the process's load.
	interval = 100 * time.Millisecond
	// idleTicks is the number of consecutive low-load intervals before the process drops to
	// one thread. It doubles, up to maxIdleTicks, each time that one thread was not enough.
	idleTicks, maxIdleTicks = 3, 3 << 10
	// lowLoad bounds the load, in cores, of an interval that counts as low.
	lowLoad = 1.0
	// fullLoad is the load, in cores, above which one thread is not enough.
	fullLoad = 0.95
	// maxDiskInputs bounds the disk reads of an interval in which the process does not wait
	// for disks, in blocks of 512 bytes.
	maxDiskInputs = 512
)

// usage is the sum of the resources that the process has used.
type usage struct {
	cpu    time.Duration
	inputs int64 // disk reads, in blocks of 512 bytes
}

// A governor decides between one thread and all. It has no clock.
type governor struct {
	one    bool // one thread is enough
	low    int  // consecutive low-load intervals so far
	needed int  // low-load intervals before the drop to one thread
}

// next takes the load of an interval, in cores, and whether there is work that must not
// wait for other work. It reports whether one thread is enough from now on.
func (g *governor) next(cores float64, many bool) bool {
	g.needed = max(g.needed, idleTicks)
	switch {
	case many:
		g.one, g.low = false, 0
	case g.one && cores > fullLoad:
		g.one, g.low, g.needed = false, 0, min(2*g.needed, maxIdleTicks)
	case g.one:
	case cores < lowLoad:
		if g.low++; g.low >= g.needed {
			g.one = true
		}
	default:
		g.low = 0
	}
	return g.one
}

// Govern adjusts the number of threads to the load until stop is called. stop waits for
// its goroutine and restores all threads. many reports whether there is work that must not wait for other work, such as that of several clients. In that case, and while it reads from a disk, the process has all threads. If the user has set GOMAXPROCS, or the system does not
// report the load, Govern does nothing. It must not run twice at a time.
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
			next := g.next(cores, used.inputs-last.inputs > maxDiskInputs || many())
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
