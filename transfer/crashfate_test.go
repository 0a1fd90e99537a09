//go:build unix

package transfer

import (
	"maps"
	"math/rand/v2"
	"slices"
)

// A fate decides what of the unsynced survives a power cut.
type fate interface {
	// names returns which of n changes of the directory are there, in their order.
	names(n int) []bool
	// file makes a file of what is durable of it and the changes after, which are no syncs.
	file(durable diskImage, pending []diskOp) diskImage
}

// after returns a state that a power cut after the first k operations may leave.
func (d *crashDisk) after(k int, f fate) diskState {
	nodes := slices.Clone(d.base.nodes)
	names := maps.Clone(d.base.names)
	if names == nil {
		names = make(map[string]int)
	}
	pending := make([][]diskOp, len(nodes))
	var renames []diskOp
	for _, op := range d.log[:k] {
		switch op.kind {
		case "create":
			nodes = append(nodes, diskImage{mode: op.mode, mtime: op.mtime})
			pending = append(pending, nil)
		case "link", "unlink", "rename":
			renames = append(renames, op)
		case "syncdir":
			for _, r := range renames {
				r.onNames(names)
			}
			renames = nil
		case "sync":
			nodes[op.node] = nodes[op.node].with(pending[op.node])
			pending[op.node] = nil
		default:
			pending[op.node] = append(pending[op.node], op)
		}
	}
	for i, there := range f.names(len(renames)) {
		if there {
			renames[i].onNames(names)
		}
	}
	for i, p := range pending {
		if len(p) > 0 {
			nodes[i] = f.file(nodes[i], p)
		}
	}
	return diskState{nodes, names}
}

// now returns what processes see.
func (d *crashDisk) now() diskState { return d.after(len(d.log), keepAll{}) }

// keepAll is the fate of a disk whose machine did not crash.
type keepAll struct{}

func (keepAll) names(n int) []bool { return slices.Repeat([]bool{true}, n) }

func (keepAll) file(f diskImage, pending []diskOp) diskImage { return f.with(pending) }

// dropAll keeps nothing that was not synced.
type dropAll struct{}

func (dropAll) names(n int) []bool                           { return slices.Repeat([]bool{false}, n) }
func (dropAll) file(f diskImage, pending []diskOp) diskImage { return f }

// sizesOnly is the fate of a journal of metadata: names, sizes, modes and times survive, but
// the data is zeros.
type sizesOnly struct{ keepAll }

func (sizesOnly) file(f diskImage, pending []diskOp) diskImage {
	durable := f.data
	f = f.with(pending)
	clear(f.data)
	copy(f.data, durable)
	return f
}

// dataOnly keeps files and no names.
type dataOnly struct{ keepAll }

func (dataOnly) names(n int) []bool { return slices.Repeat([]bool{false}, n) }

// chance keeps some, by the sector.
type chance struct{ *rand.Rand }

// names keeps the first few, as a journal does, or any.
func (r chance) names(n int) []bool {
	some := slices.Repeat([]bool{false}, n)
	if n == 0 {
		return some
	}
	if r.IntN(2) == 0 {
		for i := range r.IntN(n + 1) {
			some[i] = true
		}
		return some
	}
	for i := range some {
		some[i] = r.IntN(2) == 0
	}
	return some
}

func (r chance) file(f diskImage, pending []diskOp) diskImage {
	sector := []int64{512, 4096}[r.IntN(2)]
	often := []int{1, 5, 9, 10}[r.IntN(4)] // of 10
	upTo := len(pending)                   // later operations are lost
	if r.IntN(2) == 0 {
		upTo = r.IntN(len(pending) + 1)
	}
	sizes := []int64{int64(len(f.data))} // that it had
	data := slices.Clone(f.data)
	grow := func(size int64) {
		if more := size - int64(len(data)); more > 0 {
			fill := make([]byte, more)
			if r.IntN(4) == 0 { // the blocks keep their old content
				rand.NewChaCha8([32]byte{byte(r.Uint32())}).Read(fill)
			}
			data = append(data, fill...)
		}
	}
	for i, op := range pending {
		kept := i < upTo && r.IntN(10) < often
		switch op.kind {
		case "write":
			end := op.off + int64(len(op.data))
			grow(end)
			sizes = append(sizes, max(sizes[len(sizes)-1], end))
			for off := op.off; i < upTo && off < end; {
				next := min(off-off%sector+sector, end)
				if r.IntN(10) < often {
					copy(data[off:next], op.data[off-op.off:])
				}
				off = next
			}
		case "truncate":
			grow(op.off)
			if kept {
				clear(data[op.off:])
			}
			sizes = append(sizes, op.off)
		case "chmod", "chtimes":
			if kept {
				op.on(&f)
			}
		}
	}
	size := sizes[len(sizes)-1]
	if r.IntN(2) == 0 {
		size = sizes[r.IntN(len(sizes))]
	}
	f.data = data[:size:size]
	return f
}
