//go:build !linux

package disk

import "io/fs"

// openWriteOnly fails: a directory that cannot be read cannot be opened here.
func openWriteOnly(path string) (Dir, error) {
	return nil, &fs.PathError{Op: "open", Path: path, Err: fs.ErrPermission}
}
