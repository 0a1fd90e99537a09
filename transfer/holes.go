package transfer

import (
	"context"

	"kwikcp/integrity"
	"kwikcp/internal/rangeset"
	"kwikcp/kwik"
	"kwikcp/transfer/internal/partfile"
	"kwikcp/transfer/internal/wire"

	transferpb "kwikcp/transfer/internal/wire/proto"
)

// holeMemory is the memory of a hole, in bytes.
const holeMemory = 16

// readHoles returns the holes of a manifest, and takes their memory from trees. An error that is no
// *Error is of a malformed reply. The size and the group of the manifest must be valid.
func readHoles(m *transferpb.Manifest, trees *treeShare) (partfile.Holes, error) {
	h := partfile.Holes{
		Size: int64(m.GetSize()), Group: integrity.GroupSize(m.GetGroup()).Bytes(), Block: wire.HoleBlock,
		More: m.GetMoreHoles(),
	}
	if len(m.GetHoles()) == 0 {
		return h, nil
	}
	var err error
	if h.Ranges, err = wire.ReadHoles(m.GetHoles(), h.Size); err != nil {
		return partfile.Holes{}, err
	}
	return h, trees.take(holeMemory * int64(h.Ranges.Len()))
}

// proveZeros finds the groups in holes that are zeros, which an Output gets without a request.
func (g *get) proveZeros(ctx context.Context) (err error) {
	g.zeros, err = partfile.Zeros(ctx, g.tree, g.holes.Groups(), g.observer.checking)
	g.result.Holes = g.zeros.Total()
	return err
}

func rangesOf(s rangeset.Set) (ranges []kwik.Range) {
	for r := range s.All() {
		ranges = append(ranges, kwik.Range(r))
	}
	return ranges
}

// countHoles counts bytes of a file that were not fetched.
func (m *mirror) countHoles(bytes int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.result.Holes += bytes
}
