package transfer

import (
	"context"
	"kwikcp/integrity"
	"kwikcp/internal/rangeset"
	"kwikcp/transfer/disk"
	"math"
	"slices"
)

// A seed is a file that may share content with the one to fetch, such as an older version of it: chunk groups that are right, at the same
// offsets, need not be fetched. They are proved before they count, as those that a server sends are.
//
// Where the file system can share blocks between files, the first seed becomes the content of a part file that is empty yet, at once and
// whatever it is; what it is worth is found out there, as of every part file. Elsewhere the groups that are right are copied.

// prove finds out which of the manifest's bytes are here already, in the part file and in the seeds, and puts those of the seeds into the part
// file.
func (g *get) prove(ctx context.Context) error {
	root := g.tree.Root()
	var seeds []disk.File
	if g.seeded == nil || *g.seeded != root {
		if g.Reuse {
			if old, _ := g.part.standing(); old != nil {
				defer old.Close()
				seeds = append(seeds, old)
			}
		}
		if g.Seed != nil {
			seeds = append(seeds, g.Seed)
		}
	}
	cloned := slices.IndexFunc(seeds, g.part.clone) // the first that can be, and no other
	if err := g.part.prove(ctx, g.tree, g.observer.checking); err != nil {
		return err
	}
	for i, seed := range seeds {
		if i == cloned {
			continue
		}
		if err := g.part.plant(ctx, seed, g.tree, g.observer.checking); err != nil {
			return err
		}
	}
	g.seeded = &root
	return g.part.reserve()
}

// clone makes the part file one with the content of f, if nothing is in it yet and the system can. What is in it is not proved by that.
func (p *partFile) clone(f disk.File) bool {
	to, can := p.file.(disk.Cloner)
	info, err := p.file.Stat()
	return can && err == nil && info.Size() == 0 && to.CloneFrom(f) == nil
}

// plant copies from a seed what is right of it and the part file lacks. An error is the end of ctx, or one of writing: what cannot be read
// is fetched.
func (p *partFile) plant(ctx context.Context, seed disk.File, tree *integrity.Tree, report func(done, total int64)) error {
	info, err := seed.Stat()
	if err != nil || p.whole() {
		return nil
	}
	s := newSurveyor(remainder{seed, rangeset.Of(p.ranges()...)}, min(info.Size(), tree.Size()), tree, report)
	s.keep = p.keep
	return s.run(ctx)
}

// keep writes a proved group that was not fetched.
func (p *partFile) keep(group []byte, off int64) error {
	if err := p.write(group, off); err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.had.Add(off, off+int64(len(group)))
	return nil
}

// remainder is a file of which only what is not had is looked at, holes too.
type remainder struct {
	disk.File
	had rangeset.Set // whole groups
}

func (f remainder) NextData(off int64) (start, end int64, ok bool) {
	r, ok := f.had.NextMissing(off, math.MaxInt64)
	return r.Start, r.End, ok
}
