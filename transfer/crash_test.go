//go:build unix

package transfer

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"hash/fnv"
	"io/fs"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"kwikcp/integrity"
	"kwikcp/internal/rangeset"
	"kwikcp/kwik"
)

var (
	crashFates = flag.Int("crashfates", 48, "how many crash states to make of each moment of each run")
	crashAt    = flag.String("crashat", "", "try only this crash, as a failure names it")
)

// What the explorer's transfers fetch: groups of 4 KiB, one of them zeros and the last one short, so that sectors tear groups and holes
// may be content.
const (
	crashGroup = integrity.GroupSize(2)
	crashUnit  = 4096
)

var (
	crashWant = func() []byte {
		b := noise(1, 8*crashUnit+1234)
		clear(b[3*crashUnit : 4*crashUnit])
		return b
	}()
	crashPart = partName("out")
	// crashLater is a later version of it.
	crashLater = func() []byte {
		b := bytes.Clone(crashWant[:6*crashUnit+100])
		b[2*crashUnit]++
		b[5*crashUnit]++
		return b
	}()
)

func noise(seed byte, n int) []byte {
	b := make([]byte, n)
	rand.NewChaCha8([32]byte{seed}).Read(b)
	return b
}

func groupedTree(content []byte, group integrity.GroupSize) *integrity.Tree {
	tree, err := integrity.Build(context.Background(), bytes.NewReader(content), int64(len(content)), group, nil)
	if err != nil {
		panic(err)
	}
	return tree
}

// only returns crashWant with other bytes in all groups but some.
func only(groups ...int) []byte {
	b := noise(2, len(crashWant))
	for _, i := range groups {
		copy(b[i*crashUnit:min((i+1)*crashUnit, len(b))], crashWant[i*crashUnit:])
	}
	return b
}

// A version is a file on a server.
type version struct {
	content []byte
	tree    *integrity.Tree
	unit    int // bytes of a chunk group
}

func versionFrom(content []byte, group integrity.GroupSize) version {
	return version{content, groupedTree(content, group), int(group.Bytes())}
}

// A crashCase is a transfer to "out" in a directory that has a file "bystander" besides.
type crashCase struct {
	version               // what is fetched
	old, part []byte      // durable at first, nil for none
	partMode  fs.FileMode // 0 for that of a part file
	sparse    bool
	clones    bool
	seed      []byte // nil for none
	cold      bool   // the server knows the root only when all was fetched
	options   GetOptions
}

var crashRange = ByteRange{First: crashUnit + 5, Last: 4*crashUnit + 9}

var crashCases = map[string]crashCase{
	"fresh":                       {},
	"fresh, sparse":               {sparse: true},
	"fresh, cold":                 {cold: true},
	"over a file, cold":           {old: noise(3, 20000), cold: true},
	"resumed, cold":               {part: only(0, 5), cold: true},
	"over a file":                 {old: noise(3, 20000)},
	"over a longer one, as it is": {old: noise(3, 50000), options: GetOptions{Plain: true}},
	"resumed":                     {old: noise(3, 20000), part: only(0, 3, 4, 8)},
	"resumed, sparse":             {part: append(bytes.Clone(crashWant[:2*crashUnit]), make([]byte, 6*crashUnit)...), sparse: true},
	"resumed from what is cut":    {part: crashWant[:5*crashUnit+700]},
	"resumed from all":            {old: noise(3, 20000), part: crashWant, partMode: 0o444},
	"a part of another, longer":   {old: noise(3, 100), part: noise(4, 60000)},
	"reuse":                       {old: only(1, 2, 3, 7), options: GetOptions{Reuse: true}},
	"reuse with clones":           {old: only(1, 2, 3, 7), clones: true, options: GetOptions{Reuse: true}},
	"reuse, resumed, sparse":      {old: only(1, 2, 7), part: only(0, 1), sparse: true, options: GetOptions{Reuse: true}},
	"reuse and seed":              {old: only(1, 2), part: only(5), seed: only(2, 6, 8), options: GetOptions{Reuse: true}},
	"range":                       {old: noise(3, 20000), part: only(0, 1), options: GetOptions{Range: &crashRange}},
	"no-clobber":                  {options: GetOptions{KeepsOld: true}},
	"no-clobber, resumed":         {part: only(2, 6), options: GetOptions{KeepsOld: true}},
	"up to date":                  {old: crashWant, part: only(1)},
}

// start is the disk before the transfer.
func (c crashCase) start() diskState {
	var s diskState
	s.put("bystander", []byte("by"), 0o644, someTime)
	if c.old != nil {
		s.put("out", c.old, 0o640, time.Unix(5, 0))
	}
	if c.part != nil {
		mode := c.partMode
		if mode == 0 {
			mode = partMode
		}
		s.put(crashPart, c.part, mode, time.Unix(6, 0))
	}
	return s
}

// want is what the target is to hold in the end.
func (c crashCase) want() []byte {
	if r := c.options.Range; r != nil {
		return c.content[r.First : r.Last+1]
	}
	return c.content
}

// offline is Get on a disk, without a network: groups come in some order, a few at a time. lies are the bytes that it took
// for proved before anything was fetched, and that are not those of the file.
func (c crashCase) offline(d *crashDisk, r *rand.Rand, change ...func(*GetOptions)) (result Result, lies int64, err error) {
	o := c.at(d)
	for _, f := range change {
		f(&o)
	}
	if c.seed != nil {
		seed := diskState{}
		seed.put("seed", c.seed, 0o644, someTime)
		dir, _ := newCrashDisk(seed).opener()("")
		o.Seed, _ = dir.Open("seed")
	}
	g := offline(o)
	err = g.run(context.Background(), func(ctx context.Context) error {
		g.manifest = Manifest{Size: c.tree.Size(), Root: c.tree.Root(), Group: int64(c.unit), MTime: someTime, Mode: 0o644}
		if c.cold && g.mayBegin() {
			if err := bring(g.part, c.content, int64(c.unit), r); err != nil {
				return err
			}
			g.tree, g.result.Root = c.tree, c.tree.Root()
			g.part.proved(g.tree)
			return nil
		}
		g.tree = c.tree
		return g.place(ctx, func(context.Context) error {
			if g.part.window == nil {
				got := d.now().get(crashPart).data
				for _, x := range g.part.ranges() {
					if !bytes.Equal(got[x.Start:x.End], c.content[x.Start:x.End]) {
						lies += x.Len()
					}
				}
			}
			return bring(g.part, c.content, int64(c.unit), r)
		})
	})
	return g.result, lies, err
}

// at returns the options of a transfer on a disk.
func (c crashCase) at(d *crashDisk) GetOptions {
	d.clones, d.sparse = c.clones, c.sparse
	o := c.options
	o.Target, o.OpenDir = "out", d.opener()
	return o
}

// offline returns a get that has no session; the caller sets what open would.
func offline(o GetOptions) *get {
	return &get{GetOptions: o, inquiry: inquiry{observer: newObserver(NoReport{}), session: &kwik.ClientSession{}}}
}

// bring writes what a part file lacks of a content: whole groups, in some order, up to three at a time.
func bring(p *partFile, content []byte, unit int64, r *rand.Rand) error {
	have := rangeset.Of(p.ranges()...)
	groups := (len(content) + int(unit) - 1) / int(unit)
	for _, i := range r.Perm(groups) {
		off := int64(i) * unit
		end := min(off+unit*(1+r.Int64N(3)), int64(len(content)))
		missing, ok := have.NextMissing(off, end)
		if !ok || missing.Start != off {
			continue
		}
		end = min(end, missing.End)
		if _, err := p.WriteAt(content[off:end], off); err != nil {
			return err
		}
		have.Add(off, end)
	}
	return nil
}

// right returns how many bytes of whole groups a transfer finds in place on a disk that nobody uses: at least, for zeros may be holes,
// and at most.
func (c crashCase) right(s diskState) (least, most int64) {
	if c.options.Range != nil {
		return 0, 0
	}
	if old := s.get("out"); old != nil && bytes.Equal(old.data, c.content) {
		return int64(len(c.content)), int64(len(c.content))
	}
	var sources [][]byte
	if p := s.get(crashPart); p != nil && s.links(crashPart) == 1 {
		sources = append(sources, p.data)
	}
	if old := s.get("out"); old != nil && c.options.Reuse {
		sources = append(sources, old.data)
	}
	if c.seed != nil {
		sources = append(sources, c.seed)
	}
	for off := 0; off < len(c.content); off += c.unit {
		end := min(off+c.unit, len(c.content))
		if slices.ContainsFunc(sources, func(b []byte) bool { return len(b) >= end && bytes.Equal(b[off:end], c.content[off:end]) }) {
			most += int64(end - off)
			if !c.sparse || bytes.ContainsFunc(c.content[off:end], func(r rune) bool { return r != 0 }) {
				least += int64(end - off)
			}
		}
	}
	return least, most
}

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

// crash checks one state that a power cut after k operations leaves, and has the transfer run again there. done says that the
// transfer had succeeded by then. It returns the second run's disk, nil if the state is nothing new.
func (x *crashExplorer) crash(d *crashDisk, k int, done bool, f fate) *crashDisk {
	x.Helper()
	s := d.after(k, f)
	id := s.hash(!x.options.Plain)
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
	if _, there := s.names["out"]; there && x.options.KeepsOld {
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
	c.version, c.options.KeepsOld, c.options.Range = *x.later, false, nil
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
		if done && !x.options.Plain && (target.mode != 0o644&^umask || !target.mtime.Equal(someTime)) {
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

// visit calls f for all moments of a disk's log, from the first on, and all fates, or for the one that is asked for.
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

// explore tries the power cuts of one run of the case; those of the run that goes on after a kill at each moment; and those of a run
// that goes on after a power cut.
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
		if _, there := killed.names["out"]; there && x.options.KeepsOld {
			continue // the next run does nothing
		}
		if _, _, err := x.run(x.crashCase, killed, x.random()); err != nil {
			x.fail(d, k, d.after(k, keepAll{}), "after a kill: %v", err)
		}
		x.visit(killed, k, x.at, max(1, *crashFates/4), func(n int, how fate) { x.crash(killed, n, n == len(killed.log), how) })
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

// TestCrashes explores what power cuts and kills leave of transfers, and what the same transfer makes of that: the target is
// always absent, the old file or the new one; what is right in a part file is kept, what is not is never taken for it; and
// a transfer that said it was done has its file there.
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
	if tried < 5000 && *crashAt == "" && !t.Failed() {
		t.Error("these are fewer than 5,000")
	}
}

// TestCrashesOfGet is the same with a server, a simulated network and all of Get, for some of the power cuts.
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
		"no-clobber":  {options: GetOptions{KeepsOld: true}},
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
				if err == nil && c.options.Range == nil && delivered != r.Bytes-r.Resumed {
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
