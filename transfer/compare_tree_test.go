package transfer

import (
	"context"
	"fmt"
	"kwikcp/internal/trust"
	"kwikcp/kwik"
	"kwikcp/transfer/disk"
	"kwikcp/transfer/internal/transfertest"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
)

// treeDifferences are what CompareTree reported.
type treeDifferences struct {
	NoReport
	mu  sync.Mutex
	all map[string]How
	err map[string]error
}

func (r *treeDifferences) Difference(d TreeDifference) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.all[d.Path], r.err[d.Path] = d.How, d.Err
}

// compare compares a directory with the server's.
func (s *mirrorServer) compare(
	ctx context.Context, target string, change ...func(*CompareTreeOptions),
) (TreeComparison, *treeDifferences, error) {
	o := CompareTreeOptions{
		MirrorSource: MirrorSource{URL: URL{Host: s.Addr}, TLS: trust.PinnedClientConfig(nil, s.Pin)}, Target: target,
	}
	for _, f := range change {
		f(&o)
	}
	r := &treeDifferences{all: make(map[string]How), err: make(map[string]error)}
	c, err := CompareTree(ctx, o, r)
	return c, r, err
}

// TestCompareTreeRandom compares random trees. The oracle is a comparison of both in memory.
func TestCompareTreeRandom(t *testing.T) {
	for seed := range uint64(3) {
		g := gardener{rand.New(rand.NewPCG(seed, 77)), t}
		source, target := t.TempDir(), t.TempDir()
		g.grow(source, 3)
		s := ServeTree(t, kwik.ServerRolePrimary, source, nil)
		if _, _, err := s.mirror(t.Context(), target); err != nil {
			t.Fatal(err)
		}
		for range 2 {
			if c, r, err := s.compare(t.Context(), target); err != nil || !c.Same() || c.Files != c.Equal {
				t.Fatalf("seed %d: %+v, %v, %v", seed, c, r.all, err)
			}
			g.change(target)
			want := make(map[string]How)
			here, there := snapshot(t, target), snapshot(t, source)
			for p, w := range there {
				h, ok := here[p]
				switch {
				case !ok:
					want[p] = Missing
				case h.mode.Type() != w.mode.Type() || h.content != w.content:
					want[p] = Differs
				}
			}
			for p := range here {
				if _, ok := there[p]; !ok {
					want[p] = Extra
				}
			}
			c, r, err := s.compare(t.Context(), target)
			if err != nil || !maps.Equal(r.all, want) || c.Same() != (len(want) == 0) {
				t.Errorf("seed %d: %v, %v, want %v", seed, r.all, err, want)
			}
			if _, _, err := s.mirror(t.Context(), target, deleting); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// TestCompareTree compares a tree with entries of all types, with and without a filter.
func TestCompareTree(t *testing.T) {
	source, target := t.TempDir(), t.TempDir()
	for _, root := range []string{source, target} {
		transfertest.Put(t, filepath.Join(root, "same"), "same")
		transfertest.Put(t, filepath.Join(root, "differs"), "as "+root[len(root)-3:])
		os.Mkdir(filepath.Join(root, "dir"), 0o755)
		os.Symlink("same", filepath.Join(root, "link"))
	}
	transfertest.Put(t, filepath.Join(source, "dir", "missing"), "x")
	transfertest.Put(t, filepath.Join(target, "dir", "extra"), "x")
	transfertest.Put(t, filepath.Join(source, "longer"), "123")
	transfertest.Put(t, filepath.Join(target, "longer"), "1234")
	transfertest.Put(t, filepath.Join(source, "file"), "x")
	os.Mkdir(filepath.Join(target, "file"), 0o755)
	transfertest.Put(t, filepath.Join(target, "file", "in"), "x")
	os.Mkdir(filepath.Join(source, "none"), 0o755)
	transfertest.Put(t, filepath.Join(source, "none", "deep"), "x")
	os.Symlink("same", filepath.Join(source, "turned"))
	os.Symlink("differs", filepath.Join(target, "turned"))
	os.Symlink("/etc/passwd", filepath.Join(source, "outside"))
	transfertest.Mkfifo(filepath.Join(source, "fifo"))
	transfertest.Put(t, filepath.Join(target, ".kwikcp-0123456789abcdef0123.part"), "a part")
	s := ServeTree(t, kwik.ServerRolePrimary, source, nil)
	c, r, err := s.compare(t.Context(), target)
	want := map[string]How{
		"differs": Differs, "dir/missing": Missing, "dir/extra": Extra, "longer": Differs, "file": Differs,
		"none": Missing, "none/deep": Missing, "turned": Differs, "outside": Skipped, "fifo": Skipped, "file/in": Extra,
	}
	if err != nil || !maps.Equal(r.all, want) {
		t.Errorf("%v, %v, want %v", r.all, err, want)
	}
	counts := fmt.Sprint(c.Files, c.Equal, c.Bytes, c.Differ, c.Missing, c.Extra, c.Skipped, c.Failed)
	if counts != "6 1 4 4 3 2 2 0" {
		t.Errorf("counts %s", counts)
	}
	if got := r.err["longer"].Error(); got != "it has 4 bytes here, not 3" {
		t.Error(got)
	}
	_, r, err = s.compare(t.Context(), target, func(o *CompareTreeOptions) {
		o.Filter.Add(false, "/dir/")
		o.Filter.Add(true, "*e")
		o.Filter.Add(false, "*")
	})
	want = map[string]How{"file": Differs, "none": Missing, "outside": Skipped}
	if err != nil || !maps.Equal(r.all, want) {
		t.Errorf("%v, %v, want %v", r.all, err, want)
	}
}

// TestCompareTreeFails checks that an entry that cannot be read fails alone, on either side.
func TestCompareTreeFails(t *testing.T) {
	source, target := t.TempDir(), t.TempDir()
	for _, root := range []string{source, target} {
		transfertest.Put(t, filepath.Join(root, "good"), "good")
		transfertest.Put(t, filepath.Join(root, "bad"), "bad")
	}
	s := ServeTree(t, kwik.ServerRolePrimary, source, nil)
	_, r, err := s.compare(t.Context(), target, func(o *CompareTreeOptions) {
		o.OpenTree = func(path string, create bool) (disk.TreeDir, error) {
			d, err := disk.OpenTree(path, create)
			return unreadable{d}, err
		}
	})
	wantKind(t, err, KindLocal, "input/output error")
	if want := map[string]How{"bad": Failed}; !maps.Equal(r.all, want) {
		t.Errorf("%v, want %v", r.all, want)
	}
	_, _, err = s.compare(t.Context(), filepath.Join(target, "none"))
	wantKind(t, err, KindLocal, "no such file or directory")
	_, _, err = s.compare(t.Context(), target, func(o *CompareTreeOptions) { o.URL.Path = "good" })
	wantKind(t, err, KindNotFound, "it is a file, not a directory")
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(errGone)
	if _, _, err = s.compare(ctx, target); err != errGone {
		t.Error(err)
	}
}

// TestCompareLostFound checks that lost+found of either side is no difference, as for a mirror.
func TestCompareLostFound(t *testing.T) {
	source, target := t.TempDir(), t.TempDir()
	putAll(t, source, "a", "lost+found/#1")
	putAll(t, target, "a", "lost+found/#2", "d/lost+found/#3")
	compare := func(unreadable string) (*treeDifferences, error) {
		s := ServeTree(t, kwik.ServerRolePrimary, source, func(d disk.TreeDir) disk.TreeDir {
			return unreadableTree{d, unreadable}
		})
		_, r, err := s.compare(t.Context(), target)
		return r, err
	}
	r, err := compare("lost+found")
	if want := map[string]How{"d": Extra}; err != nil || !maps.Equal(r.all, want) {
		t.Errorf("%v, %v, want %v", r.all, err, want)
	}

	// Another directory that the server cannot read fails alone: what is extra elsewhere is told.
	putAll(t, source, "secret/x")
	putAll(t, target, "secret/x")
	os.RemoveAll(filepath.Join(source, "lost+found"))
	r, err = compare("secret")
	wantKind(t, err, KindNotFound, "the server cannot read it")
	if want := map[string]How{"d": Extra, "secret": Failed}; !maps.Equal(r.all, want) {
		t.Errorf("%v, want %v", r.all, want)
	}
}

// An unreadable directory has a file "bad" whose reads fail.
type unreadable struct{ disk.TreeDir }

func (d unreadable) Open(name string) (disk.File, error) {
	f, err := d.TreeDir.Open(name)
	if name == "bad" {
		f = faultyFile{f, &faults{fail: 1, with: syscall.EIO, only: []string{"read"}, stays: true}, name}
	}
	return f, err
}
