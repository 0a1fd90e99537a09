package serve

import (
	"slices"

	"kwikcp/integrity"
	transferpb "kwikcp/transfer/internal/wire/proto"
)

// proveRange sends the values that prove the requested range. It sends none if the
// file has no byte of the range, or is a single chunk group, which its root proves.
func (r *response) proveRange(tree *integrity.Tree) error {
	want := r.byteRange.Of(tree.Size())
	if want.Empty() {
		return nil
	}
	values, err := tree.ProveRange(want.Start, want.End)
	if err != nil {
		return err
	}
	for part := range slices.Chunk(values, r.w.values()) {
		proof := &transferpb.RangeProof{Values: part}
		if err := r.w.send(&transferpb.Reply{Reply: &transferpb.Reply_RangeProof{RangeProof: proof}}); err != nil {
			return err
		}
	}
	return nil
}
