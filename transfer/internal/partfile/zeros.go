package partfile

import (
	"bytes"
	"context"
	"io"

	"kwikcp/internal/rangeset"
	"kwikcp/transfer/disk"
)

// This file keeps the holes of a source. A server announces where its file has holes. A chunk group
// that lies in a hole is not fetched: zeros are hashed and compared with the tree, which proves or
// disproves the announcement. The part file has a hole there. A group that lies in a hole with a
// part of its bytes is fetched, and its zeros are not written. The announcement alone never decides
// a byte.

// Holes is the announcement of a server about a file.
type Holes struct {
	Size  int64 // of the file, in bytes
	Group int64 // bytes of a chunk group
	Block int64 // bytes of a block: holes consist of blocks
	// Ranges are the announced holes. They consist of whole blocks, of
	// which the last may end with the file.
	Ranges rangeset.Set
	// More is set if the file may have other holes.
	More bool
}

// Groups returns the whole chunk groups that lie in holes.
func (h Holes) Groups() (groups rangeset.Set) {
	for r := range h.Ranges.All() {
		start, end := r.Start, r.End
		if rest := start % h.Group; rest > 0 {
			start += h.Group - rest
		}
		if end != h.Size {
			end -= end % h.Group
		}
		groups.Add(start, end)
	}
	return groups
}

// Zeros returns those of the given groups of tree that are zeros. It hashes zeros, on all cores,
// and reads nothing. The error is the cause of ctx.
//
// It starts goroutines and waits for them.
func Zeros(ctx context.Context, tree Tree, groups rangeset.Set, report Report) (rangeset.Set, error) {
	if groups.Total() == 0 {
		return rangeset.Set{}, nil
	}
	return Survey(ctx, zeroFile{groups: groups}, tree.Size(), tree, report)
}

// A zeroFile is a file of zeros that has data in the given groups alone.
type zeroFile struct {
	disk.File
	groups rangeset.Set
}

func (f zeroFile) NextData(off int64) (start, end int64, ok bool) {
	last, _ := f.groups.Last()
	r, ok := f.groups.NextPresent(off, last.End)
	return r.Start, r.End, ok
}

func (f zeroFile) ReadAt(p []byte, _ int64) (int, error) {
	clear(p)
	return len(p), nil
}

// KeepHoles gives the part file the holes that are announced of its file. It is called before the
// bytes of that file are proved or written. Without holes all bytes are written.
func (p *PartFile) KeepHoles(h Holes) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.holes = nil
	if h.More || h.Ranges.Len() > 0 {
		p.holes = &h
	}
}

// Holes returns how many bytes of the file, or of the wanted range, are zeros in holes of the
// source. They were not fetched.
func (p *PartFile) Holes() int64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.window != nil {
		return p.zeros.Overlap(p.window.want.Start, p.window.want.End)
	}
	return p.zeros.Total()
}

// ProveHoles finds the groups in holes that are zeros, which then need not be fetched. Prove does
// so, too. The tree must be known.
func (p *PartFile) ProveHoles(ctx context.Context, report Report) error {
	if err := p.begin("ProveHoles", Proved, Windowed); err != nil {
		return err
	}
	defer p.end()
	if err := p.placeZeros(ctx, report); err != nil {
		return err
	}
	return p.reserve()
}

// placeZeros verifies the groups in holes, and makes them holes of the part file.
func (p *PartFile) placeZeros(ctx context.Context, report Report) error {
	p.mu.Lock()
	holes, tree, window := p.holes, p.tree, p.window
	checked := p.zeros.Clone()
	if p.blank { // elsewhere bytes that are there may be zeros that take space
		checked = p.had.Clone()
	}
	p.mu.Unlock()
	if holes == nil || holes.Size != tree.Size() || holes.Group != tree.GroupBytes() {
		return nil
	}
	candidates := holes.Groups()
	for r := range checked.All() {
		candidates.Sub(r.Start, r.End)
	}
	if window != nil {
		candidates.Sub(0, window.cover.Start)
		candidates.Sub(window.cover.End, tree.Size())
	}
	zeros, err := Zeros(ctx, tree, candidates, report)
	if err != nil {
		return err
	}
	blank, err := p.clear(zeros)
	if err == nil {
		err = p.extend(zeros)
	}
	if err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.blank = blank
	for r := range zeros.All() {
		p.had.Add(r.Start, r.End)
		p.zeros.Add(r.Start, r.End)
	}
	return nil
}

// clear makes zeros of the given groups, and holes of all bytes that count for nothing. blank
// reports whether it could. It does not ask the file where its holes are: a file system that does
// not know would leave wrong bytes.
func (p *PartFile) clear(zeros rangeset.Set) (blank bool, err error) {
	p.mu.Lock()
	blank = p.blank
	kept := p.had.Clone()
	p.mu.Unlock()
	if blank {
		return true, nil
	}
	for r := range zeros.All() {
		kept.Sub(r.Start, r.End)
	}
	info, err := p.file.Stat()
	if err != nil {
		return false, err
	}
	if p.window == nil && p.punch(kept, info.Size()) {
		return true, nil
	}
	for r := range zeros.All() {
		if err := p.overwrite(p.local(r), info.Size()); err != nil {
			return false, err
		}
	}
	return false, nil
}

// punch makes holes of all bytes before size that are not in kept. It reports whether it could.
func (p *PartFile) punch(kept rangeset.Set, size int64) bool {
	for at := int64(0); ; {
		r, ok := kept.NextMissing(at, size)
		if !ok {
			return true
		}
		if p.file.PunchHole(r.Start, r.End) != nil {
			return false
		}
		at = r.End
	}
}

// local returns where the bytes r of the file are in the part file.
func (p *PartFile) local(r rangeset.Range) rangeset.Range {
	if p.window == nil {
		return r
	}
	r = r.Intersect(p.window.want)
	return rangeset.Range{Start: r.Start - p.window.want.Start, End: r.End - p.window.want.Start}
}

// overwrite makes zeros of the bytes r of the part file, which has the given size. It writes only
// where it finds other bytes, so that a hole stays one.
func (p *PartFile) overwrite(r rangeset.Range, size int64) error {
	buf := make([]byte, min(surveySpan, r.Len()))
	var zeros []byte
	for at := r.Start; at < min(r.End, size); at += int64(len(buf)) {
		b := buf[:min(int64(len(buf)), min(r.End, size)-at)]
		n, err := p.file.ReadAt(b, at)
		if err == io.EOF {
			err = nil
		}
		if err == nil && isZero(b[:n]) {
			continue
		}
		if zeros == nil {
			zeros = make([]byte, len(buf))
		}
		if err := p.write(zeros[:len(b)], at); err != nil {
			return err
		}
	}
	return nil
}

// extend gives the part file its final size if the last bytes are in the given groups.
func (p *PartFile) extend(zeros rangeset.Set) error {
	end := p.tree.Size()
	if p.window != nil {
		end = p.window.want.End
	}
	if !zeros.Contains(end - 1) {
		return nil
	}
	info, err := p.file.Stat()
	if err != nil {
		return err
	}
	if size := p.local(rangeset.Range{Start: 0, End: end}).End; info.Size() < size {
		return p.file.Truncate(size)
	}
	return nil
}

// writeData writes whole verified groups at an offset of the part file, except for zeros in holes.
func (p *PartFile) writeData(b []byte, off int64) error {
	p.mu.Lock()
	holes := p.holes
	if !p.blank {
		holes = nil
	}
	p.mu.Unlock()
	if holes == nil {
		return p.write(b, off)
	}
	return holes.write(b, off, p.write, p.file.Truncate)
}

// write passes whole groups at an offset of the file to write, except for zeros in holes. If the
// end of the file is left out, it sets its size with truncate.
func (h *Holes) write(
	b []byte, off int64, write func(b []byte, off int64) error, truncate func(size int64) error,
) error {
	data := h.data(b, off)
	for r := range data.All() {
		if err := write(b[r.Start-off:r.End-off], r.Start); err != nil {
			return err
		}
	}
	end := off + int64(len(b))
	if end == h.Size && !data.Contains(end-1) && end > off {
		return truncate(end)
	}
	return nil
}

// data returns which of the bytes b at offset off of the file are to be written. If there are other
// holes than those announced, zero blocks are left out as well. The first block of each group is
// written, so that a later survey of the file finds the group.
func (h *Holes) data(b []byte, off int64) rangeset.Set {
	end := off + int64(len(b))
	data := rangeset.Of(rangeset.Range{Start: off, End: end})
	for at := off; ; {
		r, ok := h.Ranges.NextPresent(at, end)
		if !ok {
			break
		}
		if isZero(b[r.Start-off : r.End-off]) {
			data.Sub(r.Start, r.End)
		}
		at = r.End
	}
	if !h.More {
		return data
	}
	for at := off; at < end; at += h.Block {
		block := rangeset.Range{Start: at, End: min(at+h.Block, end)}
		if at%h.Group != 0 && isZero(b[block.Start-off:block.End-off]) {
			data.Sub(block.Start, block.End)
		}
	}
	return data
}

// isZero reports whether all bytes are zeros.
func isZero(b []byte) bool { return len(b) == 0 || b[0] == 0 && bytes.Equal(b[1:], b[:len(b)-1]) }
