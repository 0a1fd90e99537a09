package sim

import (
	"flag"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"kwikcp/internal/simnet"
	"kwikcp/transfer"
)

var (
	lives    = flag.Int("lives", 3, "how many seeds of lives of mirrors to run")
	lifespan = flag.Duration("lifespan", 90*time.Minute, "how long each life of mirrors is, in virtual time")
)

// TestMirrorLives runs mirrors of a primary for a long time. An editor changes the primary's
// tree. Disks fail, fill up, vanish and return. Processes and machines die, and the network
// fails. After each round:
//
//   - Each file of the mirror has a content that the primary had under that name, also after a power
//     cut. Nothing that the primary had all the time is gone.
//   - A round that succeeds leaves the tree as it was on the primary at moments of the round. A round
//     that does not names the entries that differ, or why there are more.
//   - Excluded entries stay. No more than the limit is deleted, and that is reported and in
//     the backup. No temporary files accumulate.
//
// When nothing fails any more, two rounds make the mirror equal. Every goroutine and handle ends.
//
// The long form has 300 seeds of 48 hours (CONTRIBUTING.md).
func TestMirrorLives(t *testing.T) {
	var all lifeTotals
	start := time.Now()
	for seed := *first; seed < *first+uint64(*lives); seed++ {
		t.Run(strconv.FormatUint(seed, 10), func(t *testing.T) { all.add(runLife(t, seed)) })
	}
	t.Logf("%v, %.1f s", all, time.Since(start).Seconds())
}

func runLife(t *testing.T, seed uint64) *lifeWorld {
	s := newLifeScenario(seed)
	again := fmt.Sprintf("again: go test ./transfer/sim -run TestMirrorLives -first %d -lives 1 -lifespan %v -tell",
		seed, *lifespan)
	watchdog := time.AfterFunc(hung, func() { panic(fmt.Sprintf("no end within %v\n%v%s", hung, s, again)) })
	defer watchdog.Stop()
	returned := false
	defer func() {
		if !returned {
			fmt.Fprintf(os.Stderr, "%v%s\n", s, again)
		}
	}()
	var w *lifeWorld
	synctest.Test(t, func(t *testing.T) { w = liveOnce(t, s) })
	returned = true
	if len(w.faults) > 0 {
		t.Errorf("%v%s\n  %s", s, again, strings.Join(w.faults, "\n  "))
	}
	return w
}

// lifeTotals add up lives.
type lifeTotals struct {
	lives, failed, mirrors, rounds, killed, cuts, vanished, edits int
	good, partial, limited, other                                 int
	kinds                                                         map[transfer.Kind]int
	virtual                                                       time.Duration
}

func (a *lifeTotals) add(w *lifeWorld) {
	a.lives++
	if len(w.faults) > 0 {
		a.failed++
	}
	a.mirrors += len(w.mirrors)
	a.edits += w.edits
	a.virtual += time.Since(w.start)
	a.virtual = time.Duration(a.lives) * *lifespan
	if a.kinds == nil {
		a.kinds = make(map[transfer.Kind]int)
	}
	for _, m := range w.mirrors {
		a.rounds += m.rounds
		a.killed += m.kills
		a.cuts += m.cuts
		a.vanished += m.vanished
		a.good += m.good
		a.partial += m.partial
		a.limited += m.limited
		for kind, n := range m.kinds {
			a.kinds[kind] += n
			a.other += n
		}
	}
}

func (a lifeTotals) String() string {
	return fmt.Sprintf("%d lives, %d failed: %v of virtual time, %d edits, %d mirrors, %d rounds: "+
		"%d succeeded, %d except for some entries, %d over the limit of deletions, %d failed (by kind %v); "+
		"%d kills, %d power cuts, %d roots vanished",
		a.lives, a.failed, a.virtual, a.edits, a.mirrors, a.rounds, a.good, a.partial, a.limited, a.other, a.kinds,
		a.killed, a.cuts, a.vanished)
}

// A lifeScenario is what a life depends on.
type lifeScenario struct {
	seed    uint64
	link    simnet.Link
	mirrors []mirrorPlan
	// step is the granularity of the primary's times.
	step     time.Duration
	enforces bool // modes count on the primary
	// Dials of trouble; each is off in about half of the scenarios.
	links, modes, steps, badDisk, badNet, restarts, vanishes bool
	quiet                                                    time.Duration // the longest time between edits
	entries, bytes                                           int
}

// A mirrorPlan is how a mirror runs.
type mirrorPlan struct {
	serves       bool // it is a secondary with --mirror; otherwise a program that is run again and again
	interval     time.Duration
	step         time.Duration
	enforces     bool
	syncsWhole   bool
	isSlow       bool
	otherDevice  bool // of the backup
	badDisk      bool
	vanishes     bool
	dies         bool
	options      transfer.MirrorOptions
	backup       bool
	limit        string
	hasFilter    bool
	quick        bool
	foreignFiles bool
}

func newLifeScenario(seed uint64) lifeScenario {
	r := dice{simnet.NewDice(seed, 0x6c696665)}
	s := lifeScenario{
		seed: seed, links: r.Half(), modes: r.OneIn(3), steps: r.OneIn(3), badDisk: r.OneIn(3), badNet: r.Half(),
		restarts: r.OneIn(3), vanishes: r.OneIn(4), quiet: r.Duration(10*time.Minute, 4*time.Hour),
		entries: int(r.Log(5, 80)), bytes: int(r.Log(100_000, 3_000_000)), enforces: r.Half(),
		step: []time.Duration{0, 0, time.Second, 2 * time.Second}[r.IntN(4)],
	}
	s.link = simnet.Link{Latency: r.Duration(500*time.Microsecond, 40*time.Millisecond), Rate: r.Log(20e6, 200e6)}
	serving := 0
	for range 1 + r.IntN(3) {
		p := mirrorPlan{
			interval: r.Duration(5*time.Minute, 4*time.Hour), enforces: r.Half(), syncsWhole: r.Half(),
			isSlow:      r.OneIn(3),
			otherDevice: r.Half(), badDisk: r.Half(), vanishes: r.OneIn(3), dies: r.Half(), backup: r.OneIn(4),
			hasFilter: r.Half(), quick: r.Half(), foreignFiles: r.Half(),
			step: []time.Duration{0, 0, 0, time.Microsecond, time.Second, 2 * time.Second}[r.IntN(6)],
		}
		if serving < 2 && r.Half() {
			p.serves = true
			serving++
		}
		o := &p.options
		o.Delete = !r.OneIn(4)
		o.Update, o.Stage, o.Reuse, o.NoHardLinks = r.OneIn(5), r.OneIn(3), r.OneIn(3), r.OneIn(4)
		o.MinAge = []time.Duration{0, 0, 3 * time.Second, time.Minute}[r.IntN(4)]
		if p.serves && o.MinAge == 0 {
			o.MinAge = 3 * time.Second
		}
		if r.OneIn(4) {
			o.Retries, o.RetryDelay = 1+r.IntN(3), r.Duration(time.Second, time.Minute)
		}
		p.limit = []string{"", "", "100%", "100%", "3", "30%", "0"}[r.IntN(7)]
		if p.limit != "" {
			o.MaxDelete, _ = transfer.ParseDeleteLimit(p.limit)
		}
		s.mirrors = append(s.mirrors, p)
	}
	return s
}

func (s lifeScenario) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "seed %d: %d entries, %d bytes, times of %v, modes count %t\n", s.seed, s.entries, s.bytes,
		s.step, s.enforces)
	fmt.Fprintf(&b, "  links %t, modes %t, clock %t, disk %t, network %t, restarts %t, vanishes %t; at most %v "+
		"between edits\n", s.links, s.modes, s.steps, s.badDisk, s.badNet, s.restarts, s.vanishes, s.quiet)
	for i, p := range s.mirrors {
		o := p.options
		fmt.Fprintf(&b, "  mirror %d: serves %t, every %v, times of %v, modes count %t, syncs whole %t, slow %t, "+
			"disk %t, vanishes %t, dies %t\n", i, p.serves, p.interval, p.step, p.enforces, p.syncsWhole, p.isSlow,
			p.badDisk, p.vanishes, p.dies)
		fmt.Fprintf(&b, "    delete %t (%q), backup %t (elsewhere %t), filter %t, quick %t, update %t, stage %t, "+
			"reuse %t, no links %t, min age %v, retries %d, foreign %t\n", o.Delete, p.limit, p.backup, p.otherDevice,
			p.hasFilter, p.quick, o.Update, o.Stage, o.Reuse, o.NoHardLinks, o.MinAge, o.Retries, p.foreignFiles)
	}
	return b.String()
}

// A lifeReport takes what a round reports.
type lifeReport struct {
	transfer.NoReport
	m  *lifeMirror
	mu sync.Mutex
	// named has the entries that failed or were skipped.
	named   map[string]error
	deleted map[string]bool
}

func newLifeReport(m *lifeMirror) *lifeReport {
	return &lifeReport{
		m: m, named: make(map[string]error), deleted: make(map[string]bool),
	}
}

func (r *lifeReport) File(f transfer.FileReport) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.m.memory.Note(f)
	if f.Action != transfer.FileUpToDate {
		r.m.trace("  %s %q %v", f.Action, f.Path, f.Err)
	}
	switch f.Action {
	case transfer.FileDeleted:
		r.deleted[f.Path] = true
	case transfer.FileFailed, transfer.FileSkipped:
		r.named[f.Path] = f.Err
	}
}
