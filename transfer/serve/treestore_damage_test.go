package serve

import (
	"bytes"
	"errors"
	"fmt"
	"kwikcp/integrity"
	"kwikcp/transfer/disk"
	"kwikcp/transfer/internal/transfertest"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// A damagedStore is a store of a few files whose file is damaged.
type damagedStore struct {
	path  string
	trees []*integrity.Tree
	whole []byte // the file as it was
	v     disk.Version
}

func newDamagedStore(t testing.TB, trees ...*integrity.Tree) *damagedStore {
	t.Helper()
	d := &damagedStore{path: filepath.Join(t.TempDir(), "trees.db"), trees: trees}
	d.v = versionAt(trees[0].Size(), time.Unix(1e9, 0))
	s := d.open(t)
	for i, tree := range trees {
		if err := s.put(fmt.Sprint(i), d.version(i), tree, later); err != nil {
			t.Fatal(err)
		}
	}
	s.Close()
	var err error
	if d.whole, err = os.ReadFile(d.path); err != nil {
		t.Fatal(err)
	}
	return d
}

func (d *damagedStore) version(i int) disk.Version {
	v := d.v
	v.Device, v.Inode = 3, uint64(i+1)
	return v
}

func (d *damagedStore) open(t testing.TB) *TreeStore {
	t.Helper()
	s, err := OpenTreeStore(d.path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// check fails the test if the store returns a wrong tree. It returns how many it has.
func (d *damagedStore) check(t testing.TB, s *TreeStore, what string) (found int) {
	t.Helper()
	for i, want := range d.trees {
		for _, path := range []string{fmt.Sprint(i), "another name"} {
			tree := s.get(path, d.version(i))
			switch {
			case tree == nil:
			case tree.Root() != want.Root() || !bytes.Equal(tree.CVs(), want.CVs()):
				t.Fatalf("%s: a wrong tree", what)
			case path != "another name":
				found++
			}
		}
	}
	return found
}

// use checks that a store works, whatever happened to its file.
func (d *damagedStore) use(t testing.TB, s *TreeStore, what string) {
	t.Helper()
	before := d.check(t, s, what)
	if err := s.put("0", d.version(0), d.trees[0], later); err != nil {
		t.Fatalf("%s: %v", what, err)
	}
	if s.get("0", d.version(0)) == nil {
		t.Fatalf("%s: the tree that was put is missing", what)
	}
	if after := d.check(t, s, what); after < before {
		t.Fatalf("%s: %d trees, %d after one was put", what, before, after)
	}
}

// damage returns a damaged copy of b, and what was done.
func damage(r *rand.Rand, b []byte) (string, []byte) {
	b = bytes.Clone(b)
	at := r.IntN(len(b))
	n := min(1+r.IntN(1<<r.IntN(16)), len(b)-at)
	switch r.IntN(8) {
	case 0:
		return fmt.Sprintf("cut at %d", at), b[:at]
	case 1:
		clear(b[at : at+n])
		return fmt.Sprintf("%d zeros at %d", n, at), b
	case 2:
		for i := range n {
			b[at+i] = byte(r.Uint32())
		}
		return fmt.Sprintf("%d random bytes at %d", n, at), b
	case 3:
		return fmt.Sprintf("%d bytes removed at %d", n, at), append(b[:at], b[at+n:]...)
	case 4:
		return fmt.Sprintf("%d bytes twice at %d", n, at), append(b[:at+n:at+n], b[at:]...)
	case 5:
		return "garbage after the end", append(b, bytes.Repeat([]byte(recordMark), 1+r.IntN(500))...)
	case 6:
		for range n {
			b[r.IntN(len(b))] ^= 1 << r.IntN(8)
		}
		return fmt.Sprintf("%d flips", n), b
	}
	b[at] ^= 1 << r.IntN(8)
	if at < len(storeHeader) {
		return fmt.Sprintf("a flip at %d, in the header", at), b
	}
	return fmt.Sprintf("a flip at %d", at), b
}

// TestAttackDamagedTreeStore damages the file of a store anywhere, while it is closed and while it
// is open. The store never returns a wrong tree, nor an error, nor a fault. Of the trees only those
// are lost whose records were hit.
func TestAttackDamagedTreeStore(t *testing.T) {
	var trees []*integrity.Tree
	for i := range 8 {
		trees = append(trees, randomTree(t, minStored, byte(i)))
	}
	d := newDamagedStore(t, trees...)
	write := func(content []byte) {
		f, err := os.OpenFile(d.path, os.O_WRONLY, 0) // in place
		if err != nil {
			t.Fatal(err)
		}
		_, err = f.WriteAt(content, 0)
		if err := errors.Join(err, f.Truncate(int64(len(content))), f.Close()); err != nil {
			t.Fatal(err)
		}
	}
	r := rand.New(rand.NewPCG(1, 2))
	closed, open := 200, 100
	if isLong() {
		closed, open = 20_000, 10_000
	}
	for range closed {
		what, content := damage(r, d.whole)
		write(content)
		s := d.open(t)
		isFlip := strings.HasPrefix(what, "a flip")
		if found := d.check(t, s, what); isFlip && found < len(trees)-1 && !strings.HasSuffix(what, "in the header") {
			t.Errorf("%s: %d of %d trees were found", what, found, len(trees))
		}
		d.use(t, s, what)
		s.Close()
	}
	for range open {
		write(d.whole)
		s := d.open(t)
		d.check(t, s, "whole")
		what, content := damage(r, d.whole)
		write(content) // in place, under the open store
		d.use(t, s, what+" while it is open")
		s.Close()
		s = d.open(t)
		d.use(t, s, what+" before it was opened again")
		s.Close()
	}
}

// TestTreeStoreWhoseFileIsReplaced checks that a store whose file is removed or replaced while it
// is open goes on with a new one.
func TestTreeStoreWhoseFileIsReplaced(t *testing.T) {
	tree := randomTree(t, minStored, 1)
	for what, replace := range map[string]func(path string) error{
		"removed": os.Remove,
		"a directory": func(path string) error {
			os.Remove(path)
			return os.Mkdir(path, 0o700)
		},
		"a FIFO": func(path string) error {
			os.Remove(path)
			return transfertest.Mkfifo(path)
		},
		"another file": func(path string) error {
			os.Remove(path)
			return os.WriteFile(path, []byte("hello"), 0o600)
		},
		"a link to nothing": func(path string) error {
			os.Remove(path)
			return os.Symlink("nothing", path)
		},
	} {
		d := newDamagedStore(t, tree)
		s := d.open(t)
		if err := replace(d.path); err != nil {
			t.Skip("this system cannot make one:", err)
		}
		d.use(t, s, what)
		if s.takeDamage() == nil {
			t.Errorf("%s: not reported", what)
		}
		s.Close()
		if found := d.check(t, d.open(t), what); found != 1 {
			t.Errorf("%s: %d trees after a restart", what, found)
		}
		os.RemoveAll(d.path)
		if err := replace(d.path); err != nil { // while it is closed
			continue // there is nothing to remove
		}
		d.use(t, d.open(t), what+" while it was closed")
	}
}

// A fullDisk is a directory whose file fails at one write, for good or until it has failed once.
type fullDisk struct {
	disk.Dir
	err   error
	fails int // writes that succeed before
	once  bool
}

func (d *fullDisk) OpenPart(name string) (disk.File, error) {
	f, err := d.Dir.OpenPart(name)
	return fullFile{f, d}, err
}

func (d *fullDisk) Create(name string) (disk.File, error) {
	f, err := d.Dir.Create(name)
	return fullFile{f, d}, err
}

type fullFile struct {
	disk.File
	of *fullDisk
}

func (f fullFile) WriteAt(p []byte, off int64) (int, error) {
	f.of.fails--
	if f.of.fails < 0 && (!f.of.once || f.of.fails == -1) {
		n, _ := f.File.WriteAt(p[:len(p)/2], off)
		return n, f.of.err
	}
	return f.File.WriteAt(p, off)
}

func (f fullFile) Truncate(size int64) error {
	if f.of.fails < 0 && !f.of.once && f.of.err == syscall.EROFS {
		return f.of.err
	}
	return f.File.Truncate(size)
}

// TestTreeStoreOnAFullDisk lets each write of a store fail, as on a disk that is full, read-only or
// broken. The store returns the error to its server, keeps what it had, and works again later.
func TestTreeStoreOnAFullDisk(t *testing.T) {
	var trees []*integrity.Tree
	for i := range 3 {
		trees = append(trees, randomTree(t, minStored, byte(i)))
	}
	for _, failure := range []error{syscall.ENOSPC, syscall.EROFS, syscall.EIO} {
		for n := range 8 {
			for _, once := range []bool{false, true} {
				d := newDamagedStore(t, trees...)
				what := fmt.Sprintf("%v at write %d, once %t", failure, n, once)
				dir, err := disk.OpenDir(filepath.Dir(d.path))
				if err != nil {
					t.Fatal(err)
				}
				full := &fullDisk{Dir: dir, err: failure, fails: n, once: once}
				s := newTreeStore(full, filepath.Base(d.path))
				if err := s.open(); err != nil {
					t.Fatal(what, err)
				}
				for i := range 4 { // each marks an old record and writes a new one
					err := s.put(fmt.Sprint(i%3), d.version(i%3), trees[i%3], later)
					if isHit := n == 2*i+1; isHit && !errors.Is(err, failure) {
						t.Errorf("%s: %v", what, err)
					}
					d.check(t, s, what)
				}
				full.fails = 1 << 30 // there is space again
				d.use(t, s, what)
				s.Close()
				s = d.open(t)
				if found := d.check(t, s, what); found < 1 {
					t.Errorf("%s: %d trees after a restart", what, found)
				}
				s.Close()
			}
		}
	}
}

// FuzzTreeStore opens any file as a store. It must not fail, nor find a tree that does not prove
// itself.
func FuzzTreeStore(f *testing.F) {
	tree := randomTree(f, minStored, 1)
	v := versionAt(minStored, time.Unix(1e9, 0))
	record := appendRecord(nil, "0", v, tree)
	f.Add([]byte(storeHeader))
	f.Add(append([]byte(storeHeader), record...))
	f.Add(append(append([]byte(storeHeader), record[:100]...), record...))
	removed := bytes.Clone(record)
	removed[stateOffset] = stateRemoved
	f.Add(append(append([]byte(storeHeader), removed...), record...))
	f.Fuzz(func(t *testing.T, content []byte) {
		path := filepath.Join(t.TempDir(), "trees.db")
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
		s, err := OpenTreeStore(path)
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		isWhole := bytes.Contains(content, record)
		if found := s.get("0", v); found != nil && !isWhole {
			t.Error("a tree without its record")
		}
		if err := s.put("1", v, tree, later); err != nil || s.get("1", v) == nil {
			t.Errorf("the tree that was put is missing: %v", err)
		}
	})
}
