package disk

import (
	"io/fs"
	"time"
)

// Dir returns the directory of a path as a Dir that is acquired for each operation alone, so
// that it keeps no descriptor open. Close does nothing. The Dir is usable until the cache is
// closed.
func (c *DirCache) Dir(path string) Dir { return lazyDir{c, path} }

type lazyDir struct {
	cache *DirCache
	path  string
}

// within calls f with the directory, which is open meanwhile.
func within[T any](d lazyDir, f func(Dir) (T, error)) (result T, err error) {
	dir, err := d.cache.Acquire(d.path)
	if err != nil {
		return result, err
	}
	defer d.cache.Release(dir)
	return f(dir)
}

func (d lazyDir) do(f func(Dir) error) error {
	_, err := within(d, func(dir Dir) (struct{}, error) { return struct{}{}, f(dir) })
	return err
}

func (d lazyDir) Open(name string) (File, error) {
	return within(d, func(dir Dir) (File, error) { return dir.Open(name) })
}

func (d lazyDir) Create(name string) (File, error) {
	return within(d, func(dir Dir) (File, error) { return dir.Create(name) })
}

func (d lazyDir) OpenPart(name string) (File, error) {
	return within(d, func(dir Dir) (File, error) { return dir.OpenPart(name) })
}

func (d lazyDir) Lstat(name string) (fs.FileInfo, error) {
	return within(d, func(dir Dir) (fs.FileInfo, error) { return dir.Lstat(name) })
}

func (d lazyDir) Stat(name string) (fs.FileInfo, error) {
	return within(d, func(dir Dir) (fs.FileInfo, error) { return dir.Stat(name) })
}

func (d lazyDir) Rename(old, new string) error {
	return d.do(func(dir Dir) error { return dir.Rename(old, new) })
}

func (d lazyDir) RenameNew(old, new string) error {
	return d.do(func(dir Dir) error { return dir.RenameNew(old, new) })
}

func (d lazyDir) Remove(name string) error {
	return d.do(func(dir Dir) error { return dir.Remove(name) })
}

func (d lazyDir) Chtimes(name string, mtime time.Time) error {
	return d.do(func(dir Dir) error { return dir.Chtimes(name, mtime) })
}

func (d lazyDir) Sync() error  { return d.do(Dir.Sync) }
func (d lazyDir) Close() error { return nil }
