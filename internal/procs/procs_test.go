package procs

import (
	"runtime"
	"testing"
	"time"
)

// A step is the load of a process in some intervals, and the decision after the last of them.
type step struct {
	cores     float64
	many      bool
	intervals int
	one       bool
}

func TestGovernor(t *testing.T) {
	for name, steps := range map[string][]step{
		"idle":                   {{0, false, idleTicks - 1, false}, {0, false, 1, true}, {0, false, 100, true}},
		"just one thread's work": {{lowLoad - 0.01, false, idleTicks, true}, {fullLoad, false, 100, true}},
		"more than one thread's": {{lowLoad, false, 100, false}},
		"low load must be consecutive": {
			{0, false, idleTicks - 1, false}, {2, false, 1, false}, {0, false, idleTicks - 1, false},
			{0, false, 1, true},
		},
		"several clients": {{0, true, 100, false}, {0, false, idleTicks, true}, {0, true, 1, false}, {0, false, idleTicks, true}},
		"one thread was not enough": {
			{0.9, false, idleTicks, true}, {fullLoad + 0.01, false, 1, false},
			{0.9, false, 2*idleTicks - 1, false}, {0.9, false, 1, true}, {1, false, 1, false},
			{0.9, false, 4*idleTicks - 1, false}, {0.9, false, 1, true},
		},
	} {
		var g governor
		for i, s := range steps {
			var one bool
			for range s.intervals {
				one = g.next(s.cores, s.many)
			}
			if one != s.one {
				t.Errorf("%s, step %d: one thread %t", name, i, one)
			}
		}
	}
	var g governor
	for range 100 { // wrong each time
		for !g.next(0, false) {
		}
		g.next(1, false)
	}
	if g.needed > maxIdleTicks {
		t.Errorf("it waits for %d intervals", g.needed)
	}
}

// An idle process drops to one thread, and gets all of them back in the end.
func TestGovern(t *testing.T) {
	if _, ok := use(); !ok || Max == 1 {
		t.Skip("needs two cores, and a system that tells what a process takes")
	}
	t.Setenv("GOMAXPROCS", "")        // the tester may have set it
	tester := runtime.GOMAXPROCS(Max) // go test -cpu may have lowered it
	t.Cleanup(func() { runtime.GOMAXPROCS(tester) })
	begun := time.Now()
	stop := Govern(func() bool { return false })
	for runtime.GOMAXPROCS(0) != 1 {
		if time.Since(begun) > 30*time.Second {
			t.Fatal("it still has all threads")
		}
		time.Sleep(interval)
	}
	stop()
	if n := runtime.GOMAXPROCS(0); n == 1 {
		t.Error("it did not get them back")
	}
	t.Setenv("GOMAXPROCS", "2")
	stop = Govern(func() bool { return false })
	time.Sleep(2 * idleTicks * interval)
	if runtime.GOMAXPROCS(0) == 1 {
		t.Error("it did what the user forbade")
	}
	stop()
}
