//go:build unix

package transfer

import (
	"fmt"
	"hash/maphash"
	"io/fs"
	"kwikcp/transfer/disk"
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// A crashDisk is a Dir in memory that logs every change. Tests derive from the log the states
// that a power cut could leave at any moment. It promises as little as POSIX does. The fsync of
// a file makes its bytes, size, mode and time durable, but not its name. The fsync of the
// directory makes names durable, but no files. Any other change may be there or not, in any
// order, and a write in any of its sectors. A rename is there or not, but never half.
type crashDisk struct {
	// clones is set if files can share blocks. sparse is set if the file system reports holes,
	// which are blocks of zeros. punches is set if it can make them.
	clones, sparse, punches bool

	mu    sync.Mutex
	base  diskState // durable at first
	log   []diskOp
	nodes []*diskNode    // as processes see them
	names map[string]int // index in nodes
	open  int            // files and directories that are open
	locks int
}

// A diskState is the content of an idle disk.
type diskState struct {
	nodes []diskImage
	names map[string]int // index in nodes; two names may share one
}

// A diskImage is a file without its name. Images are never written to; who changes one copies it.
type diskImage struct {
	data  []byte
	mode  fs.FileMode
	mtime time.Time
}

// A diskNode is a file as processes see it.
type diskNode struct {
	diskImage
	own    bool            // no other image shares data
	stat   *syscall.Stat_t // the value of FileInfo.Sys: the same for the same file
	locked *diskFile
}

// A diskOp is a change, or a sync.
type diskOp struct {
	// kind is create, write, truncate, chmod, chtimes or sync for a file. It is link, unlink,
	// rename or syncdir for the directory.
	kind  string
	node  int
	name  string // for link, unlink and rename
	to    string // for rename
	off   int64  // for write; the size for truncate
	data  []byte
	mode  fs.FileMode
	mtime time.Time
}

func (o diskOp) String() string {
	switch o.kind {
	case "write":
		return fmt.Sprintf("write of %d at %d to file %d", len(o.data), o.off, o.node)
	case "truncate":
		return fmt.Sprintf("truncate file %d to %d", o.node, o.off)
	case "link", "unlink":
		return fmt.Sprintf("%s %q (file %d)", o.kind, o.name, o.node)
	case "rename":
		return fmt.Sprintf("rename %q to %q (file %d)", o.name, o.to, o.node)
	case "syncdir":
		return o.kind
	}
	return fmt.Sprintf("%s of file %d", o.kind, o.node)
}

// put adds a file.
func (s *diskState) put(name string, data []byte, mode fs.FileMode, mtime time.Time) {
	if s.names == nil {
		s.names = make(map[string]int)
	}
	s.names[name] = len(s.nodes)
	s.nodes = append(s.nodes, diskImage{data, mode, mtime})
}

// get returns the file of a name, nil if there is none.
func (s diskState) get(name string) *diskImage {
	i, ok := s.names[name]
	if !ok {
		return nil
	}
	return &s.nodes[i]
}

// links returns how many names a file has.
func (s diskState) links(name string) (n int) {
	for _, i := range s.names {
		if i == s.names[name] {
			n++
		}
	}
	return n
}

var stateSeed = maphash.MakeSeed()

// hash tells states apart, by what names lead to; times only if they matter.
func (s diskState) hash(times bool) uint64 {
	var h maphash.Hash
	h.SetSeed(stateSeed)
	for _, name := range slices.Sorted(maps.Keys(s.names)) {
		f := s.get(name)
		fmt.Fprintf(&h, "%q %d %o %d\n", name, len(f.data), f.mode, s.links(name))
		if times {
			fmt.Fprintln(&h, f.mtime.UnixNano())
		}
		h.Write(f.data)
	}
	return h.Sum64()
}

func (s diskState) String() string {
	var b strings.Builder
	for _, name := range slices.Sorted(maps.Keys(s.names)) {
		f := s.get(name)
		fmt.Fprintf(&b, "%q is file %d: %d bytes, mode %o; ", name, s.names[name], len(f.data), f.mode)
	}
	return b.String()
}

// newCrashDisk returns a disk in a state, after a boot.
func newCrashDisk(s diskState) *crashDisk {
	d := &crashDisk{base: s, names: maps.Clone(s.names)}
	if d.names == nil {
		d.names = make(map[string]int)
	}
	for _, image := range s.nodes {
		d.addNode(image)
	}
	for _, i := range d.names {
		d.nodes[i].stat.Nlink++
	}
	return d
}

// killed returns the disk after a kill of the process at k operations. The machine goes on, so
// no change is lost, but no further change is durable.
func (d *crashDisk) killed(k int) *crashDisk {
	now := d.after(k, keepAll{})
	x := newCrashDisk(now)
	x.base, x.log, x.clones, x.sparse = d.base, slices.Clone(d.log[:k]), d.clones, d.sparse
	return x
}

func (d *crashDisk) addNode(image diskImage) {
	d.nodes = append(d.nodes, &diskNode{diskImage: image,
		stat: &syscall.Stat_t{Uid: uint32(os.Geteuid()), Ino: uint64(len(d.nodes) + 1)}})
}

// opener returns an OpenDir for GetOptions. Every directory is this one.
func (d *crashDisk) opener() func(string) (disk.Dir, error) {
	return func(string) (disk.Dir, error) {
		d.mu.Lock()
		defer d.mu.Unlock()
		d.open++
		return &openedDisk{crashDisk: d}, nil
	}
}

// did logs an operation and makes it visible. It is called with the lock held.
func (d *crashDisk) did(op diskOp) {
	d.log = append(d.log, op)
	switch op.kind {
	case "create":
		d.addNode(diskImage{mode: op.mode, mtime: op.mtime})
	case "link", "unlink", "rename":
		if old, ok := d.names[op.to]; ok && op.kind == "rename" {
			d.nodes[old].stat.Nlink--
		}
		switch op.kind {
		case "link":
			d.nodes[op.node].stat.Nlink++
		case "unlink":
			d.nodes[op.node].stat.Nlink--
		}
		op.onNames(d.names)
	case "sync", "syncdir":
	default:
		n := d.nodes[op.node]
		if !n.own {
			n.data, n.own = slices.Clone(n.data), true
		}
		op.on(&n.diskImage)
	}
}

// onNames applies a change of the directory.
func (o diskOp) onNames(names map[string]int) {
	switch o.kind {
	case "link":
		names[o.name] = o.node
	case "unlink":
		delete(names, o.name)
	case "rename":
		delete(names, o.name)
		names[o.to] = o.node
	}
}

// on applies a change to a file that shares no bytes.
func (o diskOp) on(f *diskImage) {
	switch o.kind {
	case "write":
		f.grow(o.off + int64(len(o.data)))
		copy(f.data[o.off:], o.data)
		f.mtime = o.mtime
	case "truncate":
		f.grow(o.off)
		f.data, f.mtime = f.data[:o.off], o.mtime
	case "chmod":
		f.mode = o.mode
	case "chtimes":
		f.mtime = o.mtime
	}
}

// grow adds zeros up to a size, if there is less.
func (f *diskImage) grow(size int64) {
	if more := size - int64(len(f.data)); more > 0 {
		f.data = append(f.data, make([]byte, more)...)
	}
}

// with returns a copy with changes.
func (f diskImage) with(changes []diskOp) diskImage {
	f.data = slices.Clone(f.data)
	for _, op := range changes {
		op.on(&f)
	}
	return f
}

// TestCrashDisk: the model loses what it should and keeps what it must.
func TestCrashDisk(t *testing.T) {
	d := newCrashDisk(diskState{})
	dir, _ := d.opener()(".")
	f, err := dir.Create("a")
	if err != nil {
		t.Fatal(err)
	}
	f.WriteAt([]byte("synced"), 0)
	f.Sync()
	dir.Sync()
	f.WriteAt([]byte("more"), 6)
	dir.Rename("a", "b")
	n := len(d.log)
	for _, x := range []struct {
		fate fate
		name string
		data string
	}{{dropAll{}, "a", "synced"}, {keepAll{}, "b", "syncedmore"}, {sizesOnly{}, "b", "synced\x00\x00\x00\x00"},
		{dataOnly{}, "a", "syncedmore"}} {
		s := d.after(n, x.fate)
		if got := s.get(x.name); got == nil || string(got.data) != x.data || len(s.names) != 1 {
			t.Errorf("%T: %v", x.fate, s)
		}
	}
	seen := make(map[string]bool)
	for seed := range uint64(200) {
		s := d.after(n, chance{rand.New(rand.NewPCG(seed, 0))})
		for name := range s.names {
			data := s.get(name).data
			if len(data) != 6 && len(data) != 10 || string(data[:6]) != "synced" {
				t.Fatalf("seed %d: %q", seed, data)
			}
			seen[fmt.Sprintf("%s %q", name, data)] = true
		}
	}
	if len(seen) < 6 { // two names, old, new, and new without its data
		t.Errorf("only %q", slices.Sorted(maps.Keys(seen)))
	}
	f.Close()
	dir.Close()
	again := d.killed(2)
	if again.open != 0 || again.locks != 0 {
		t.Errorf("a killed process left handles or locks: %+v", again)
	}
	if first := again.nodes[0]; len(first.data) != 0 || first.stat.Nlink != 1 {
		t.Errorf("the file after two operations: %+v", first)
	}
}
