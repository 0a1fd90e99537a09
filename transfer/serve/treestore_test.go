package serve

import (
	"bytes"
	"context"
	"fmt"
	"kwikcp/integrity"
	"kwikcp/transfer/disk"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"time"

	"go.etcd.io/bbolt"
)

func newStore(t *testing.T, path string) *TreeStore {
	t.Helper()
	s, err := OpenTreeStore(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// randomTree builds the tree of n bytes that follow from seed.
func randomTree(t *testing.T, n int64, seed byte) *integrity.Tree {
	t.Helper()
	data := make([]byte, n)
	rand.NewChaCha8([32]byte{seed}).Read(data)
	tree, err := integrity.Build(context.Background(), bytes.NewReader(data), n, integrity.GroupSizeFor(n), nil)
	if err != nil {
		t.Fatal(err)
	}
	return tree
}

// later is the time at which tests store old versions, which are not racy then.
var later = time.Unix(2e9, 0)

func versionAt(size int64, at time.Time) disk.Version {
	return disk.Version{Size: size, MTime: at.UnixNano(), CTime: at.UnixNano(), Inode: 7}
}

func TestTreeStore(t *testing.T) {
	path := filepath.Join(t.TempDir(), "trees.db")
	s := newStore(t, path)
	const size = minStored + 5
	tree, version := randomTree(t, size, 1), versionAt(size, time.Unix(1e9, 0))
	if s.get("a", version) != nil {
		t.Error("a tree in an empty store")
	}
	if err := s.put("a", version, tree, later); err != nil {
		t.Fatal(err)
	}
	same := func(s *TreeStore) {
		t.Helper()
		got := s.get("a", version)
		if got == nil {
			t.Fatal("the tree is not in the store")
		}
		if got.Root() != tree.Root() || got.Size() != size {
			t.Fatalf("the tree has root %v and size %d, want %v and %d", got.Root(), got.Size(), tree.Root(),
				int64(size))
		}
		if !bytes.Equal(got.CVs(), tree.CVs()) {
			t.Fatal("the tree has other chaining values")
		}
	}
	same(s)
	for name, change := range map[string]func(v *disk.Version){
		"size":  func(v *disk.Version) { v.Size++ },
		"mtime": func(v *disk.Version) { v.MTime++ },
		"ctime": func(v *disk.Version) { v.CTime++ },
		"inode": func(v *disk.Version) { v.Inode++ },
	} {
		other := version
		if change(&other); s.get("a", other) != nil {
			t.Errorf("another %s does not matter", name)
		}
	}
	if s.get("b", version) != nil {
		t.Error("another path does not matter")
	}
	if _, err := OpenTreeStore(path); err != ErrStoreBusy {
		t.Errorf("opened twice: %v", err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = newStore(t, path)
	same(s)
	stored, _ := tree.AppendBinary(nil)
	if want := int64(1 + recordHeader + len(stored) + recordChecksum); s.total != want {
		t.Errorf("%d bytes are counted, want %d", s.total, want)
	}

	// Another version takes the place of the first.
	next := versionAt(size, time.Unix(1e9+1, 0))
	if err := s.put("a", next, randomTree(t, size, 2), later); err != nil {
		t.Fatal(err)
	}
	if s.get("a", version) != nil || s.get("a", next) == nil {
		t.Error("the older version is there, or the newer is not")
	}
}

// TestTreeStoreTakesWhatIsWorthIt checks that the store rejects trees of small files and of
// files that changed a moment ago.
func TestTreeStoreTakesWhatIsWorthIt(t *testing.T) {
	s := newStore(t, filepath.Join(t.TempDir(), "trees.db"))
	at := time.Unix(1e9, 0)
	for _, tt := range []struct {
		size   int64
		now    time.Time
		stored bool
	}{
		{minStored - 1, later, false},
		{minStored, later, true},
		{minStored, at.Add(racyWindow - 1), false},
		{minStored, at.Add(racyWindow), true},
		{minStored, at.Add(-time.Hour), false}, // a clock that was set back
	} {
		path := fmt.Sprint(tt)
		if err := s.put(path, versionAt(tt.size, at), randomTree(t, tt.size, 1), tt.now); err != nil {
			t.Fatal(err)
		}
		if stored := s.get(path, versionAt(tt.size, at)) != nil; stored != tt.stored {
			t.Errorf("%d bytes, %v after the change: stored %t", tt.size, tt.now.Sub(at), stored)
		}
	}
}

// TestTreeStoreIsBounded checks that the oldest records make room for new ones.
func TestTreeStoreIsBounded(t *testing.T) {
	s := newStore(t, filepath.Join(t.TempDir(), "trees.db"))
	tree, version := randomTree(t, minStored, 1), versionAt(minStored, time.Unix(1e9, 0))
	for i := range 3 {
		if err := s.put(fmt.Sprint(i), version, tree, later); err != nil {
			t.Fatal(err)
		}
	}
	s.total += maxStoredTrees - 2*s.total/3                  // as if the others were large: two records too much
	if err := s.put("0", version, tree, later); err != nil { // the newest now
		t.Fatal(err)
	}
	for path, want := range map[string]bool{"0": true, "1": false} {
		if got := s.get(path, version) != nil; got != want {
			t.Errorf("record %s is there: %t", path, got)
		}
	}
	if s.total > maxStoredTrees {
		t.Errorf("%d bytes", s.total)
	}
}

// TestTreeStoreSweep checks that the store forgets removed and changed files.
func TestTreeStoreSweep(t *testing.T) {
	where := t.TempDir()
	dir, err := disk.OpenDir(where)
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	s := newStore(t, filepath.Join(t.TempDir(), "trees.db"))
	tree := randomTree(t, minStored, 1)
	for _, name := range []string{"stays", "changes", "goes"} {
		if err := os.WriteFile(filepath.Join(where, name), make([]byte, minStored), 0o644); err != nil {
			t.Fatal(err)
		}
		info, err := dir.Stat(name)
		if err != nil {
			t.Fatal(err)
		}
		if err := s.put(name, disk.VersionOf(info), tree, time.Now().Add(time.Hour)); err != nil {
			t.Fatal(err)
		}
	}
	before := s.total
	os.Remove(filepath.Join(where, "goes"))
	os.WriteFile(filepath.Join(where, "changes"), []byte("other"), 0o644)
	if err := s.sweep(t.Context(), dir); err != nil {
		t.Fatal(err)
	}
	left := 0
	s.db.View(func(tx *bbolt.Tx) error {
		left = tx.Bucket(bucketTrees).Stats().KeyN + 100*tx.Bucket(bucketOrder).Stats().KeyN
		return nil
	})
	info, _ := dir.Stat("stays")
	if left != 101 || s.get("stays", disk.VersionOf(info)) == nil || s.total*3 > before+100 {
		t.Errorf("%d records, %d bytes of %d", left, s.total, before)
	}
}

// TestDamagedTreeStore damages the store anywhere. A damaged store is replaced or still
// correct. It never returns a wrong tree, or an error that stops the server.
func TestDamagedTreeStore(t *testing.T) {
	path := filepath.Join(t.TempDir(), "trees.db")
	s := newStore(t, path)
	tree, version := randomTree(t, minStored, 1), versionAt(minStored, time.Unix(1e9, 0))
	for i := range 20 {
		if err := s.put(fmt.Sprint(i), version, tree, later); err != nil {
			t.Fatal(err)
		}
	}
	s.Close()
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	try := func(what string, content []byte) {
		t.Helper()
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
		s, err := OpenTreeStore(path)
		if err != nil {
			t.Errorf("%s: %v", what, err)
			return
		}
		defer s.Close()
		for i := range 20 {
			if got := s.get(fmt.Sprint(i), version); got != nil && got.Root() != tree.Root() {
				t.Errorf("%s: a wrong tree", what)
			}
		}
		s.put("another", version, tree, later) // fails or does not, and does no harm
		if got := s.get("another", version); got != nil && got.Root() != tree.Root() {
			t.Errorf("%s: a wrong tree afterwards", what)
		}
	}
	try("as it was", whole)
	try("empty", nil)
	try("garbage", bytes.Repeat([]byte("garbage "), 1<<13))
	try("both metas lost", append(make([]byte, 2*os.Getpagesize()), whole[2*os.Getpagesize():]...))
	r := rand.New(rand.NewPCG(1, 2))
	for i := range 400 { // in a record, or anywhere
		b := bytes.Clone(whole)
		at := r.IntN(len(b))
		if i%2 == 0 {
			at = bytes.Index(b, tree.CVs()) + r.IntN(1000)
		}
		b[at] ^= 1 << r.IntN(8)
		try(fmt.Sprintf("flip %d at %d", i, at), b)
	}
}

// TestTreesOutliveTheirServer checks that a restarted server does not hash files again. Two
// servers of one directory do not disturb each other.
func TestTreesOutliveTheirServer(t *testing.T) {
	path := filepath.Join(t.TempDir(), "trees.db")
	tree, version := randomTree(t, minStored, 1), versionAt(minStored, time.Unix(1e9, 0))
	s := newStore(t, path)
	if err := s.put("f", version, tree, later); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	x := newIndex(ctx, slog.New(slog.DiscardHandler))
	x.store = s
	e := x.lookup("f", version, func() (disk.File, error) { return nil, os.ErrInvalid })
	<-e.done
	if e.err != nil || e.tree.Root() != tree.Root() {
		t.Errorf("%v, %v", e.tree, e.err)
	}
	cancel()
	x.jobs.Wait()
}

// TestTreeStoreFindsOtherNames checks that a tree is found under every name of its file, as long
// as its record exists, and only on the same device.
func TestTreeStoreFindsOtherNames(t *testing.T) {
	path := filepath.Join(t.TempDir(), "trees.db")
	s := newStore(t, path)
	tree, version := randomTree(t, minStored, 1), versionAt(minStored, time.Unix(1e9, 0))
	version.Device = 5
	if err := s.put("a", version, tree, later); err != nil {
		t.Fatal(err)
	}
	s.Close()
	s = newStore(t, path)
	total := s.total
	elsewhere, next := version, version
	elsewhere.Device++
	next.MTime++
	for _, x := range []struct {
		path    string
		version disk.Version
		found   bool
	}{
		{"a", version, true}, {"b", version, true}, {"b/c", version, true},
		{"a", elsewhere, true}, // the system was restarted
		{"b", elsewhere, false}, {"a", next, false}, {"b", next, false},
	} {
		if found := s.get(x.path, x.version) != nil; found != x.found {
			t.Errorf("%q on device %d: %t", x.path, x.version.Device, found)
		}
	}
	if err := s.put("a", next, tree, later); err != nil {
		t.Fatal(err)
	}
	if s.get("b", version) != nil || s.get("b", next) == nil || s.total != total {
		t.Errorf("after the next version: %d bytes, %d before", s.total, total)
	}
	// The same file under another name, when the device's number has changed.
	next.Device++
	if err := s.put("b", next, tree, later); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := s.update(func(tx *bbolt.Tx) (int64, error) { return s.removeOldest(tx, 1) }); err != nil {
			t.Fatal(err)
		}
	}
	if s.total != 0 || s.get("c", next) != nil {
		t.Errorf("an empty store has %d bytes", s.total)
	}
}
