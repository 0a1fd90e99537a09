package source

import (
	"context"
	"io/fs"

	"kwikcp/transfer/disk"
)

// Local returns the root of a local directory. Its operations do not end with their contexts. Its
// objects are the files of the directory, whose content may change: a reader compares versions
// after it has read. Close closes the directory.
func Local(dir disk.TreeDir) Root { return localDir{dir} }

// A localDir is a Dir of a local directory.
type localDir struct{ dir disk.TreeDir }

// Open implements [Dir], as do the other methods.
func (d localDir) Open(_ context.Context, name string) (Object, error) {
	f, err := d.dir.Open(name)
	if err != nil {
		return nil, err
	}
	return f, nil
}

func (d localDir) Stat(_ context.Context, name string) (fs.FileInfo, error) { return d.dir.Stat(name) }

func (d localDir) Lstat(_ context.Context, name string) (fs.FileInfo, error) {
	return d.dir.Lstat(name)
}

func (d localDir) Readlink(_ context.Context, name string) (string, error) {
	return d.dir.Readlink(name)
}

func (d localDir) Names(_ context.Context, limit int) ([]string, error) { return d.dir.Names(limit) }

func (d localDir) Sub(_ context.Context, name string) (Dir, error) { return local(d.dir.Sub(name)) }

func (d localDir) At(_ context.Context, name string) (Dir, error) { return local(d.dir.At(name)) }

func (d localDir) Close() error { return d.dir.Close() }

func local(dir disk.TreeDir, err error) (Dir, error) {
	if err != nil {
		return nil, err
	}
	return localDir{dir}, nil
}

// Caps implements [Root].
func (d localDir) Caps() Caps { return Caps{} }

// Check implements [Root]. A [disk.FollowedDir] follows its path.
func (d localDir) Check(context.Context) error {
	if followed, ok := d.dir.(interface{ Check() error }); ok {
		return followed.Check()
	}
	_, err := d.dir.Stat(".")
	return err
}

// A wrapper is a Dir around another one, of the same directory.
type wrapper interface{ Unwrap() Dir }

// LocalDir returns the local directory that d is, for what other directories do not have: metadata
// and places. ok is false if d is not local. The result knows none of the rules of wrappers around
// it: its user must have looked at a name through d before.
func LocalDir(d Dir) (dir disk.TreeDir, ok bool) {
	for {
		if at, ok := d.(localDir); ok {
			return at.dir, true
		}
		outer, ok := d.(wrapper)
		if !ok {
			return nil, false
		}
		d = outer.Unwrap()
	}
}

var _ Root = localDir{}
