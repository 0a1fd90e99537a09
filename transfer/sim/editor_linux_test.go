package sim

import (
	"fmt"
	"io/fs"
	"math/rand/v2"
	"path"
	"slices"
	"sort"
	"strings"
	"sync"
	"time"
)

// A version is what a path of the primary led to from one moment to another.
type version struct {
	mode   fs.FileMode
	data   []byte // of a file; it is never written to
	target string // of a link
	mtime  time.Time
	node   *simNode
	links  int
	from   time.Time
	to     time.Time // zero while it stands
}

// treeOf returns the entries below a directory. The disk's lock must be held. With safe it is
// what a power cut would leave of the names and contents.
func treeOf(dir *simNode, safe bool) map[string]version {
	all := make(map[string]version)
	var walk func(dir *simNode, at string)
	walk = func(dir *simNode, at string) {
		names := dir.names
		if safe {
			names = dir.safe
		}
		for name, n := range names {
			p := path.Join(at, name)
			image := n.simImage
			if safe && !n.mode.IsDir() && n.target == "" {
				if image = (simImage{}); n.durable != nil {
					image = *n.durable
				}
			}
			v := version{mode: n.mode, data: image.data, target: n.target, mtime: image.mtime}
			v.node, v.links = n, n.links
			all[p] = v
			if n.mode.IsDir() {
				walk(n, p)
			}
		}
	}
	if dir != nil {
		walk(dir, "")
	}
	return all
}

// tree returns what is below the disk's path now.
func (d *simDisk) tree() map[string]version {
	d.mu.Lock()
	defer d.mu.Unlock()
	for n := range d.dirty {
		n.isShared = true // the caller keeps the contents
	}
	return treeOf(d.shown, false)
}

// A history knows each version that each path of the primary ever had.
type history struct {
	mu    sync.Mutex
	paths map[string][]version
	last  time.Time // of a change
}

// record compares the tree with the one before.
func (h *history) record(now map[string]version) {
	h.mu.Lock()
	defer h.mu.Unlock()
	at := time.Now()
	for p, v := range now {
		all := h.paths[p]
		if n := len(all); n > 0 && all[n-1].to.IsZero() {
			if all[n-1].equals(v) {
				continue
			}
			all[n-1].to = at
		}
		v.from = at
		h.paths[p] = append(all, v)
		h.last = at
	}
	for p, all := range h.paths {
		if _, there := now[p]; !there && all[len(all)-1].to.IsZero() {
			all[len(all)-1].to = at
			h.last = at
		}
	}
}

func (v version) equals(o version) bool {
	sameData := len(v.data) == len(o.data) && (len(v.data) == 0 || &v.data[0] == &o.data[0])
	return v.mode == o.mode && sameData && v.target == o.target && v.mtime.Equal(o.mtime) && v.node == o.node
}

// during returns the versions of a path between two moments. absent is set if there was a moment
// without one.
func (h *history) during(p string, from, to time.Time) (all []version, absent bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	covered := from
	absent = true
	for _, v := range h.paths[p] {
		if v.from.After(to) || !v.to.IsZero() && v.to.Before(from) {
			continue
		}
		all = append(all, v)
		if !v.from.After(covered) {
			covered = v.to
			if v.to.IsZero() || v.to.After(to) {
				absent = false
				break
			}
		}
	}
	return all, absent
}

// ever returns all versions of a path so far.
func (h *history) ever(p string) []version {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Clone(h.paths[p])
}

// linked returns all versions, at any path, of files that versions are of.
func (h *history) linked(versions []version) (all []version) {
	nodes := make(map[*simNode]bool)
	for _, v := range versions {
		nodes[v.node] = v.mode.IsRegular()
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, each := range h.paths {
		for _, v := range each {
			if nodes[v.node] {
				all = append(all, v)
			}
		}
	}
	return all
}

// An editor changes the tree of the primary at random.
type editor struct {
	dice
	disk *simDisk
	hist *history
	// maxBytes and maxEntries bound the tree.
	maxBytes, maxEntries int
	links                bool // hard links
	modes                bool // modes that refuse to be read
	steps                bool // of the clock
	trace                func(format string, args ...any)
}

// do changes the tree at once.
func (e *editor) do(what string, change func()) {
	e.disk.mu.Lock()
	change()
	e.disk.journal = nil // the disk of the primary sees no power cut
	for n := range e.disk.dirty {
		n.isShared = true
	}
	clear(e.disk.dirty)
	now := treeOf(e.disk.top, false)
	e.disk.mu.Unlock()
	e.hist.record(now)
	e.trace("primary: %s", what)
}

// picks returns the paths of the entries that are wanted, sorted.
func (e *editor) picks(wanted func(version) bool) (paths []string, all map[string]version) {
	e.disk.mu.Lock()
	defer e.disk.mu.Unlock()
	all = treeOf(e.disk.top, false)
	for p, v := range all {
		if wanted(v) {
			paths = append(paths, p)
		}
	}
	sort.Strings(paths)
	return paths, all
}

func isFile(v version) bool { return v.mode.IsRegular() }
func isDir(v version) bool  { return v.mode.IsDir() }

func (e *editor) name() string {
	switch e.IntN(12) {
	case 0:
		return fmt.Sprintf("x%d.tmp", e.IntN(4)) // the filter excludes it
	case 1:
		return []string{"private", "a b", "\xff\xfe", "[x]*", "é", "...", "-rf"}[e.IntN(7)]
	}
	return fmt.Sprintf("%c%d", 'a'+rune(e.IntN(4)), e.IntN(10))
}

func (e *editor) content() []byte {
	n := int(e.Log(1, 90_000))
	switch e.IntN(12) {
	case 0:
		n = 0
	case 1:
		n = int(e.Log(64<<10, 600_000))
	case 2:
		n = []int{1, 1 << 10, 16 << 10, 64 << 10, 128 << 10}[e.IntN(5)] + e.IntN(3) - 1
	}
	b := make([]byte, n)
	rand.NewChaCha8([32]byte{byte(e.Uint32()), byte(e.Uint32()), byte(e.Uint32())}).Read(b)
	return b
}

func (e *editor) fileMode() fs.FileMode {
	if e.modes && e.OneIn(12) {
		return 0
	}
	return []fs.FileMode{0o644, 0o600, 0o755, 0o400, 0o444}[e.IntN(5)]
}

// slot returns a random directory and a name in it.
func (e *editor) slot() (dir *simNode, name, at string) {
	dirs, all := e.picks(func(v version) bool { return isDir(v) })
	dir, at = e.disk.top, ""
	if len(dirs) > 0 && !e.OneIn(3) {
		at = dirs[e.IntN(len(dirs))]
		dir = all[at].node
	}
	if strings.Count(at, "/") > 5 {
		dir, at = e.disk.top, ""
	}
	name = e.name()
	return dir, name, path.Join(at, name)
}

// newFile returns a file that has no name. The lock must be held.
func (e *editor) newFile(content []byte, mode fs.FileMode) *simNode {
	n := e.disk.newNode(mode)
	n.data, n.isShared = content, true
	return n
}

func (e *editor) newSubdir() *simNode {
	n := e.disk.newNode(fs.ModeDir | []fs.FileMode{0o755, 0o700, 0o750, 0o555}[e.IntN(4)])
	n.names, n.safe = make(map[string]*simNode), make(map[string]*simNode)
	return n
}

// put gives a node a name, in place of what has it unless that is a directory with entries.
func (e *editor) put(what string, dir *simNode, name, at string, n *simNode) {
	e.do(fmt.Sprintf("%s %q", what, at), func() {
		if old := dir.names[name]; old != nil && len(old.names) > 0 {
			return
		}
		e.disk.setNames(nameChange{dir, name, n})
	})
}

// grow makes a new entry.
func (e *editor) grow() {
	paths, all := e.picks(func(version) bool { return true })
	total := 0
	for _, v := range all {
		total += len(v.data)
	}
	dir, name, at := e.slot()
	if dir.names[name] != nil && !e.OneIn(6) { // else it replaces, perhaps by another type
		return
	}
	switch kind := e.IntN(10); {
	case len(paths) >= e.maxEntries || total >= e.maxBytes:
		e.remove()
	case kind == 0:
		target := []string{e.name(), "../" + e.name(), "/etc", ".", "nowhere", "a0/b1"}[e.IntN(6)]
		n := e.disk.newNode(fs.ModeSymlink | 0o777)
		n.target = target
		e.put("link", dir, name, at, n)
	case kind < 3:
		e.put("mkdir", dir, name, at, e.newSubdir())
	case kind == 3 && e.links:
		files, all := e.picks(isFile)
		if len(files) > 0 {
			e.put("hard link", dir, name, at, all[files[e.IntN(len(files))]].node)
		}
	default:
		e.put("create", dir, name, at, e.newFile(e.content(), e.fileMode()))
	}
}

// remove deletes an entry and all below it.
func (e *editor) remove() {
	paths, _ := e.picks(func(version) bool { return true })
	if len(paths) > 0 {
		e.removeAt(paths[e.IntN(len(paths))])
	}
}

func (e *editor) removeAt(p string) {
	e.do(fmt.Sprintf("remove %q", p), func() {
		if dir, name, err := e.disk.parent(e.disk.top, p, 0); err == nil && dir.names[name] != nil {
			e.disk.setNames(nameChange{dir, name, nil})
		}
	})
}

// write changes the content of a file in its place, in one step or several.
func (e *editor) write() {
	files, all := e.picks(isFile)
	if len(files) == 0 {
		return
	}
	p := files[e.IntN(len(files))]
	n := all[p].node
	old := all[p].data
	next := slices.Clone(old)
	what := "rewrite"
	switch e.IntN(4) {
	case 0:
		next, what = append(next, e.content()[:]...), "append to"
	case 1:
		next, what = next[:e.IntN(len(next)+1)], "truncate"
	case 2:
		for range 1 + e.IntN(3) {
			if len(next) > 0 {
				next[e.IntN(len(next))]++
			}
		}
	default:
		next = e.content()
	}
	if len(next) > 2<<20 {
		next = next[:1000]
	}
	set := func(data []byte) {
		e.do(fmt.Sprintf("%s %q: %d bytes", what, p, len(data)), func() {
			n.data, n.isShared = data, true
			n.mtime, n.ctime = e.disk.now(), e.disk.now()
		})
	}
	if e.OneIn(3) && len(next) > 1 {
		set(next[:e.IntN(len(next)):len(next)])
		time.Sleep(e.Duration(time.Microsecond, 200*time.Millisecond))
	}
	set(next)
}

// move renames an entry, perhaps over another one.
func (e *editor) move() {
	paths, all := e.picks(func(version) bool { return true })
	if len(paths) == 0 {
		return
	}
	p := paths[e.IntN(len(paths))]
	dir, name, at := e.slot()
	if at == p || strings.HasPrefix(at, p+"/") {
		return
	}
	from, base := e.disk.top, path.Base(p)
	if up := path.Dir(p); up != "." {
		from = all[up].node
	}
	e.do(fmt.Sprintf("rename %q to %q", p, at), func() {
		n, old := from.names[base], dir.names[name]
		if n == nil || old == n || old != nil && (len(old.names) > 0 || old.mode.IsDir() != n.mode.IsDir()) {
			return
		}
		e.disk.setNames(nameChange{from, base, nil}, nameChange{dir, name, n})
	})
}

// retype puts an entry of another type in the place of one.
func (e *editor) retype() {
	paths, all := e.picks(func(version) bool { return true })
	if len(paths) == 0 {
		return
	}
	p := paths[e.IntN(len(paths))]
	was := all[p]
	e.removeAt(p)
	if e.Half() {
		time.Sleep(e.Duration(time.Microsecond, time.Second))
	}
	dir := e.disk.top
	if up := path.Dir(p); up != "." {
		dir = all[up].node
	}
	switch {
	case was.mode.IsDir() && e.Half():
		e.put("retype to file", dir, path.Base(p), p, e.newFile(e.content(), 0o644))
	case was.mode.IsRegular():
		n := e.newSubdir()
		for range e.IntN(3) {
			f := e.newFile(e.content(), 0o644)
			f.links = 1
			n.names[e.name()] = f
		}
		e.put("retype to directory", dir, path.Base(p), p, n)
	default:
		n := e.disk.newNode(fs.ModeSymlink | 0o777)
		n.target = e.name()
		e.put("retype to link", dir, path.Base(p), p, n)
	}
}

func (e *editor) chmod() {
	paths, all := e.picks(func(v version) bool { return isFile(v) || isDir(v) })
	if len(paths) == 0 {
		return
	}
	p := paths[e.IntN(len(paths))]
	n := all[p].node
	mode := e.fileMode()
	if n.mode.IsDir() {
		mode = fs.ModeDir | []fs.FileMode{0o755, 0o700, 0o555, 0o711}[e.IntN(4)]
		if e.modes && e.OneIn(8) {
			mode = fs.ModeDir
		}
	}
	e.do(fmt.Sprintf("chmod %q to %v", p, mode), func() { n.mode, n.ctime = mode, e.disk.now() })
}

func (e *editor) touch() {
	paths, all := e.picks(func(v version) bool { return isFile(v) || isDir(v) })
	if len(paths) == 0 {
		return
	}
	p := paths[e.IntN(len(paths))]
	n := all[p].node
	at := e.disk.now().Add(-e.Duration(time.Second, 10000*time.Hour)).Truncate(e.disk.step)
	e.do(fmt.Sprintf("touch %q", p), func() { n.mtime, n.ctime = at, e.disk.now() })
}

// refill empties the tree, and puts the entries back later.
func (e *editor) refill(sleep func(time.Duration) bool) {
	var kept map[string]*simNode
	e.do("empty", func() {
		kept = make(map[string]*simNode)
		for name, n := range e.disk.top.names {
			kept[name] = n
		}
		for name := range kept {
			e.disk.setNames(nameChange{e.disk.top, name, nil})
		}
	})
	sleep(e.Duration(time.Millisecond, 4*time.Hour))
	e.do("refill", func() {
		for name, n := range kept {
			e.disk.setNames(nameChange{e.disk.top, name, n})
		}
	})
}

// step makes one random change.
func (e *editor) step(sleep func(time.Duration) bool) {
	switch n := e.IntN(100); {
	case n < 30:
		e.grow()
	case n < 55:
		e.write()
	case n < 70:
		e.move()
	case n < 80:
		e.remove()
	case n < 85:
		e.retype()
	case n < 91:
		e.chmod()
	case n < 96:
		e.touch()
	case n < 98 && e.steps:
		step := e.Duration(time.Millisecond, 3*time.Hour)
		if e.Half() {
			step = -step
		}
		e.do(fmt.Sprintf("step of the clock by %v", step), func() { e.disk.skew += step })
	case n == 99 && e.OneIn(3):
		e.refill(sleep)
	}
}

// mend makes everything readable.
func (e *editor) mend() {
	e.do("mend the modes", func() {
		for _, v := range treeOf(e.disk.top, false) {
			switch {
			case v.mode.IsRegular():
				v.node.mode |= 0o400
			case v.mode.IsDir():
				v.node.mode |= 0o500
			}
			v.node.ctime = e.disk.now()
		}
		e.disk.skew = 0
	})
}
