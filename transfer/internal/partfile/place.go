package partfile

import (
	"encoding/hex"
	"errors"
	"io/fs"
	"strings"
	"time"

	"github.com/zeebo/blake3"

	"kwikcp/transfer/disk"
)

// A Place is where a file is to be: a name in a directory.
type Place struct {
	Dir  disk.Dir
	Name string
	// Lacks notes the operations that are not possible there; nil notes nothing.
	Lacks *disk.Lacks
}

// Metadata is what a file gets besides its content.
type Metadata struct {
	Mode  fs.FileMode // before the umask
	MTime time.Time
}

// PartName returns the name of the part file of a target. It is of a fixed length, so that a
// target's name may be as long as the system allows. It is always the same, so that two
// transfers to one target notice each other, and the second resumes what the first one left.
func PartName(name string) string { return hashed(name) + ".part" }

// NewName returns the name under which one run, and no other, writes a file that it renames to
// a target.
func NewName(name, run string) string { return hashed(name) + "-" + run + ".new" }

// IsNewOf reports whether a temporary name is one that NewName returns for a target.
func IsNewOf(temp, name string) bool { return strings.HasPrefix(temp, hashed(name)+"-") }

// KeepNew makes a file with a name of NewName, which its run has left, the part file of its target.
// It returns that name. The bytes of the file need not be verified.
func KeepNew(d disk.Dir, temp string) (part string, err error) {
	const hash = len(".kwikcp-") + 2*hashBytes
	if len(temp) < hash {
		return "", fs.ErrNotExist
	}
	part = temp[:hash] + ".part"
	return part, keepAs(d, temp, part)
}

// Keep makes a file with a temporary name, whose bytes are verified, the part file of the place. If
// there is one, it may be another transfer's, and Keep returns an error.
func (place Place) Keep(temp string) error {
	return keepAs(place.Dir, temp, PartName(place.Name))
}

func keepAs(d disk.Dir, temp, part string) error {
	f, err := d.Open(temp)
	if err != nil {
		return err
	}
	err = f.Chmod(partMode)
	if closed := f.Close(); err == nil {
		err = closed
	}
	if err != nil {
		return err
	}
	return d.RenameNew(temp, part)
}

// hashBytes is how many bytes of a name's hash are in the names of its temporary files.
const hashBytes = 10

func hashed(name string) string {
	sum := blake3.Sum256([]byte(name))
	return ".kwikcp-" + hex.EncodeToString(sum[:hashBytes])
}

// check returns why no file can be put at the place. A link is replaced, unless it leads to a
// directory.
func (place Place) check(noClobber bool) error {
	if followed, err := place.Dir.Stat(place.Name); err == nil && followed.IsDir() {
		return ErrIsDirectory
	}
	there, err := place.Dir.Lstat(place.Name)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return disk.CheckReplaceable(place.Dir, place.Name)
	case err != nil:
		return err // such as a name that is too long, which the part file's is not
	case !there.Mode().IsRegular() && there.Mode().Type() != fs.ModeSymlink:
		return disk.ErrNotAFile
	case noClobber:
		return ErrExists
	}
	return disk.CheckReplaceable(place.Dir, place.Name)
}

// Existing opens the regular file at the place. It returns nil if there is none or it cannot be
// read. Links are not followed, since a new file would replace them.
func (place Place) Existing() (f disk.File, info fs.FileInfo) {
	there, err := place.Dir.Lstat(place.Name)
	if err != nil || !there.Mode().IsRegular() {
		return nil, nil
	}
	if f, err = place.Dir.Open(place.Name); err != nil {
		return nil, nil
	}
	if info, err = f.Stat(); err != nil || !disk.SameFile(info, there) {
		f.Close()
		return nil, nil
	}
	return f, info
}

// SyncFile makes the open file at the place durable, and its name: the process that put it
// there may have been killed before it did.
func (place Place) SyncFile(f disk.File) error {
	// Windows wants a file that is open for writing.
	if err := place.Lacks.Allow(disk.OpSync, f.Sync()); err != nil {
		return err
	}
	return place.syncDir()
}

// syncDir makes the names in the directory durable, where that is possible.
func (place Place) syncDir() error { return place.Lacks.Allow(disk.OpSyncDir, place.Dir.Sync()) }

// setMode gives an open file the permission bits of a mode, where that is possible.
func (place Place) setMode(f disk.File, mode fs.FileMode) error {
	return place.Lacks.Allow(disk.OpMode, f.Chmod(mode))
}

// setTime gives the file with a name in the directory a time, where that is possible.
func (place Place) setTime(name string, mtime time.Time) error {
	return place.Lacks.Allow(disk.OpTimes, place.Dir.Chtimes(name, mtime))
}

// ApplyMetadata gives the open file at the place its mode and time, unless it has them: a file
// that has them may be another user's.
func (place Place) ApplyMetadata(f disk.File, info fs.FileInfo, m Metadata) error {
	if mode := m.Mode &^ disk.Umask; info.Mode() != mode { // a setuid bit, too, would go with a new file
		if err := place.setMode(f, mode); err != nil {
			return err
		}
	}
	if info.ModTime().Equal(m.MTime) {
		return nil
	}
	return place.setTime(place.Name, m.MTime)
}

// WriteNew writes a whole file under a temporary name, with holes, mode and time, and syncs its
// content if sync is set. The caller renames it. After an error nothing is left. The version is
// that of the file, so that a change by another process can be noticed.
func (place Place) WriteNew(
	temp string, content []byte, holes Holes, m Metadata, sync bool,
) (version disk.Version, err error) {
	f, err := place.Dir.Create(temp)
	if err != nil {
		return version, err
	}
	err = place.fill(f, temp, content, holes, m, sync)
	if err == nil {
		version, err = contentVersion(f)
	}
	if closed := place.Lacks.Allow(disk.OpClose, f.Close()); err == nil {
		err = closed
	}
	if err != nil {
		place.Dir.Remove(temp)
	}
	return version, err
}

func (place Place) fill(f disk.File, temp string, content []byte, holes Holes, m Metadata, sync bool) error {
	if len(content) > 0 {
		write := func(b []byte, off int64) error {
			_, err := f.WriteAt(b, off)
			return err
		}
		extend := func(size int64) error { return newOwnFile(f).Truncate(size) }
		if err := holes.write(content, 0, write, extend); err != nil {
			return err
		}
	}
	if err := place.setMode(f, m.Mode.Perm()&^disk.Umask); err != nil {
		return err
	}
	if err := place.setTime(temp, m.MTime); err != nil || !sync {
		return err
	}
	return place.Lacks.Allow(disk.OpSync, f.Sync())
}
