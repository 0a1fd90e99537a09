//go:build unix

package transfer

import (
	"bytes"
	"context"
	"io/fs"
	"math/rand/v2"
	"slices"
	"time"

	"kwikcp/integrity"
	"kwikcp/internal/rangeset"
	"kwikcp/kwik"
	"kwikcp/transfer/internal/partfile"
	"kwikcp/transfer/internal/transfertest"
)

// The explorer's transfers fetch groups of 4 KiB. One is zeros and the last one is short, so
// that sectors tear groups and holes may be content.
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
	version               // the version that the transfer fetches
	old, part []byte      // durable at first, nil for none
	partMode  fs.FileMode // 0 for that of a part file
	sparse    bool
	clones    bool
	punches   bool
	holes     []int  // the groups that the server announces as holes
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
	"over a longer one, as it is": {old: noise(3, 50000), options: GetOptions{NoPreserve: true}},
	"resumed":                     {old: noise(3, 20000), part: only(0, 3, 4, 8)},
	"resumed, sparse": {part: append(bytes.Clone(crashWant[:2*crashUnit]), make([]byte, 6*crashUnit)...),
		sparse: true},
	"resumed from what is cut":  {part: crashWant[:5*crashUnit+700]},
	"resumed from all":          {old: noise(3, 20000), part: crashWant, partMode: 0o444},
	"a part of another, longer": {old: noise(3, 100), part: noise(4, 60000)},
	"reuse":                     {old: only(1, 2, 3, 7), options: GetOptions{Reuse: true}},
	"reuse with clones":         {old: only(1, 2, 3, 7), clones: true, options: GetOptions{Reuse: true}},
	"reuse, resumed, sparse": {old: only(1, 2, 7), part: only(0, 1), sparse: true,
		options: GetOptions{Reuse: true}},
	"reuse and seed": {old: only(1, 2), part: only(5), seed: only(2, 6, 8),
		options: GetOptions{Reuse: true}},
	"range":                  {old: noise(3, 20000), part: only(0, 1), options: GetOptions{Range: &crashRange}},
	"holes":                  {holes: []int{3}},
	"holes, resumed":         {part: only(0, 5), holes: []int{3}},
	"holes, resumed, sparse": {part: only(0, 5), holes: []int{3}, sparse: true, punches: true},
	"holes, reuse with clones": {old: only(1, 2, 7), clones: true, punches: true, holes: []int{3},
		options: GetOptions{Reuse: true}},
	"holes, cold":               {holes: []int{3}, cold: true},
	"holes where data is":       {part: only(6), holes: []int{0, 1, 2, 3, 4, 5, 6, 7, 8}, punches: true},
	"holes where data is, cold": {holes: []int{0, 1, 2, 3, 4, 5, 6, 7, 8}, cold: true},
	"range with a hole":         {old: noise(3, 20000), holes: []int{3}, options: GetOptions{Range: &crashRange}},
	"no-clobber":                {options: GetOptions{NoClobber: true}},
	"no-clobber, resumed":       {part: only(2, 6), options: GetOptions{NoClobber: true}},
	"up to date":                {old: crashWant, part: only(1)},
}

// start is the disk before the transfer.
func (c crashCase) start() diskState {
	var s diskState
	s.put("bystander", []byte("by"), 0o644, transfertest.SomeTime)
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

// offline is Get on a disk, without a network: groups are written in some order, a few at a
// time. lies are the bytes that it took for proved before anything was fetched, and that are
// not those of the file.
func (c crashCase) offline(
	d *crashDisk, r *rand.Rand, change ...func(*GetOptions),
) (result Result, lies int64, err error) {
	o := c.at(d)
	for _, f := range change {
		f(&o)
	}
	if c.seed != nil {
		seed := diskState{}
		seed.put("seed", c.seed, 0o644, transfertest.SomeTime)
		dir, _ := newCrashDisk(seed).opener()("")
		o.Seed, _ = dir.Open("seed")
	}
	g := offline(o)
	err = g.run(context.Background(), func(ctx context.Context) error {
		g.manifest = Manifest{Size: c.tree.Size(), Root: c.tree.Root(), Group: int64(c.unit),
			MTime: transfertest.SomeTime, Mode: 0o644}
		g.holes = c.announced()
		if c.cold && g.mayBegin() {
			return c.fillCold(ctx, g, r)
		}
		g.tree = c.tree
		return g.place(ctx, func(context.Context) error {
			if g.Range == nil {
				got := make([]byte, len(c.content))
				if part := d.now().get(crashPart); part != nil {
					copy(got, part.data)
				}
				for _, x := range g.part.Have() {
					if !bytes.Equal(got[x.Start:x.End], c.content[x.Start:x.End]) {
						lies += x.Len()
					}
				}
			}
			return fill(targetWriter{g.part, g.path}, c.content, int64(c.unit), r)
		})
	})
	return g.result, lies, err
}

// fillCold does what copyCold does.
func (c crashCase) fillCold(ctx context.Context, g *get, r *rand.Rand) error {
	g.part.KeepHoles(g.holes)
	if err := g.part.Forget(); err != nil {
		return err
	}
	groups := g.holes.Groups()
	if err := fill(targetWriter{g.part, g.path}, c.content, int64(c.unit), r, groups.Ranges()...); err != nil {
		return err
	}
	g.tree = c.tree
	if err := g.acceptRoot(); err != nil {
		return err
	}
	if err := g.part.ProveHoles(ctx, nil); err != nil {
		return targetError(g.path, err)
	}
	return fill(targetWriter{g.part, g.path}, c.content, int64(c.unit), r)
}

// announced returns the holes that the server announces of the version.
func (c crashCase) announced() partfile.Holes {
	h := partfile.Holes{Size: int64(len(c.content)), Group: int64(c.unit), Block: 4096}
	for _, i := range c.holes {
		h.Ranges.Add(int64(i*c.unit), min(int64((i+1)*c.unit), h.Size))
	}
	return h
}

// isHole reports whether a group of the version is an announced hole.
func (c crashCase) isHole(off, end int) bool {
	isData := slices.ContainsFunc(c.content[off:end], func(b byte) bool { return b != 0 })
	return slices.Contains(c.holes, off/c.unit) && !isData
}

// at returns the options of a transfer on a disk.
func (c crashCase) at(d *crashDisk) GetOptions {
	d.clones, d.sparse, d.punches = c.clones, c.sparse, c.punches
	o := c.options
	o.Target, o.OpenDir = "out", d.opener()
	return o
}

// offline returns a get that has no session; the caller sets what open would.
func offline(o GetOptions) *get {
	return &get{GetOptions: o, request: request{byteRange: o.Range, observer: newObserver(NoReport{}),
		session: &kwik.ClientSession{}}}
}

// fill writes the groups of a content that a part file lacks, in some order, up to three at a time.
// It leaves out those of without.
func fill(p targetWriter, content []byte, unit int64, r *rand.Rand, without ...rangeset.Range) error {
	have := rangeset.Of(append(p.part.Have(), without...)...)
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

// right returns how many bytes of whole groups a transfer finds in place on an idle disk. The
// least and the most differ because zeros may be holes.
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
		if c.isHole(off, end) {
			continue
		}
		if slices.ContainsFunc(sources, func(b []byte) bool {
			return len(b) >= end && bytes.Equal(b[off:end], c.content[off:end])
		}) {
			most += int64(end - off)
			if !c.sparse || bytes.ContainsFunc(c.content[off:end], func(r rune) bool { return r != 0 }) {
				least += int64(end - off)
			}
		}
	}
	return least, most
}
