package serve

import (
	"errors"
	"kwikcp/kwik"
	"kwikcp/transfer/disk"
)

// errFileChanged is what clients are told of a file that changed while it was read or served.
var errFileChanged = kwik.NewError(kwik.ErrContentChanged, "the file changed on the server")

// checkVersion returns errFileChanged if a file is not of the given version.
func checkVersion(f disk.File, version disk.Version) error {
	err := disk.SameVersion(f, version)
	if errors.Is(err, disk.ErrChanged) {
		return errFileChanged
	}
	return err
}
