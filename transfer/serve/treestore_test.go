package serve

import (
	"bytes"
	"context"
	"fmt"
	"kwikcp/integrity"
	"kwikcp/transfer/disk"
	"kwikcp/transfer/source"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
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
func randomTree(t testing.TB, n int64, seed byte) *integrity.Tree {
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
		"tag":   func(v *disk.Version) { v.Tag[15]++ },
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
	if s.Len() != 1 || s.live+int64(len(storeHeader)) != s.end {
		t.Errorf("%d records with %d bytes are counted, in a file of %d", s.Len(), s.live, s.end)
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

// TestTreeStoreTakesWhatIsBelieved checks that the store rejects trees of files that had just
// changed when they were hashed, by what their times tell about their granularity.
func TestTreeStoreTakesWhatIsBelieved(t *testing.T) {
	s := newStore(t, filepath.Join(t.TempDir(), "trees.db"))
	even, fine := time.Unix(1e9, 0), time.Unix(1e9, 12345)
	tree := randomTree(t, minStored, 1)
	for _, tt := range []struct {
		changed time.Time
		after   time.Duration
		stored  bool
	}{
		{even, 3*time.Second - 1, false},
		{even, 3 * time.Second, true},
		{even, -time.Hour, false}, // a clock that was set back
		{fine, time.Second - 1, false},
		{fine, time.Second, true},
	} {
		path := fmt.Sprint(tt)
		version := versionAt(minStored, tt.changed)
		if err := s.put(path, version, tree, tt.changed.Add(tt.after)); err != nil {
			t.Fatal(err)
		}
		if stored := s.get(path, version) != nil; stored != tt.stored {
			t.Errorf("changed at %v, hashed %v later: stored %t", tt.changed, tt.after, stored)
		}
	}
	if s.put(strings.Repeat("x", maxRecordPath+1), versionAt(minStored, fine), tree, later); s.Len() != 2 {
		t.Error("a path that is too long was stored")
	}
}

// TestTreeStoreIsBounded checks that the oldest records make room for new ones, in bytes and in
// number, and that removed ones take no space for ever.
func TestTreeStoreIsBounded(t *testing.T) {
	tree, version := randomTree(t, minStored, 1), versionAt(minStored, time.Unix(1e9, 0))
	size := int64(len(appendRecord(nil, "000", version, tree)))
	for name, limit := range map[string]func(s *TreeStore){
		"bytes":   func(s *TreeStore) { s.maxBytes = 20 * size },
		"records": func(s *TreeStore) { s.maxRecords = 20 },
	} {
		path := filepath.Join(t.TempDir(), "trees.db")
		s := newStore(t, path)
		limit(s)
		for i := range 100 {
			if err := s.put(fmt.Sprintf("%03d", i), version, tree, later); err != nil {
				t.Fatal(err)
			}
			info, err := os.Stat(path)
			if err != nil {
				t.Fatal(err)
			}
			if info.Size() != s.end || s.end > 21*size || s.Len() > 20 {
				t.Fatalf("%s: %d records, a file of %d bytes", name, s.Len(), info.Size())
			}
		}
		for i := range 100 {
			isThere := s.get(fmt.Sprintf("%03d", i), version) != nil
			isNewest := i > 99-s.Len()
			if isThere != isNewest || s.Len() < 10 {
				t.Errorf("%s: record %d of %d is there: %t", name, i, s.Len(), isThere)
			}
		}
	}
	s := newStore(t, filepath.Join(t.TempDir(), "trees.db"))
	for range 2 * minWaste / size {
		if err := s.put("a", version, tree, later); err != nil {
			t.Fatal(err)
		}
	}
	if s.get("a", version) == nil || s.end > minWaste+2*size {
		t.Errorf("one file has %d bytes", s.end)
	}
}

// TestTreeStoreSweep checks that the store forgets removed and changed files.
func TestTreeStoreSweep(t *testing.T) {
	where := t.TempDir()
	dir, err := disk.OpenTree(where, false)
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
	os.Remove(filepath.Join(where, "goes"))
	os.WriteFile(filepath.Join(where, "changes"), []byte("other"), 0o644)
	if err := s.sweep(t.Context(), source.Local(dir)); err != nil {
		t.Fatal(err)
	}
	info, _ := dir.Stat("stays")
	if s.Len() != 1 || s.get("stays", disk.VersionOf(info)) == nil || s.live*2 > s.end {
		t.Errorf("%d records, %d bytes of %d", s.Len(), s.live, s.end)
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
	e := x.lookup("f", version, func(context.Context) (source.Object, error) { return nil, os.ErrInvalid })
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
	if s.get("b", version) != nil || s.get("b", next) == nil || s.Len() != 1 {
		t.Errorf("after the next version: %d records", s.Len())
	}
	s.forget("b", next) // by another name than the record's
	if s.get("a", next) != nil || s.get("b", next) != nil || s.Len() != 0 {
		t.Error("a forgotten tree is there")
	}
	s.Close()
	if s = newStore(t, path); s.Len() != 0 {
		t.Error("a forgotten tree is there after a restart")
	}
}

// TestTreeStoreOfObjects stores the trees of two objects with one tag: each is found by its name
// alone, whatever the clock, also after a restart.
func TestTreeStoreOfObjects(t *testing.T) {
	path := filepath.Join(t.TempDir(), "trees.db")
	s := newStore(t, path)
	version := disk.Version{Size: minStored, MTime: later.UnixNano(), Tag: [16]byte{1, 15: 2}}
	trees := map[string]*integrity.Tree{"a": randomTree(t, minStored, 1), "b": randomTree(t, minStored, 2)}
	for name, tree := range trees {
		if err := s.put(name, version, tree, later); err != nil {
			t.Fatal(err)
		}
	}
	s.Close()
	s = newStore(t, path)
	for name, tree := range trees {
		if got := s.get(name, version); got == nil || got.Root() != tree.Root() {
			t.Errorf("%s has another tree", name)
		}
	}
	other := version
	other.Tag = [16]byte{}
	if s.get("a", other) != nil || s.get("c", version) != nil {
		t.Error("a tree of another version or object")
	}
	if keyOf("a", version) == keyOf("b", version) {
		t.Error("two objects have one key")
	}
}

// TestTreeStoreOfAnEarlierFormat replaces a file of the format without tags.
func TestTreeStoreOfAnEarlierFormat(t *testing.T) {
	path := filepath.Join(t.TempDir(), "trees.db")
	if err := os.WriteFile(path, []byte("kwikcp trees 2\n\x00 and records"), 0o600); err != nil {
		t.Fatal(err)
	}
	s := newStore(t, path)
	if s.Len() != 0 || s.takeDamage() == nil {
		t.Error("a file of an earlier format is used")
	}
	tree, version := randomTree(t, minStored, 1), versionAt(minStored, time.Unix(1e9, 0))
	if err := s.put("a", version, tree, later); err != nil || s.get("a", version) == nil {
		t.Errorf("the store is not usable: %v", err)
	}
}
