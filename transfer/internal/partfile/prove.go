package partfile

import (
	"context"
	"math"
	"slices"

	"kwikcp/internal/rangeset"
	"kwikcp/transfer/disk"
)

// Prove finds the bytes of tree in the part file and in seeds. It copies those of the seeds
// into the part file. A seed is a file that may share content at the same offsets, such as an
// older version. Its groups are verified before they count, as those of a server are.
//
// Prove forgets wrong bytes of the part file and truncates it to the size of tree. It does not
// read bytes again that are verified against this tree already. If the file system can share
// blocks between files, an empty part file gets the content of the first seed. That content may
// be wrong, and is verified like any other. Elsewhere Prove copies the right groups. It ignores
// a seed that it cannot read.
func (p *PartFile) Prove(ctx context.Context, tree Tree, seeds []disk.File, report Report) error {
	if err := p.begin("Prove", Unproved, Cold, Proved); err != nil {
		return err
	}
	defer p.end()
	cloned := slices.IndexFunc(seeds, p.clone) // the first that can be, and no other
	if err := p.survey(ctx, tree, report); err != nil {
		return err
	}
	if err := p.placeZeros(ctx, report); err != nil {
		return err
	}
	for i, seed := range seeds {
		if i == cloned {
			continue
		}
		if err := p.copySeed(ctx, seed, report); err != nil {
			return err
		}
	}
	return p.reserve()
}

// survey verifies the bytes of the part file against tree.
func (p *PartFile) survey(ctx context.Context, tree Tree, report Report) error {
	if p.beginSurvey(tree) {
		return nil
	}
	info, err := p.file.Stat()
	if err != nil {
		return err
	}
	size := min(info.Size(), tree.Size())
	if info.Size() > size {
		if err := p.file.Truncate(size); err != nil {
			return err
		}
	}
	had, err := Survey(ctx, p.file, size, tree, report)
	if err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.state, p.tree, p.had = Proved, tree, had
	p.zeros, p.blank = rangeset.Set{}, size == 0
	p.reserved = false
	return nil
}

// beginSurvey reports whether the bytes are known to be those of tree. Otherwise it makes the
// file Unproved.
func (p *PartFile) beginSurvey(tree Tree) (known bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.state == Proved && sameTree(p.tree, tree) {
		return true
	}
	p.state, p.tree = Unproved, nil
	return false
}

// clone gives a part file without content the content of f, if the system can share blocks.
// Nothing is verified by that.
func (p *PartFile) clone(f disk.File) bool {
	info, err := p.file.Stat()
	return err == nil && info.Size() == 0 && p.file.CloneFrom(f) == nil
}

// copySeed copies from a seed the groups that are right and that the part file lacks. An error
// is the end of ctx, or one of writing.
func (p *PartFile) copySeed(ctx context.Context, seed disk.File, report Report) error {
	info, err := seed.Stat()
	if err != nil || p.Whole() {
		return nil
	}
	s := newSurveyor(remainder{seed, rangeset.Of(p.Have()...)}, min(info.Size(), p.tree.Size()), p.tree, report)
	s.keep = p.writeVerified
	return s.run(ctx)
}

// remainder is a file of which only the bytes that are not in had are looked at, holes among them.
type remainder struct {
	disk.File
	had rangeset.Set // whole groups
}

func (f remainder) NextData(off int64) (start, end int64, ok bool) {
	r, ok := f.had.NextMissing(off, math.MaxInt64)
	return r.Start, r.End, ok
}
