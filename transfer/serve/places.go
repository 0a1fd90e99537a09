package serve

import (
	"kwikcp/transfer/disk"
	"slices"

	transferpb "kwikcp/transfer/internal/wire/proto"
)

// addPlaces puts into a listing which directory of this machine is listed. A mirror then notices
// that it would copy a directory into itself.
func addPlaces(to *transferpb.Listing, base disk.TreeDir) {
	if visible, ok := base.(visibleTree); ok {
		base = visible.TreeDir
	}
	for _, id := range disk.Places(base) {
		to.Places = append(to.Places, slices.Clone(id[:]))
	}
}
