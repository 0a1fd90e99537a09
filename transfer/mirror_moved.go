package transfer

import (
	"kwikcp/transfer/disk"
	"kwikcp/transfer/internal/partfile"
)

// openDonor opens the file of the target that may have the content of f; nil if there is none.
func (m *mirror) openDonor(f *mirrorFile) disk.File {
	if f.donor == "" {
		return nil
	}
	place := partfile.Place{Dir: m.cache.Dir(disk.Parent(f.donor)), Name: disk.Base(f.donor)}
	file, _ := place.Existing()
	return file
}
