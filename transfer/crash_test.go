//go:build unix

package transfer

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"hash/fnv"
	"kwikcp/integrity"
	"kwikcp/transfer/disk"
	"kwikcp/transfer/internal/transfertest"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
)

var (
	crashFates = flag.Int("crashfates", defaultCrashFates, "how many crash states to make of each moment of each run")
	crashAt    = flag.String("crashat", "", "try only this crash, as a failure names it")
)

// A crashExplorer tries one case.
type crashExplorer struct {
	*testing.T
	crashCase
	// run is the transfer. Bytes that were taken for proved and are wrong are lies.
	run func(c crashCase, d *crashDisk, r *rand.Rand) (result Result, lies int64, err error)
	// later is another version that the server may have after a crash; nil for none.
	later *version
	at    string // which crash this is
	seen  map[uint64]bool
	tried int
}

// random returns the dice for one crash, which follow from its name.
func (x *crashExplorer) random() *rand.Rand {
	h := fnv.New64a()
	h.Write([]byte(x.at))
	return rand.New(rand.NewPCG(h.Sum64(), 1))
}

// fate returns the n-th of those that are tried at a moment.
func (x *crashExplorer) fate(n int) fate {
	if sure := []fate{keepAll{}, dropAll{}, sizesOnly{}, dataOnly{}}; n < len(sure) {
		return sure[n]
	}
	return chance{x.random()}
}

func (x *crashExplorer) fail(d *crashDisk, k int, s diskState, format string, args ...any) {
	x.Helper()
	x.Fatalf("%s\nafter %q\nthe disk has %v\nthis crash again: go test ./transfer -run '^%s$' -crashat %s",
		fmt.Sprintf(format, args...), d.log[:k], s, strings.ReplaceAll(x.Name(), "/", "$/^"), x.at)
}

// crash checks one state that a power cut after k operations leaves, and runs the transfer
// again there. If done, the transfer had succeeded by then. It returns the second run's disk,
// or nil if the state is not new.
func (x *crashExplorer) crash(d *crashDisk, k int, done bool, f fate) *crashDisk {
	x.Helper()
	s := d.after(k, f)
	id := s.hash(!x.options.NoPreserve)
	if done {
		id = ^id
	}
	if x.seen[id] {
		return nil
	}
	x.seen[id] = true
	x.tried++
	x.whole(d, k, s, done)

	again := newCrashDisk(s)
	result, lies, err := x.run(x.crashCase, again, x.random())
	if _, there := s.names["out"]; there && x.options.NoClobber {
		if e, ok := errors.AsType[*Error](err); !ok || e.Kind != KindExists || len(again.log) > 0 {
			x.fail(d, k, s, "the next run: %v", err)
		}
		x.update(d, k, s)
		return again
	}
	if err != nil {
		x.fail(d, k, s, "the next run: %v", err)
	}
	if lies > 0 {
		x.fail(d, k, s, "%d bytes were taken for proved and are wrong", lies)
	}
	if least, most := x.right(s); result.Resumed < least || result.Resumed > most {
		x.fail(d, k, s, "%d bytes were taken from before; right were %d to %d", result.Resumed, least, most)
	}
	x.ended(again, d, k, s)
	if x.tried%4 == 0 {
		x.update(d, k, s)
	}
	return again
}

// update has a transfer of the later version run in a state, crash, and be right whenever it does.
func (x *crashExplorer) update(d *crashDisk, k int, s diskState) {
	x.Helper()
	if x.later == nil {
		return
	}
	c := x.crashCase
	c.version, c.options.NoClobber, c.options.Range = *x.later, false, nil
	disk := newCrashDisk(s)
	if _, lies, err := x.run(c, disk, x.random()); err != nil || lies > 0 {
		x.fail(d, k, s, "then another version: %v, %d bytes were taken for proved and are wrong", err, lies)
	}
	before := s.get("out")
	for n := range len(disk.log) + 1 {
		for _, how := range []fate{keepAll{}, dropAll{}, chance{x.random()}} {
			now := disk.after(n, how).get("out")
			switch {
			case now != nil && bytes.Equal(now.data, c.content):
			case n == len(disk.log), (now == nil) != (before == nil), now != nil && !bytes.Equal(now.data, before.data):
				x.fail(d, k, s, "then another version, and a crash after %q: the target is torn or gone", disk.log[:n])
			}
		}
	}
}

// whole checks what no crash may break.
func (x *crashExplorer) whole(d *crashDisk, k int, s diskState, done bool) {
	x.Helper()
	if b := s.get("bystander"); b == nil || string(b.data) != "by" {
		x.fail(d, k, s, "another file changed")
	}
	target := s.get("out")
	switch {
	case target == nil && (done || x.old != nil):
		x.fail(d, k, s, "the target is gone")
	case target == nil:
	case bytes.Equal(target.data, x.want()):
		if done && !x.options.NoPreserve &&
			(target.mode != 0o644&^disk.Umask || !target.mtime.Equal(transfertest.SomeTime)) {
			x.fail(d, k, s, "it was said to be in place, but has mode %o and time %v", target.mode, target.mtime)
		}
	case done:
		x.fail(d, k, s, "it was said to be in place, but is not")
	case x.old == nil || !bytes.Equal(target.data, x.old):
		x.fail(d, k, s, "the target is neither the old file nor the new one")
	}
}

// ended checks a disk after a run that succeeded, in the state s of d.
func (x *crashExplorer) ended(again, d *crashDisk, k int, s diskState) {
	x.Helper()
	if again.open != 0 || again.locks != 0 {
		x.fail(d, k, s, "%d files are open and %d locked after the next run", again.open, again.locks)
	}
	if names := slices.Sorted(maps.Keys(again.names)); !slices.Equal(names, []string{"bystander", "out"}) {
		x.fail(d, k, s, "the next run leaves %q", names)
	}
	x.whole(again, len(again.log), again.after(len(again.log), dropAll{}), true)
}

// visit calls f for every fate at every moment of a disk's log, starting with from. If the test
// selects one fate at one moment, it calls f only for that.
func (x *crashExplorer) visit(d *crashDisk, from int, prefix string, fates int, f func(k int, how fate)) {
	for k := from; k <= len(d.log); k++ {
		for n := range fates {
			x.at = fmt.Sprintf("%s%d/%d", prefix, k, n)
			if *crashAt == "" || *crashAt == x.at || strings.HasPrefix(*crashAt, x.at+"-") {
				f(k, x.fate(n))
			}
		}
	}
}

// explore tries the power cuts of one run of the case. It also tries those of the next run
// after a kill at each moment, and those of the next run after a power cut.
func (x *crashExplorer) explore() {
	x.at = "start"
	d := newCrashDisk(x.start())
	_, lies, err := x.run(x.crashCase, d, x.random())
	if err != nil || lies > 0 {
		x.Fatalf("%v, %d lies", err, lies)
	}
	x.ended(d, d, len(d.log), x.start())
	type crash struct {
		at   string
		disk *crashDisk
	}
	var second []crash
	x.visit(d, 0, "", *crashFates, func(k int, how fate) {
		if again := x.crash(d, k, k == len(d.log), how); again != nil {
			second = append(second, crash{x.at, again})
		}
	})
	for k := range d.log {
		x.at = fmt.Sprintf("kill%d-", k)
		killed := d.killed(k)
		if _, there := killed.names["out"]; there && x.options.NoClobber {
			continue // the next run does nothing
		}
		if _, _, err := x.run(x.crashCase, killed, x.random()); err != nil {
			x.fail(d, k, d.after(k, keepAll{}), "after a kill: %v", err)
		}
		x.visit(killed, k, x.at, max(1, *crashFates/4),
			func(n int, how fate) { x.crash(killed, n, n == len(killed.log), how) })
	}
	for i, again := range second {
		if len(again.disk.log) == 0 || i%5 != 0 && *crashAt == "" {
			continue
		}
		x.visit(again.disk, 1, again.at+"-", max(1, *crashFates/4), func(k int, how fate) {
			x.crash(again.disk, k, k == len(again.disk.log), how)
		})
	}
}

// TestCrashes explores the states that power cuts and kills leave, and runs the same transfer
// again in each. The target is always absent, the old file or the new one. The transfer keeps
// the right bytes of a part file and never accepts a wrong one. If a transfer reported success,
// its file is in place.
func TestCrashes(t *testing.T) {
	tried := 0
	for name, c := range crashCases {
		t.Run(name, func(t *testing.T) {
			c.version = versionFrom(crashWant, crashGroup)
			run := func(c crashCase, d *crashDisk, r *rand.Rand) (Result, int64, error) { return c.offline(d, r) }
			later := versionFrom(crashLater, crashGroup)
			x := &crashExplorer{T: t, crashCase: c, later: &later, run: run, seen: make(map[uint64]bool)}
			x.explore()
			t.Logf("%d crash states", x.tried)
			tried += x.tried
		})
	}
	t.Logf("%d crash states", tried)
	complete := *crashFates >= defaultCrashFates && *crashAt == ""
	if complete && tried < minCrashStates && !t.Failed() {
		t.Errorf("these are fewer than %d", minCrashStates)
	}
}

// TestCrashesOfGet is the same with a server, a simulated network and all of Get, for some of
// the power cuts.
func TestCrashesOfGet(t *testing.T) {
	tried := 0
	some := func(groups ...int) []byte {
		b := make([]byte, len(theFile))
		for _, i := range groups {
			copy(b[i*65536:min((i+1)*65536, len(b))], theFile[i*65536:])
		}
		return b
	}
	for name, c := range map[string]crashCase{
		"fresh":       {},
		"over a file": {old: noise(3, 70000)},
		"resumed":     {old: noise(3, 70000), part: some(1, 3)},
		"reuse":       {old: some(0, 2), part: some(1)[:2*65536+100], options: GetOptions{Reuse: true}},
		"range":       {old: noise(3, 70000), options: GetOptions{Range: &ByteRange{First: 65000, Last: 140000}}},
		"no-clobber":  {options: GetOptions{NoClobber: true}},
	} {
		t.Run(name, func(t *testing.T) {
			c.version = versionFrom(theFile, integrity.DefaultGroupSize)
			x := &crashExplorer{T: t, crashCase: c, seen: make(map[uint64]bool)}
			x.run = func(c crashCase, d *crashDisk, _ *rand.Rand) (Result, int64, error) {
				r, _, err := fetchBy(t, Get, "out", func(o *GetOptions) {
					of := c.at(d)
					of.URL, of.TLS, of.KWIK = o.URL, o.TLS, o.KWIK
					*o = of
				})
				delivered := int64(0)
				for _, s := range r.Servers {
					delivered += s.Bytes
				}
				if err == nil && c.options.Range == nil && delivered != r.Bytes-r.Resumed-r.Holes {
					t.Errorf("%d bytes were delivered: %+v", delivered, r)
				}
				return r, 0, err
			}
			d := newCrashDisk(x.start())
			if _, _, err := x.run(x.crashCase, d, nil); err != nil {
				t.Fatal(err)
			}
			x.visit(d, 0, "", 14, func(k int, how fate) { x.crash(d, k, k == len(d.log), how) })
			tried += x.tried
		})
	}
	t.Logf("%d crash states", tried)
}
