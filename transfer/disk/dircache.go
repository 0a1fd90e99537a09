package disk

import (
	"io"
	"strings"
	"sync"
)

// A DirCache opens directories of a tree, and keeps some of them open for later. It opens each
// directory from its parent and follows no links. It is safe for concurrent use.
type DirCache struct{ *Cache[TreeDir] }

// A CachedDir is an open directory of a DirCache. It stays open at least until it has been
// released as often as it was acquired. Only the cache closes it.
type CachedDir struct {
	TreeDir
	held *Cached[TreeDir]
}

// Unwrap returns the directory itself.
func (d *CachedDir) Unwrap() TreeDir { return d.TreeDir }

// NewDirCache returns a cache of the directories of a tree. The caller closes the cache and then
// root.
func NewDirCache(root TreeDir) *DirCache { return &DirCache{NewCache(root, TreeDir.Sub)} }

// Acquire returns the directory with a path below the root; "" is the root. The caller releases
// it.
func (c *DirCache) Acquire(dir string) (*CachedDir, error) {
	held, err := c.Cache.Acquire(dir)
	if err != nil {
		return nil, err
	}
	return &CachedDir{held.Dir, held}, nil
}

// Release ends one use of a directory.
func (c *DirCache) Release(d *CachedDir) { c.Cache.Release(d.held) }

// A Cache is a [DirCache] of directories of another kind.
type Cache[D io.Closer] struct {
	root D // the caller closes it
	sub  func(in D, name string) (D, error)

	mu    sync.Mutex
	open  map[string]*Cached[D] // by path below root
	names map[string]string     // of directories that have another name for now, by path
	clock uint64                // counts acquisitions
}

// A Cached is an open directory of a Cache, as a [CachedDir] is one of a DirCache.
type Cached[D io.Closer] struct {
	Dir D

	// Guarded by the cache's lock.
	path    string
	refs    int
	used    uint64 // the cache's clock at the last acquisition
	dropped bool   // no longer in the cache; it is closed with the last release
}

// maxOpenDirs bounds the directories that a cache keeps open while they are not in use.
const maxOpenDirs = 48

// NewCache returns a cache of the directories of a tree. sub opens a directory in another one. The
// cache calls it with its lock held. The caller closes the cache and then root.
func NewCache[D io.Closer](root D, sub func(in D, name string) (D, error)) *Cache[D] {
	return &Cache[D]{root: root, sub: sub, open: make(map[string]*Cached[D])}
}

// Acquire returns the directory with a path below the root; "" is the root. The caller releases
// it.
func (c *Cache[D]) Acquire(dir string) (*Cached[D], error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	at, rest := dir, "" // the nearest open directory, and the path from there
	for at != "" && c.open[at] == nil {
		at, rest = Parent(at), JoinPath(Base(at), rest)
	}
	d := c.open[at]
	if d == nil {
		d = &Cached[D]{Dir: c.root}
		c.open[""] = d
	}
	c.acquire(d)
	for rest != "" {
		name, after, _ := strings.Cut(rest, "/")
		path := JoinPath(d.path, name)
		if other, ok := c.names[path]; ok {
			name = other
		}
		sub, err := c.sub(d.Dir, name)
		if err != nil {
			c.release(d)
			return nil, err
		}
		next := &Cached[D]{Dir: sub, path: path}
		c.open[next.path] = next
		c.acquire(next)
		c.release(d)
		d, rest = next, after
	}
	return d, nil
}

// Release ends one use of a directory.
func (c *Cache[D]) Release(d *Cached[D]) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.release(d)
}

// acquire begins one use of a directory. The lock must be held.
func (c *Cache[D]) acquire(d *Cached[D]) {
	c.clock++
	d.refs, d.used = d.refs+1, c.clock
}

// release ends one use of a directory, and closes the least recently used ones if too many are
// open. The lock must be held.
func (c *Cache[D]) release(d *Cached[D]) {
	d.refs--
	if d.dropped && d.refs == 0 {
		d.Dir.Close()
	}
	for len(c.open) > maxOpenDirs {
		oldest := c.leastRecentlyUsed()
		if oldest == nil {
			return
		}
		delete(c.open, oldest.path)
		oldest.Dir.Close()
	}
}

// leastRecentlyUsed returns the directory whose last use is longest ago, nil if all but the root
// are in use. The lock must be held.
func (c *Cache[D]) leastRecentlyUsed() (oldest *Cached[D]) {
	for _, d := range c.open {
		isCandidate := d.refs == 0 && d.path != ""
		if isCandidate && (oldest == nil || d.used < oldest.used) {
			oldest = d
		}
	}
	return oldest
}

// Redirect lets a path stand for a directory that has another name in its parent. An empty name
// ends that. Directories that are open stay so.
func (c *Cache[D]) Redirect(dir, name string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if name == "" {
		delete(c.names, dir)
		return
	}
	if c.names == nil {
		c.names = make(map[string]string)
	}
	c.names[dir] = name
}

// Drop drops a directory and everything below it from the cache, after they have been removed
// from the disk.
func (c *Cache[D]) Drop(dir string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for p, d := range c.open {
		if p == dir || strings.HasPrefix(p, dir+"/") {
			delete(c.open, p)
			d.dropped = true
			if d.refs == 0 {
				d.Dir.Close()
			}
		}
	}
}

// Close closes all directories except for the root. None may be in use.
func (c *Cache[D]) Close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for p, d := range c.open {
		if p != "" {
			d.Dir.Close()
		}
	}
	clear(c.open)
}
