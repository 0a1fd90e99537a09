package sim

import (
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"kwikcp/transfer/disk"
)

// A simDisk is a file system in memory, with directories, links, times, modes, a size and
// faults. It knows what would survive a power cut: contents that were synced, and names whose
// directories were.
//
// Processes use it through mounts (simMount). A disk may leave its place and return, and another
// directory may be in its place meanwhile.
type simDisk struct {
	path string
	// step is the granularity of times; 0 means that they are exact.
	step time.Duration
	// enforces is set if modes count, as for users other than root.
	enforces bool
	// syncsWhole is set if the file system can be synced as a whole.
	syncsWhole bool
	// pace is how long an operation takes; nil means no time.
	pace func(op string) time.Duration

	mu     sync.Mutex // guards the rest
	skew   time.Duration
	serial uint64
	top    *simNode
	shown  *simNode // the directory at path; nil if there is none
	isDead bool     // operations on handles fail: the device is gone
	fault  *simFault
	room   int64 // bytes; negative if there is no limit
	used   int64
	open   int // handles of all mounts that live
	// journal has the changes of names that are not durable, each atomic, in order.
	journal [][]nameChange
	dirty   map[*simNode]bool
	deletes int // calls that removed a name that is no temporary one
}

// A simNode is a file, directory or link. The disk's lock guards it.
type simNode struct {
	number uint64
	device uint64
	simImage
	isShared bool // another image shares data, which must not be written to
	target   string
	names    map[string]*simNode // of a directory
	safe     map[string]*simNode // of a directory, after a power cut
	ctime    time.Time
	links    int
	locked   *simFile
	durable  *simImage // the image that a power cut leaves; nil if none
}

// A simImage is what a sync of a file makes durable.
type simImage struct {
	data  []byte
	mode  fs.FileMode
	mtime time.Time
}

// A nameChange is one name in one directory. node is nil if the name goes.
type nameChange struct {
	dir  *simNode
	name string
	node *simNode
}

// A simFault makes operations fail.
type simFault struct {
	ops   []string // nil means all
	err   syscall.Errno
	skip  int                  // that many operations succeed first
	only  int                  // that many fail; 0 means all that follow
	fails func(op string) bool // for chance; nil means always
	done  map[string]int       // operations that failed
}

// changing are the operations that a read-only file system refuses.
var changing = []string{
	"create", "write", "truncate", "rename", "remove", "mkdir", "chmod", "chtimes", "link", "symlink",
}

// allOps are the operations that may fail on the disk of a mirror.
var allOps = append([]string{"open", "opendir", "stat", "readdir", "read", "sync", "lock"}, changing...)

func newSimDisk(at string) *simDisk {
	d := &simDisk{path: at, room: -1, dirty: make(map[*simNode]bool), syncsWhole: true}
	d.top = d.newDir(1)
	d.shown = d.top
	return d
}

// newDir returns an empty directory of a device, which is durable.
func (d *simDisk) newDir(device uint64) *simNode {
	n := d.newNode(fs.ModeDir | 0o755)
	n.device, n.names, n.safe = device, make(map[string]*simNode), make(map[string]*simNode)
	return n
}

func (d *simDisk) newNode(mode fs.FileMode) *simNode {
	d.serial++
	now := d.now()
	return &simNode{number: d.serial, device: 1, simImage: simImage{mode: mode, mtime: now}, ctime: now}
}

// now is the time of the disk's clock, as far as its file system keeps it.
func (d *simDisk) now() time.Time {
	t := time.Now().Add(d.skew)
	if d.step > 0 {
		t = t.Truncate(d.step)
	}
	return t
}

// begin takes the lock for an operation.
func (d *simDisk) begin(m *simMount, op, name string) (unlock func(), err error) {
	if d.pace != nil {
		if wait := d.pace(op); wait > 0 {
			time.Sleep(wait)
		}
	}
	d.mu.Lock()
	fail := func(errno error) (func(), error) {
		return d.mu.Unlock, &fs.PathError{Op: op, Path: name, Err: errno}
	}
	switch {
	case m.isDead:
		return fail(fs.ErrClosed)
	case d.isDead:
		return fail(syscall.EIO)
	case d.fault != nil && d.fault.hits(op):
		return fail(d.fault.err)
	}
	return d.mu.Unlock, nil
}

func (f *simFault) hits(op string) bool {
	if f.ops != nil && !slices.Contains(f.ops, op) {
		return false
	}
	if f.skip > 0 {
		f.skip--
		return false
	}
	if f.fails != nil && !f.fails(op) {
		return false
	}
	if f.only < 0 {
		return false
	}
	if f.only > 0 {
		if f.only--; f.only == 0 {
			f.only = -1
		}
	}
	if f.done == nil {
		f.done = make(map[string]int)
	}
	f.done[op]++
	return true
}

// may returns an error if a mode does not allow an access, which is a mask of 4, 2 and 1.
func (d *simDisk) may(n *simNode, access fs.FileMode) error {
	if d.enforces && (n.mode>>6)&access != access {
		return syscall.EACCES
	}
	return nil
}

// find returns what a path below a directory leads to. Links are followed, except for one in the
// last component unless follow is set. None leads out of the directory.
func (d *simDisk) find(from *simNode, name string, follow bool) (n *simNode, err error) {
	if name == "." {
		return from, nil
	}
	dir, base, err := d.parent(from, name, 0)
	if err != nil {
		return nil, err
	}
	if n = dir.names[base]; n == nil {
		return nil, syscall.ENOENT
	}
	if follow && n.mode&fs.ModeSymlink != 0 {
		return d.follow(from, path.Dir(name), n.target, 0)
	}
	return n, nil
}

// follow returns what the target of a link in a directory leads to.
func (d *simDisk) follow(from *simNode, dir, target string, depth int) (*simNode, error) {
	at := path.Join(dir, target)
	switch {
	case depth > 20:
		return nil, syscall.ELOOP
	case path.IsAbs(target), at == "..", strings.HasPrefix(at, "../"):
		return nil, syscall.EXDEV // os.Root has another error
	case at == ".":
		return from, nil
	}
	up, base, err := d.parent(from, at, depth+1)
	if err != nil {
		return nil, err
	}
	n := up.names[base]
	switch {
	case n == nil:
		return nil, syscall.ENOENT
	case n.mode&fs.ModeSymlink != 0:
		return d.follow(from, path.Dir(at), n.target, depth+1)
	}
	return n, nil
}

// parent returns the directory of a path and its last component.
func (d *simDisk) parent(from *simNode, name string, depth int) (dir *simNode, base string, err error) {
	at := from
	done := ""
	for rest := name; ; {
		first, more, isLong := strings.Cut(rest, "/")
		if err := d.may(at, 1); err != nil {
			return nil, "", err
		}
		if !isLong {
			if len(first) > 255 {
				return nil, "", syscall.ENAMETOOLONG
			}
			return at, first, nil
		}
		next := at.names[first]
		if next != nil && next.mode&fs.ModeSymlink != 0 {
			if next, err = d.follow(from, done, next.target, depth+1); err != nil {
				return nil, "", err
			}
		}
		switch {
		case next == nil:
			return nil, "", syscall.ENOENT
		case !next.mode.IsDir():
			return nil, "", syscall.ENOTDIR
		}
		at, rest, done = next, more, path.Join(done, first)
	}
}

// setNames makes a change of names visible and enters it into the journal.
func (d *simDisk) setNames(changes ...nameChange) {
	for _, c := range changes { // first, so that a file that is renamed keeps a name
		if c.node != nil {
			c.node.links++
			c.node.ctime = d.now()
		}
	}
	for _, c := range changes {
		if old := c.dir.names[c.name]; old != nil {
			old.links--
			old.ctime = d.now()
			d.freeUnused(old)
		}
		if c.node == nil {
			delete(c.dir.names, c.name)
		} else {
			c.dir.names[c.name] = c.node
		}
		c.dir.mtime, c.dir.ctime = d.now(), d.now()
	}
	d.journal = append(d.journal, changes)
}

// freeUnused gives back the space of a file without a name. Open handles are not counted.
func (d *simDisk) freeUnused(n *simNode) {
	if n.links == 0 {
		d.used -= int64(len(n.data))
	}
}

// syncNames makes the names of a directory durable, of all directories if it is nil.
func (d *simDisk) syncNames(dir *simNode) {
	rest := d.journal[:0]
	for _, record := range d.journal {
		isDue := dir == nil || slices.ContainsFunc(record, func(c nameChange) bool { return c.dir == dir })
		if !isDue {
			rest = append(rest, record)
			continue
		}
		for _, c := range record {
			c.keep()
		}
	}
	d.journal = rest
}

// keep makes a change durable.
func (c nameChange) keep() {
	if c.node == nil {
		delete(c.dir.safe, c.name)
		return
	}
	c.dir.safe[c.name] = c.node
}

// sync makes a file durable.
func (d *simDisk) sync(n *simNode) {
	if d.dirty[n] {
		delete(d.dirty, n)
		image := n.simImage
		n.durable, n.isShared = &image, true
	}
}

// soil notes that a file changed.
func (d *simDisk) soil(n *simNode) { d.dirty[n] = true }

// crash cuts the power: what was not synced may be lost.
func (d *simDisk) crash(r *rand.Rand) {
	d.mu.Lock()
	defer d.mu.Unlock()
	kept := len(d.journal)
	if r.IntN(3) > 0 {
		kept = r.IntN(kept + 1)
	}
	for _, record := range d.journal[:kept] { // a file system with a journal keeps the order
		for _, c := range record {
			c.keep()
		}
	}
	d.journal = nil
	for n := range d.dirty {
		n.tear(r)
	}
	clear(d.dirty)
	d.used = 0
	seen := make(map[*simNode]bool)
	d.restore(d.top, seen)
	if d.shown != nil && d.shown != d.top { // a mount point, in which a process was started
		d.restore(d.shown, seen)
	}
	d.fault = nil
}

// restore makes the durable names below a directory the names, and counts links and space.
func (d *simDisk) restore(dir *simNode, seen map[*simNode]bool) {
	clear(dir.names)
	for name, n := range dir.safe {
		dir.names[name] = n
		if !seen[n] {
			seen[n] = true
			n.links, n.locked = 0, nil
			d.used += int64(len(n.data))
			if n.mode.IsDir() {
				d.restore(n, seen)
			}
		}
		n.links++
	}
}

// tear makes of a file that was not synced what a power cut leaves of it.
func (n *simNode) tear(r *rand.Rand) {
	if n.mode.IsDir() {
		return
	}
	was := simImage{mode: n.mode, mtime: n.mtime}
	if n.durable != nil {
		was = *n.durable
	}
	data := slices.Clone(n.data)
	switch r.IntN(4) {
	case 0: // all of it is there
	case 1:
		n.simImage = was
		data = slices.Clone(was.data)
	case 2: // the size is, and no content
		clear(data)
		copy(data, was.data)
	case 3: // some blocks are
		for off := 0; off < len(data); off += 4096 {
			if block := data[off:min(off+4096, len(data))]; r.IntN(2) == 0 {
				clear(block)
				if off < len(was.data) {
					copy(block, was.data[off:])
				}
			}
		}
	}
	n.data, n.isShared = data, false
	image := n.simImage
	n.durable, n.isShared = &image, true
}

// show puts a directory at the disk's path; nil puts none there.
func (d *simDisk) show(dir *simNode) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.shown = dir
}

// setFault makes operations fail from now on; nil ends that.
func (d *simDisk) setFault(f *simFault) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.fault = f
}

// set sets a field whose type depends on the architecture.
func set[T ~uint32 | ~uint64 | ~int64](field *T, value int) { *field = T(value) }

// info describes a node. The lock must be held.
func (d *simDisk) info(n *simNode, name string) fs.FileInfo {
	st := &syscall.Stat_t{
		Dev: n.device, Ino: n.number, Uid: uint32(os.Geteuid()), Gid: uint32(os.Getegid()),
		Ctim: syscall.NsecToTimespec(n.ctime.UnixNano()),
	}
	set(&st.Nlink, n.links)
	size := int64(len(n.data))
	if n.mode&fs.ModeSymlink != 0 {
		size = int64(len(n.target))
	}
	return simInfo{disk: d, node: n, name: name, size: size, mode: n.mode, mtime: n.mtime, sys: st}
}

type simInfo struct {
	disk  *simDisk
	node  *simNode
	name  string
	size  int64
	mode  fs.FileMode
	mtime time.Time
	sys   *syscall.Stat_t
}

func (i simInfo) Name() string       { return i.name }
func (i simInfo) Size() int64        { return i.size }
func (i simInfo) Mode() fs.FileMode  { return i.mode }
func (i simInfo) ModTime() time.Time { return i.mtime }
func (i simInfo) IsDir() bool        { return i.mode.IsDir() }
func (i simInfo) Sys() any           { return i.sys }

// CheckPath does what disk.CheckPath does.
func (i simInfo) CheckPath(at string) error {
	i.disk.mu.Lock()
	defer i.disk.mu.Unlock()
	switch {
	case at != i.disk.path: // a backup, which does not move
		return nil
	case i.disk.shown == nil:
		return &fs.PathError{Op: "stat", Path: at, Err: disk.ErrRemoved}
	case i.disk.shown != i.node:
		return &fs.PathError{Op: "stat", Path: at, Err: disk.ErrMoved}
	}
	return nil
}

// A simMount is how one process sees a disk. Once the process is dead, none of its operations has
// an effect.
type simMount struct {
	*simDisk
	isDead bool
	opened int // handles
	locks  map[*simNode]bool
}

func (d *simDisk) mount() *simMount { return &simMount{simDisk: d, locks: make(map[*simNode]bool)} }

// kill ends the process: its locks go.
func (m *simMount) kill() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.isDead = true
	m.simDisk.open -= m.opened
	m.opened = 0
	for n := range m.locks {
		n.locked = nil
	}
}

// root opens the directory at the disk's path. If create is set and there is none, it is made.
func (m *simMount) root(create bool) (disk.TreeDir, error) {
	unlock, err := m.begin(m, "open", m.path)
	defer unlock()
	if err != nil {
		return nil, err
	}
	if m.shown == nil && create {
		m.top = m.newDir(1)
		m.shown = m.top
	}
	if m.shown == nil {
		return nil, &fs.PathError{Op: "open", Path: m.path, Err: syscall.ENOENT}
	}
	return m.opendir(m.shown), nil
}

// opendir returns a handle. The lock must be held.
func (m *simMount) opendir(n *simNode) *simDir {
	m.opened++
	m.simDisk.open++
	return &simDir{m: m, node: n}
}

// closed counts a handle less. The lock must be held.
func (m *simMount) closed() {
	if !m.isDead {
		m.opened--
		m.simDisk.open--
	}
}

func (n *simNode) String() string {
	return fmt.Sprintf("node %d, %v, %d bytes", n.number, n.mode, len(n.data))
}
