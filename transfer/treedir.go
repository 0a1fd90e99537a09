package transfer

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"strings"
	"sync"
)

// A TreeDir is a Dir in which there may be directories: what is mirrored from and to.
type TreeDir interface {
	Dir
	// Names returns what is in the directory, in no order, and errCrowded if that is more than limit.
	Names(limit int) ([]string, error)
	// Sub opens a directory in this one. name is one component, and no link is followed.
	Sub(name string) (TreeDir, error)
	// At opens a directory at any depth below this one, following links that stay inside.
	At(name string) (TreeDir, error)
	// Mkdir makes a directory for this user alone.
	Mkdir(name string) error
	Readlink(name string) (string, error)
	Symlink(target, name string) error
	// ChmodDir sets the mode of a directory in this one; no link is followed.
	ChmodDir(name string, mode fs.FileMode) error
	// OpenVolume returns the file system that the directory is on, nil if it cannot be synced as a whole.
	OpenVolume() (Volume, error)
}

// A Volume is a file system that can be synced as a whole, contents and names: one wait for many files.
type Volume interface {
	Sync() error
	Close() error
}

// errCrowded is a directory with more entries than can be sorted in memory.
var errCrowded = errors.New("there is too much in the directory")

// OpenTree opens a directory of the operating system. With create it makes it if it is missing; its parent must be there.
func OpenTree(path string, create bool) (TreeDir, error) {
	if create {
		if err := os.Mkdir(path, 0o777); err != nil && !errors.Is(err, fs.ErrExist) {
			return nil, err
		}
	}
	root, err := os.OpenRoot(path)
	if err != nil {
		return nil, err
	}
	return osDir{root}, nil
}

func (d osDir) Names(limit int) ([]string, error) {
	f, err := d.root.Open(".")
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var names []string
	for {
		some, err := f.Readdirnames(4096)
		names = append(names, some...)
		switch {
		case len(names) > limit:
			return nil, errCrowded
		case err == io.EOF:
			return names, nil
		case err != nil:
			return nil, err
		}
	}
}

func (d osDir) Sub(name string) (TreeDir, error) {
	before, err := d.root.Lstat(name)
	if err != nil {
		return nil, err
	}
	if !before.IsDir() {
		return nil, &fs.PathError{Op: "open", Path: name, Err: errNotADirectory}
	}
	sub, err := d.root.OpenRoot(name)
	if err != nil {
		return nil, err
	}
	if after, err := sub.Stat("."); err != nil || !os.SameFile(before, after) {
		sub.Close()
		return nil, &fs.PathError{Op: "open", Path: name, Err: errReplaced}
	}
	return osDir{sub}, nil
}

var errNotADirectory = errors.New("not a directory")

func (d osDir) At(name string) (TreeDir, error) {
	info, err := d.root.Stat(name) // a FIFO would make an open wait
	if err != nil {
		return nil, err
	}
	if !info.IsDir() {
		return nil, &fs.PathError{Op: "open", Path: name, Err: errNotADirectory}
	}
	sub, err := d.root.OpenRoot(name)
	if err != nil {
		return nil, err
	}
	return osDir{sub}, nil
}

func (d osDir) Mkdir(name string) error              { return d.root.Mkdir(name, 0o700) }
func (d osDir) Readlink(name string) (string, error) { return d.root.Readlink(name) }
func (d osDir) Symlink(target, name string) error    { return d.root.Symlink(target, name) }

// ChmodDir opens nothing, since the mode may not allow that.
func (d osDir) ChmodDir(name string, mode fs.FileMode) error {
	info, err := d.root.Lstat(name)
	if err != nil {
		return err
	}
	if !info.IsDir() {
		return &fs.PathError{Op: "chmod", Path: name, Err: errNotADirectory}
	}
	return d.root.Chmod(name, mode)
}

// A dirCache opens the directories of a tree, each from the one that it is in, so that no link is followed, and keeps some of them open. It is
// safe for concurrent use.
type dirCache struct {
	root TreeDir // the caller's

	mu    sync.Mutex
	open  map[string]*openDir // by path below root
	clock uint64
}

// An openDir is a directory of a dirCache. It stays open until it is released as often as it was acquired, at least.
type openDir struct {
	TreeDir
	path string
	refs int
	used uint64 // the cache's clock when it was last acquired
	gone bool   // forgotten: closed with the last release
}

// maxOpenDirs is how many directories a cache keeps open that nobody uses at the moment.
const maxOpenDirs = 48

func newDirCache(root TreeDir) *dirCache {
	return &dirCache{root: root, open: make(map[string]*openDir)}
}

// acquire opens a directory; "" is the root. The caller releases it.
func (c *dirCache) acquire(dir string) (*openDir, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	at, rest := dir, "" // the nearest that is open, and the way from there
	for at != "" && c.open[at] == nil {
		at, rest = parentOf(at), join(lastOf(at), rest)
	}
	d := c.open[at]
	if d == nil {
		d = &openDir{TreeDir: c.root}
		c.open[""] = d
	}
	c.hold(d)
	for rest != "" {
		name, after, _ := strings.Cut(rest, "/")
		sub, err := d.Sub(name)
		if err != nil {
			c.drop(d)
			return nil, err
		}
		next := &openDir{TreeDir: sub, path: join(d.path, name)}
		c.open[next.path] = next
		c.hold(next)
		c.drop(d)
		d, rest = next, after
	}
	return d, nil
}

func (c *dirCache) release(d *openDir) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.drop(d)
}

func (c *dirCache) hold(d *openDir) {
	c.clock++
	d.refs, d.used = d.refs+1, c.clock
}

// drop gives up one use, and closes what has not been used for longest if too many are open. Called with the lock held.
func (c *dirCache) drop(d *openDir) {
	d.refs--
	if d.gone && d.refs == 0 {
		d.Close()
	}
	for len(c.open) > maxOpenDirs {
		var oldest *openDir
		for _, o := range c.open {
			if o.refs == 0 && o.path != "" && (oldest == nil || o.used < oldest.used) {
				oldest = o
			}
		}
		if oldest == nil {
			return
		}
		delete(c.open, oldest.path)
		oldest.Close()
	}
}

// forget makes sure that a directory and what is below it are opened anew: they have been removed.
func (c *dirCache) forget(dir string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for p, d := range c.open {
		if p == dir || strings.HasPrefix(p, dir+"/") {
			delete(c.open, p)
			d.gone = true
			if d.refs == 0 {
				d.Close()
			}
		}
	}
}

// close closes all but the root. Nothing may be in use any more.
func (c *dirCache) close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for p, d := range c.open {
		if p != "" {
			d.Close()
		}
	}
	clear(c.open)
}

// parentOf returns the path of the directory that a path is in, "" for the top.
func parentOf(p string) string {
	i := strings.LastIndexByte(p, '/')
	return p[:max(i, 0)]
}

// lastOf returns the last component of a path.
func lastOf(p string) string { return p[strings.LastIndexByte(p, '/')+1:] }

// join puts a slash between two parts, either of which may be empty.
func join(dir, name string) string {
	if dir == "" || name == "" {
		return dir + name
	}
	return dir + "/" + name
}
