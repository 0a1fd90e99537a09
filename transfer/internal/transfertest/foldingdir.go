package transfertest

import (
	"io/fs"

	"kwikcp/transfer/disk"
)

// A FoldingDir is a directory of a file system to which some names are the same. A renamed file
// gets the new spelling, as on exFAT by FUSE.
type FoldingDir struct {
	disk.TreeDir
	Folding disk.Folding
}

// spelling returns the name under which the directory has a name.
func (d FoldingDir) spelling(name string) string {
	names, _ := d.Names(1 << 20)
	for _, n := range names {
		if d.Folding.Key(n) == d.Folding.Key(name) {
			return n
		}
	}
	return name
}

// Open implements disk.Dir.
func (d FoldingDir) Open(name string) (disk.File, error) { return d.TreeDir.Open(d.spelling(name)) }

// OpenPart implements disk.Dir.
func (d FoldingDir) OpenPart(name string) (disk.File, error) {
	return d.TreeDir.OpenPart(d.spelling(name))
}

// Create implements disk.Dir.
func (d FoldingDir) Create(name string) (disk.File, error) { return d.TreeDir.Create(d.spelling(name)) }

// Lstat implements disk.Dir.
func (d FoldingDir) Lstat(name string) (fs.FileInfo, error) { return d.TreeDir.Lstat(d.spelling(name)) }

// Stat implements disk.Dir.
func (d FoldingDir) Stat(name string) (fs.FileInfo, error) { return d.TreeDir.Stat(d.spelling(name)) }

// Remove implements disk.Dir.
func (d FoldingDir) Remove(name string) error { return d.TreeDir.Remove(d.spelling(name)) }

// Rename implements disk.Dir.
func (d FoldingDir) Rename(old, new string) error {
	if twin := d.spelling(new); twin != new && twin != old {
		if err := d.TreeDir.Remove(twin); err != nil {
			return err
		}
	}
	return d.TreeDir.Rename(d.spelling(old), new)
}
