package disk

import (
	"strings"
	"sync"
)

// A DirCache opens the directories of a tree, each from the one that it is in, so that no link is followed, and keeps some of them open. It is
// safe for concurrent use.
type DirCache struct {
	root TreeDir // the caller's

	mu    sync.Mutex
	open  map[string]*OpenedDir // by path below root
	clock uint64
}

// An OpenedDir is a directory of a DirCache. It stays open until it is released as often as it was acquired, at least.
type OpenedDir struct {
	TreeDir
	path string
	refs int
	used uint64 // the cache's clock when it was last acquired
	gone bool   // forgotten: closed with the last release
}

// maxOpenDirs is how many directories a cache keeps open that nobody uses at the moment.
const maxOpenDirs = 48

func NewDirCache(root TreeDir) *DirCache {
	return &DirCache{root: root, open: make(map[string]*OpenedDir)}
}

// Acquire opens a directory; "" is the root. The caller releases it.
func (c *DirCache) Acquire(dir string) (*OpenedDir, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	at, rest := dir, "" // the nearest that is open, and the way from there
	for at != "" && c.open[at] == nil {
		at, rest = Parent(at), JoinPath(Base(at), rest)
	}
	d := c.open[at]
	if d == nil {
		d = &OpenedDir{TreeDir: c.root}
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
		next := &OpenedDir{TreeDir: sub, path: JoinPath(d.path, name)}
		c.open[next.path] = next
		c.hold(next)
		c.drop(d)
		d, rest = next, after
	}
	return d, nil
}

func (c *DirCache) Release(d *OpenedDir) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.drop(d)
}

func (c *DirCache) hold(d *OpenedDir) {
	c.clock++
	d.refs, d.used = d.refs+1, c.clock
}

// drop gives up one use, and closes what has not been used for longest if too many are open. Called with the lock held.
func (c *DirCache) drop(d *OpenedDir) {
	d.refs--
	if d.gone && d.refs == 0 {
		d.Close()
	}
	for len(c.open) > maxOpenDirs {
		var oldest *OpenedDir
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

// Forget makes sure that a directory and what is below it are opened anew: they have been removed.
func (c *DirCache) Forget(dir string) {
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

// Close closes all but the root. Nothing may be in use any more.
func (c *DirCache) Close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for p, d := range c.open {
		if p != "" {
			d.Close()
		}
	}
	clear(c.open)
}
