package serve

import (
	"bytes"
	"io/fs"
	"kwikcp/transfer/disk"
	"kwikcp/transfer/source"
	"slices"

	transferpb "kwikcp/transfer/internal/wire/proto"
)

// addPlaces puts into a listing which directory of this machine is listed. A mirror then notices
// that it would copy a directory into itself.
func addPlaces(to *transferpb.Listing, base source.Dir) {
	local, ok := source.LocalDir(base)
	if !ok {
		return
	}
	for _, id := range disk.Places(local) {
		to.Places = append(to.Places, slices.Clone(id[:]))
	}
}

// isPlace reports whether info describes the directory of a place, to which a client copies. It may
// be in the listed one under a name that the client does not see, as a volume of a container.
func isPlace(place []byte, info fs.FileInfo) bool {
	if len(place) == 0 || !info.IsDir() {
		return false
	}
	id, ok := disk.PlaceOf(info)
	return ok && bytes.Equal(place, id[:])
}
