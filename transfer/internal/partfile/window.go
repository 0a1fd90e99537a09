package partfile

import (
	"io"

	"kwikcp/internal/rangeset"
)

// A window is the part of a file that a part file is to hold, from its own first byte on.
type window struct {
	want  rangeset.Range // bytes
	cover rangeset.Range // the groups that they are in, which is what can be verified
}

// SetWindow prepares the part file for the bytes want of a file, and returns the groups that
// cover them. Bytes of an earlier transfer are removed, since they are aligned otherwise; bytes
// that this one has written for the same tree count.
func (p *PartFile) SetWindow(want rangeset.Range, tree Tree) (cover rangeset.Range, err error) {
	if err := p.begin("SetWindow", Unproved, Windowed); err != nil {
		return cover, err
	}
	defer p.end()
	if p.window != nil && sameTree(p.tree, tree) {
		return p.window.cover, nil
	}
	if err := p.file.Truncate(0); err != nil {
		return cover, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	unit := tree.GroupBytes()
	last := (want.End - 1) - (want.End-1)%unit
	cover = rangeset.Range{Start: want.Start - want.Start%unit, End: last + min(unit, tree.Size()-last)}
	p.window = &window{want, cover}
	p.state, p.tree, p.had = Windowed, tree, rangeset.Set{}
	p.zeros, p.blank = rangeset.Set{}, true
	return cover, nil
}

// narrow returns which of the bytes b at offset off of the file go into the part file, and where.
func (w *window) narrow(b []byte, off int64) ([]byte, int64) {
	r := w.want.Intersect(rangeset.Range{Start: off, End: off + int64(len(b))})
	if r.Empty() {
		return nil, 0
	}
	return b[r.Start-off : r.End-off], r.Start - w.want.Start
}

// Content returns the bytes of a whole Windowed file, in order.
func (p *PartFile) Content() io.Reader {
	return io.NewSectionReader(p.file, 0, p.window.want.Len())
}
