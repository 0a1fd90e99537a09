package serve

import (
	"bytes"
	"fmt"
	"io/fs"
	"kwikcp/internal/budget"
	"kwikcp/transfer/disk"
	"kwikcp/transfer/internal/transfertest"
	"kwikcp/transfer/internal/wire"
	"kwikcp/transfer/source"
	"net/netip"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	transferpb "kwikcp/transfer/internal/wire/proto"
)

// A countedTree counts how often directories are read.
type countedTree struct {
	disk.TreeDir
	reads *atomic.Int32
}

func (d countedTree) At(path string) (disk.TreeDir, error) {
	at, err := d.TreeDir.At(path)
	return countedTree{at, d.reads}, err
}

func (d countedTree) Sub(path string) (disk.TreeDir, error) {
	sub, err := d.TreeDir.Sub(path)
	return countedTree{sub, d.reads}, err
}

func (d countedTree) Names(limit int) ([]string, error) {
	d.reads.Add(1)
	return d.TreeDir.Names(limit)
}

// listRequest encodes a request for a page of the served directory.
func listRequest(after string, limit uint32) []byte {
	var raw bytes.Buffer
	wire.WriteMessage(&raw, &transferpb.Request{
		Version: wire.ProtocolVersion, List: &transferpb.ListRequest{After: []byte(after), Limit: limit},
	})
	return raw.Bytes()
}

// crowd makes a directory of n empty files that changed a while ago.
func crowd(t *testing.T, n int) (root string) {
	t.Helper()
	root = t.TempDir()
	for i := range n {
		transfertest.Put(t, filepath.Join(root, fmt.Sprintf("%06d", i)), "")
	}
	settle(t, root)
	return root
}

// settle waits until the last change of a directory is old enough for its names to be kept.
func settle(t *testing.T, dir string) {
	t.Helper()
	for {
		info, err := os.Stat(dir)
		if err != nil {
			t.Fatal(err)
		}
		if !disk.VersionOf(info).IsRacy(time.Now()) {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// page lists a page and returns its paths.
func page(w *transfertest.Net, raw []byte) (paths []string) {
	c := w.Dial()
	defer c.CloseWithError(0, "")
	replies, err := w.Ask(c, raw, true)
	if err != nil {
		w.T.Error(err)
	}
	for _, r := range replies {
		for _, e := range r.GetListing().GetEntries() {
			paths = append(paths, string(e.GetPath()))
		}
	}
	return paths
}

// TestAttackListingsOfOneEntry lists a large directory one entry at a time, in many sessions. It is
// read and sorted once, and again after it changed.
func TestAttackListingsOfOneEntry(t *testing.T) {
	files := 20_000
	if isLong() {
		files = 300_000
	}
	root := crowd(t, files)
	tree, err := disk.OpenTree(root, false)
	if err != nil {
		t.Fatal(err)
	}
	defer tree.Close()
	transfertest.OnNet(t, func(w *transfertest.Net) {
		d := countedTree{tree, new(atomic.Int32)}
		s := serveOn(w, d)
		// The clock of the bubble is behind the times of the files.
		s.names.clock = func() time.Time { return time.Now().Add(100 * 365 * 24 * time.Hour) }
		var wg sync.WaitGroup
		for i := range 80 {
			wg.Go(func() {
				at := i * 137
				want := fmt.Sprintf("%06d", at+1)
				if got := page(w, listRequest(fmt.Sprintf("%06d", at), 1)); len(got) != 1 || got[0] != want {
					w.T.Errorf("after %d: %q", at, got)
				}
			})
			if i == 0 {
				wg.Wait()
			}
		}
		wg.Wait()
		if n := d.reads.Load(); n != 1 {
			w.T.Errorf("80 listings read the directory %d times", n)
		}
		transfertest.Put(t, filepath.Join(root, "000000a"), "")
		if got := page(w, listRequest("000000", 1)); len(got) != 1 || got[0] != "000000a" {
			w.T.Errorf("after a change: %q", got)
		}
		if err := os.Remove(filepath.Join(root, "000001")); err != nil {
			t.Fatal(err)
		}
		if got := page(w, listRequest("000000a", 1)); len(got) != 1 || got[0] != "000002" {
			w.T.Errorf("after another change: %q", got)
		}
	})
}

// A statedDir is a directory with n names, of a given version.
type statedDir struct {
	crowdedDir
	info  *statOf
	reads int
}

func (d *statedDir) Stat(string) (fs.FileInfo, error) { return *d.info, nil }

func (d *statedDir) Names(limit int) ([]string, error) {
	d.reads++
	return d.crowdedDir.Names(limit)
}

// TestNamesAreKept checks which names are kept, for how long, and that they make room for others.
func TestNamesAreKept(t *testing.T) {
	now := time.Unix(2e9, 0)
	l := newNamesLimit()
	l.clock = func() time.Time { return now }
	l.held = budget.New(5000, 0, 0, 5000)
	defer l.close()
	old := func(n int) *statedDir {
		return &statedDir{crowdedDir: crowdedDir{n: n}, info: &statOf{mtime: now.Add(-time.Hour)}}
	}
	use := func(path string, d *statedDir) {
		t.Helper()
		list, err := l.list(t.Context(), netip.Prefix{}, path, source.Local(d))
		if err != nil || len(list.names) != d.n {
			t.Fatalf("%s: %v", path, err)
		}
		l.release(list)
	}
	wantReads := func(d *statedDir, n int, when string) {
		t.Helper()
		if d.reads != n {
			t.Errorf("%s: %d reads, want %d", when, d.reads, n)
		}
	}
	d, small, recent := old(1000), old(minKept-1), old(1000)
	recent.info.mtime = now.Add(-time.Millisecond)
	for range 3 {
		use("d", d)
		use("small", small)
		use("recent", recent)
	}
	wantReads(d, 1, "a large directory")
	wantReads(small, 3, "a small directory")
	wantReads(recent, 3, "a directory that changed just now")
	now = now.Add(keptFor - 1)
	use("d", d)
	wantReads(d, 1, "just before the names are too old")
	now = now.Add(1)
	use("d", d)
	wantReads(d, 2, "names that are too old")
	d.info.mtime = d.info.mtime.Add(time.Second)
	use("d", d)
	use("d", d)
	wantReads(d, 3, "after a change")
	other := old(2500) // no room for both
	use("other", other)
	use("d", d)
	wantReads(d, 4, "after others needed the room")
	now = now.Add(time.Hour)
	l.expire()
	l.close()
	if len(l.kept) != 0 || l.count != 0 || l.held.Used() != 0 {
		t.Errorf("%d lists of %d names are still kept", len(l.kept), l.count)
	}
}
