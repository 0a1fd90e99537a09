//go:build unix

package transfer

import (
	"errors"
	"fmt"
	"hash/maphash"
	"io"
	"io/fs"
	"maps"
	"math"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// A crashDisk is a Dir in memory that logs what changes it, so that one can ask afterwards which states a power cut could have
// left at any moment. It promises as little as POSIX does: the fsync of a file makes its bytes, size, mode and time durable and not its
// name, that of the directory makes names durable and nothing of files; whatever was not synced may be there or not, in any order, and
// a write in any of its sectors. A rename is there or not, but never half.
type crashDisk struct {
	// clones says that files can share blocks, sparse that the file system tells holes: blocks of zeros.
	clones, sparse bool

	mu    sync.Mutex
	base  diskState // durable at first
	log   []diskOp
	nodes []*diskNode    // as processes see them
	names map[string]int // index in nodes
	open  int            // files and directories that are open
	locks int
}

// A diskState is what is on a disk that nobody uses.
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
	own    bool            // nobody else has the data
	stat   *syscall.Stat_t // what FileInfo.Sys returns: the same for the same file
	locked *diskFile
}

// A diskOp is a change, or a sync.
type diskOp struct {
	kind  string // of a file: create, write, truncate, chmod, chtimes, sync; of the directory: link, unlink, rename, syncdir
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

// killed returns the disk as it is when the process is killed after k operations and the machine goes on: nothing is lost, but
// nothing more is durable either.
func (d *crashDisk) killed(k int) *crashDisk {
	now := d.after(k, keepAll{})
	x := newCrashDisk(now)
	x.base, x.log, x.clones, x.sparse = d.base, slices.Clone(d.log[:k]), d.clones, d.sparse
	return x
}

func (d *crashDisk) addNode(image diskImage) {
	d.nodes = append(d.nodes, &diskNode{diskImage: image, stat: &syscall.Stat_t{Uid: uint32(os.Geteuid()), Ino: uint64(len(d.nodes) + 1)}})
}

// opener returns an openDir for GetOptions. Every directory is this one.
func (d *crashDisk) opener() func(string) (Dir, error) {
	return func(string) (Dir, error) {
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

// on applies a change to a file whose bytes nobody else has.
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

// A fate decides what of the unsynced survives a power cut.
type fate interface {
	// names returns which of n changes of the directory are there, in their order.
	names(n int) []bool
	// file makes a file of what is durable of it and the changes after, which are no syncs.
	file(durable diskImage, pending []diskOp) diskImage
}

// after returns a state that a power cut after the first k operations may leave.
func (d *crashDisk) after(k int, f fate) diskState {
	nodes := slices.Clone(d.base.nodes)
	names := maps.Clone(d.base.names)
	if names == nil {
		names = make(map[string]int)
	}
	pending := make([][]diskOp, len(nodes))
	var renames []diskOp
	for _, op := range d.log[:k] {
		switch op.kind {
		case "create":
			nodes = append(nodes, diskImage{mode: op.mode, mtime: op.mtime})
			pending = append(pending, nil)
		case "link", "unlink", "rename":
			renames = append(renames, op)
		case "syncdir":
			for _, r := range renames {
				r.onNames(names)
			}
			renames = nil
		case "sync":
			nodes[op.node] = nodes[op.node].with(pending[op.node])
			pending[op.node] = nil
		default:
			pending[op.node] = append(pending[op.node], op)
		}
	}
	for i, there := range f.names(len(renames)) {
		if there {
			renames[i].onNames(names)
		}
	}
	for i, p := range pending {
		if len(p) > 0 {
			nodes[i] = f.file(nodes[i], p)
		}
	}
	return diskState{nodes, names}
}

// now returns what processes see.
func (d *crashDisk) now() diskState { return d.after(len(d.log), keepAll{}) }

// keepAll is the fate of a disk whose machine did not crash.
type keepAll struct{}

func (keepAll) names(n int) []bool { return slices.Repeat([]bool{true}, n) }

func (keepAll) file(f diskImage, pending []diskOp) diskImage { return f.with(pending) }

// dropAll keeps nothing that was not synced.
type dropAll struct{}

func (dropAll) names(n int) []bool                           { return slices.Repeat([]bool{false}, n) }
func (dropAll) file(f diskImage, pending []diskOp) diskImage { return f }

// sizesOnly is what a journal of metadata leaves: names, sizes, modes and times, but no data. Zeros are where it was.
type sizesOnly struct{ keepAll }

func (sizesOnly) file(f diskImage, pending []diskOp) diskImage {
	durable := f.data
	f = f.with(pending)
	clear(f.data)
	copy(f.data, durable)
	return f
}

// dataOnly keeps files and no names.
type dataOnly struct{ keepAll }

func (dataOnly) names(n int) []bool { return slices.Repeat([]bool{false}, n) }

// chance keeps some, by the sector.
type chance struct{ *rand.Rand }

// names keeps the first few, as a journal does, or any.
func (r chance) names(n int) []bool {
	some := slices.Repeat([]bool{false}, n)
	if n == 0 {
		return some
	}
	if r.IntN(2) == 0 {
		for i := range r.IntN(n + 1) {
			some[i] = true
		}
		return some
	}
	for i := range some {
		some[i] = r.IntN(2) == 0
	}
	return some
}

func (r chance) file(f diskImage, pending []diskOp) diskImage {
	sector := []int64{512, 4096}[r.IntN(2)]
	often := []int{1, 5, 9, 10}[r.IntN(4)] // of 10
	upTo := len(pending)                   // what comes later is lost altogether
	if r.IntN(2) == 0 {
		upTo = r.IntN(len(pending) + 1)
	}
	sizes := []int64{int64(len(f.data))} // that it had
	data := slices.Clone(f.data)
	grow := func(size int64) {
		if more := size - int64(len(data)); more > 0 {
			fill := make([]byte, more)
			if r.IntN(4) == 0 { // what the blocks held before
				rand.NewChaCha8([32]byte{byte(r.Uint32())}).Read(fill)
			}
			data = append(data, fill...)
		}
	}
	for i, op := range pending {
		kept := i < upTo && r.IntN(10) < often
		switch op.kind {
		case "write":
			end := op.off + int64(len(op.data))
			grow(end)
			sizes = append(sizes, max(sizes[len(sizes)-1], end))
			for off := op.off; i < upTo && off < end; {
				next := min(off-off%sector+sector, end)
				if r.IntN(10) < often {
					copy(data[off:next], op.data[off-op.off:])
				}
				off = next
			}
		case "truncate":
			grow(op.off)
			if kept {
				clear(data[op.off:])
			}
			sizes = append(sizes, op.off)
		case "chmod", "chtimes":
			if kept {
				op.on(&f)
			}
		}
	}
	size := sizes[len(sizes)-1]
	if r.IntN(2) == 0 {
		size = sizes[r.IntN(len(sizes))]
	}
	f.data = data[:size:size]
	return f
}

// An openedDisk is an open directory.
type openedDisk struct {
	*crashDisk
	closed bool
}

// at takes the lock and looks a name up.
func (d *openedDisk) at(op, name string) (node int, unlock func(), err error) {
	d.mu.Lock()
	node, ok := d.names[name]
	switch {
	case d.closed:
		err = &fs.PathError{Op: op, Path: name, Err: fs.ErrClosed}
	case !ok:
		err = &fs.PathError{Op: op, Path: name, Err: fs.ErrNotExist}
	}
	return node, d.mu.Unlock, err
}

func (d *openedDisk) opened(name string, write bool) (File, error) {
	node, unlock, err := d.at("open", name)
	defer unlock()
	if err != nil {
		return nil, err
	}
	if write && d.nodes[node].mode&0o200 == 0 { // the process is not root's
		return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrPermission}
	}
	d.open++
	return &diskFile{d: d.crashDisk, index: node, write: write}, nil
}

func (d *openedDisk) Open(name string) (File, error)     { return d.opened(name, false) }
func (d *openedDisk) OpenPart(name string) (File, error) { return d.opened(name, true) }

func (d *openedDisk) Create(name string) (File, error) {
	_, unlock, err := d.at("open", name)
	defer unlock()
	if err == nil {
		return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrExist}
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	node := len(d.nodes)
	d.did(diskOp{kind: "create", node: node, mode: 0o600, mtime: time.Unix(1, 0)})
	d.did(diskOp{kind: "link", node: node, name: name})
	d.open++
	return &diskFile{d: d.crashDisk, index: node, write: true}, nil
}

func (d *openedDisk) Stat(name string) (fs.FileInfo, error) {
	node, unlock, err := d.at("stat", name)
	defer unlock()
	if err != nil {
		return nil, err
	}
	return d.nodes[node].info(name), nil
}

func (d *openedDisk) Lstat(name string) (fs.FileInfo, error) { return d.Stat(name) }

func (d *openedDisk) Rename(old, new string) error {
	node, unlock, err := d.at("rename", old)
	defer unlock()
	if err == nil {
		d.did(diskOp{kind: "rename", node: node, name: old, to: new})
	}
	return err
}

// RenameNew does what osDir's does.
func (d *openedDisk) RenameNew(old, new string) error {
	node, unlock, err := d.at("rename", old)
	defer unlock()
	if err != nil {
		return err
	}
	if _, ok := d.names[new]; ok {
		return &fs.PathError{Op: "rename", Path: new, Err: fs.ErrExist}
	}
	d.did(diskOp{kind: "link", node: node, name: new})
	d.did(diskOp{kind: "unlink", node: node, name: old})
	return nil
}

func (d *openedDisk) Remove(name string) error {
	node, unlock, err := d.at("remove", name)
	defer unlock()
	if err == nil {
		d.did(diskOp{kind: "unlink", node: node, name: name})
	}
	return err
}

func (d *openedDisk) Chtimes(name string, mtime time.Time) error {
	node, unlock, err := d.at("chtimes", name)
	defer unlock()
	if err == nil {
		d.did(diskOp{kind: "chtimes", node: node, mtime: mtime})
	}
	return err
}

func (d *openedDisk) Sync() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.did(diskOp{kind: "syncdir"})
	return nil
}

func (d *openedDisk) Close() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return fs.ErrClosed
	}
	d.closed = true
	d.open--
	return nil
}

// A diskFile is an open file.
type diskFile struct {
	d      *crashDisk
	index  int
	write  bool
	closed bool
}

// use takes the lock.
func (f *diskFile) use(write bool) (n *diskNode, unlock func(), err error) {
	f.d.mu.Lock()
	switch {
	case f.closed:
		err = fs.ErrClosed
	case write && !f.write:
		err = syscall.EBADF
	}
	return f.d.nodes[f.index], f.d.mu.Unlock, err
}

func (f *diskFile) ReadAt(p []byte, off int64) (int, error) {
	n, unlock, err := f.use(false)
	defer unlock()
	if err != nil {
		return 0, err
	}
	got := copy(p, n.data[min(off, int64(len(n.data))):])
	if got < len(p) {
		return got, io.EOF
	}
	return got, nil
}

func (f *diskFile) WriteAt(p []byte, off int64) (int, error) {
	_, unlock, err := f.use(true)
	defer unlock()
	if err != nil {
		return 0, err
	}
	if len(p) > 0 {
		f.d.did(diskOp{kind: "write", node: f.index, off: off, data: slices.Clone(p), mtime: time.Unix(2, 0)})
	}
	return len(p), nil
}

func (f *diskFile) Truncate(size int64) error {
	_, unlock, err := f.use(true)
	defer unlock()
	if err == nil {
		f.d.did(diskOp{kind: "truncate", node: f.index, off: size, mtime: time.Unix(3, 0)})
	}
	return err
}

func (f *diskFile) Chmod(mode fs.FileMode) error {
	_, unlock, err := f.use(false)
	defer unlock()
	if err == nil {
		f.d.did(diskOp{kind: "chmod", node: f.index, mode: mode})
	}
	return err
}

func (f *diskFile) Sync() error {
	_, unlock, err := f.use(false)
	defer unlock()
	if err == nil {
		f.d.did(diskOp{kind: "sync", node: f.index})
	}
	return err
}

// StartSync promises nothing.
func (f *diskFile) StartSync() {}

func (f *diskFile) Stat() (fs.FileInfo, error) {
	n, unlock, err := f.use(false)
	defer unlock()
	if err != nil {
		return nil, err
	}
	return n.info("file"), nil
}

func (f *diskFile) NextData(off int64) (start, end int64, ok bool) {
	n, unlock, _ := f.use(false)
	defer unlock()
	if !f.d.sparse {
		return off, math.MaxInt64, true
	}
	const block = 4096
	hole := func(off int64) bool {
		off -= off % block
		return !slices.ContainsFunc(n.data[off:min(off+block, int64(len(n.data)))], func(b byte) bool { return b != 0 })
	}
	for start = off; start < int64(len(n.data)) && hole(start); {
		start += block - start%block
	}
	if start >= int64(len(n.data)) {
		return 0, 0, false
	}
	for end = start; end < int64(len(n.data)) && !hole(end); {
		end += block - end%block
	}
	return start, end, true
}

// CloneFrom takes over the content of another file of the disk.
func (f *diskFile) CloneFrom(other File) error {
	from, ok := other.(*diskFile)
	n, unlock, err := f.use(true)
	defer unlock()
	if err != nil || !ok || from.d != f.d || !f.d.clones {
		return errors.ErrUnsupported
	}
	data := slices.Clone(f.d.nodes[from.index].data)
	if len(n.data) > 0 {
		f.d.did(diskOp{kind: "truncate", node: f.index, mtime: time.Unix(4, 0)})
	}
	f.d.did(diskOp{kind: "write", node: f.index, data: data, mtime: time.Unix(4, 0)})
	return nil
}

func (f *diskFile) TryLock() (bool, error) {
	n, unlock, err := f.use(false)
	defer unlock()
	if err != nil || n.locked != nil {
		return n.locked == f, err
	}
	n.locked = f
	f.d.locks++
	return true, nil
}

func (f *diskFile) Close() error {
	n, unlock, err := f.use(false)
	defer unlock()
	if err != nil {
		return err
	}
	f.closed = true
	f.d.open--
	if n.locked == f {
		n.locked = nil
		f.d.locks--
	}
	return nil
}

func (n *diskNode) info(name string) fs.FileInfo {
	return diskInfo{name, int64(len(n.data)), n.mode, n.mtime, n.stat}
}

type diskInfo struct {
	name  string
	size  int64
	mode  fs.FileMode
	mtime time.Time
	stat  *syscall.Stat_t
}

func (i diskInfo) Name() string       { return i.name }
func (i diskInfo) Size() int64        { return i.size }
func (i diskInfo) Mode() fs.FileMode  { return i.mode }
func (i diskInfo) ModTime() time.Time { return i.mtime }
func (i diskInfo) IsDir() bool        { return false }
func (i diskInfo) Sys() any           { return i.stat }

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
	}{{dropAll{}, "a", "synced"}, {keepAll{}, "b", "syncedmore"}, {sizesOnly{}, "b", "synced\x00\x00\x00\x00"}, {dataOnly{}, "a", "syncedmore"}} {
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
	if again := d.killed(2); again.open != 0 || again.locks != 0 || len(again.nodes[0].data) != 0 || again.nodes[0].stat.Nlink != 1 {
		t.Errorf("%+v", again)
	}
}
