package sim

import (
	"context"
	"io/fs"

	"kwikcp/transfer/disk"
	"kwikcp/transfer/source"
)

// A memRoot is the root of a server of a MemDir. It has no directories but itself.
type memRoot struct{ disk.Dir }

func (r memRoot) Open(_ context.Context, name string) (source.Object, error) {
	f, err := r.Dir.Open(name)
	if err != nil {
		return nil, err
	}
	return f, nil
}

func (r memRoot) Stat(_ context.Context, name string) (fs.FileInfo, error) { return r.Dir.Stat(name) }

func (r memRoot) Lstat(_ context.Context, name string) (fs.FileInfo, error) {
	return r.Dir.Lstat(name)
}

func (r memRoot) Readlink(_ context.Context, name string) (string, error) {
	return "", &fs.PathError{Op: "readlink", Path: name, Err: fs.ErrInvalid}
}

func (r memRoot) Names(context.Context, int) ([]string, error) { return nil, disk.ErrNotADirectory }

func (r memRoot) Sub(_ context.Context, name string) (source.Dir, error) {
	return nil, disk.ErrNotADirectory
}

func (r memRoot) At(context.Context, string) (source.Dir, error) {
	return nil, disk.ErrNotADirectory
}

func (r memRoot) Caps() source.Caps           { return source.Caps{} }
func (r memRoot) Check(context.Context) error { return nil }

var _ source.Root = memRoot{}
