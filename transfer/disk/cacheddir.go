package disk

import (
	"io/fs"
	"time"
)

// Dir returns the directory of a path as a Dir that is acquired for each operation alone, so
// that it keeps no descriptor open. Close does nothing. The Dir is usable until the cache is
// closed.
func (c *DirCache) Dir(path string) Dir { return cachedDir{c, path} }

type cachedDir struct {
	cache *DirCache
	path  string
}

// within calls f with the directory, which is open meanwhile.
func within[T any](d cachedDir, f func(Dir) (T, error)) (result T, err error) {
	opened, err := d.cache.Acquire(d.path)
	if err != nil {
		return result, err
	}
	defer d.cache.Release(opened)
	return f(opened)
}

func (d cachedDir) do(f func(Dir) error) error {
	_, err := within(d, func(dir Dir) (struct{}, error) { return struct{}{}, f(dir) })
	return err
}

func (d cachedDir) Open(name string) (File, error) {
	return within(d, func(dir Dir) (File, error) { return dir.Open(name) })
}

func (d cachedDir) Create(name string) (File, error) {
	return within(d, func(dir Dir) (File, error) { return dir.Create(name) })
}

func (d cachedDir) OpenPart(name string) (File, error) {
	return within(d, func(dir Dir) (File, error) { return dir.OpenPart(name) })
}

func (d cachedDir) Lstat(name string) (fs.FileInfo, error) {
	return within(d, func(dir Dir) (fs.FileInfo, error) { return dir.Lstat(name) })
}

func (d cachedDir) Stat(name string) (fs.FileInfo, error) {
	return within(d, func(dir Dir) (fs.FileInfo, error) { return dir.Stat(name) })
}

func (d cachedDir) Rename(old, new string) error {
	return d.do(func(dir Dir) error { return dir.Rename(old, new) })
}

func (d cachedDir) RenameNew(old, new string) error {
	return d.do(func(dir Dir) error { return dir.RenameNew(old, new) })
}

func (d cachedDir) Remove(name string) error {
	return d.do(func(dir Dir) error { return dir.Remove(name) })
}

func (d cachedDir) Chtimes(name string, mtime time.Time) error {
	return d.do(func(dir Dir) error { return dir.Chtimes(name, mtime) })
}

func (d cachedDir) Sync() error  { return d.do(Dir.Sync) }
func (d cachedDir) Close() error { return nil }
