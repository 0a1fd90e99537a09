package transfer

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"kwikcp/integrity"
	"kwikcp/internal/trust"
	"kwikcp/kwik"
	"kwikcp/transfer/disk"
	"kwikcp/transfer/internal/partfile"
	"kwikcp/transfer/internal/transfertest"
	"kwikcp/transfer/internal/wire"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// TestMirrorRandomTrees checks that a mirror turns any target into a copy of the tree. A second
// run changes no entry.
func TestMirrorRandomTrees(t *testing.T) {
	for seed := range uint64(3) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			g := gardener{rand.New(rand.NewPCG(seed, 7)), t}
			source, target := t.TempDir(), filepath.Join(t.TempDir(), "copy")
			g.grow(source, 4)
			s := ServeTree(t, kwik.ServerRolePrimary, source, nil)
			for round := range 3 {
				if round > 0 {
					g.change(source)
					g.change(target)
				}
				result, reports, err := s.mirror(t.Context(), target, deleting)
				if err != nil || result.Failed > 0 || result.Skipped > 0 {
					t.Fatalf("round %d: %+v, %v, %+v", round, result, err, reports.files)
				}
				wantTree(t, target, snapshot(t, source))
				again, _, err := s.mirror(t.Context(), target, deleting)
				changes := again.Fetched + again.Made + again.Linked + again.Deleted
				if err != nil || changes+again.Network != 0 || again.UpToDate != result.Files {
					t.Errorf("round %d, again: %+v, %v", round, again, err)
				}
				wantTree(t, target, snapshot(t, source))
			}
		})
	}
}

// TestMirrorInterrupted interrupts a mirror at many moments. Each file under a final name is
// whole, and the next mirror fetches the rest.
func TestMirrorInterrupted(t *testing.T) {
	source := t.TempDir()
	g := gardener{rand.New(rand.NewPCG(3, 3)), t}
	for i := range 60 {
		dir := filepath.Join(source, fmt.Sprint("d", i%4))
		os.MkdirAll(dir, 0o755)
		g.check(os.WriteFile(filepath.Join(dir, fmt.Sprint(i)), g.content(), 0o644))
	}
	want := snapshot(t, source)
	s := ServeTree(t, kwik.ServerRolePrimary, source, nil)
	for _, after := range []int64{1, 1 << 20, 5 << 20, 12 << 20} {
		target := filepath.Join(t.TempDir(), "copy")
		ctx, cancel := context.WithCancelCause(t.Context())
		written := int64(0)
		var mu sync.Mutex
		_, _, err := s.mirror(ctx, target, spied(&spy{write: func(n int) {
			mu.Lock()
			defer mu.Unlock()
			if written += int64(n); written >= after {
				cancel(errGone)
			}
		}}))
		if err != errGone {
			t.Fatalf("after %d bytes: %v", after, err)
		}
		for p, e := range snapshot(t, target) {
			if wire.IsTemporary(filepath.Base(p)) {
				if strings.HasSuffix(p, ".new") {
					t.Errorf("after %d bytes %q is left", after, p)
				}
				continue
			}
			if !e.mode.IsDir() && e.content != want[p].content {
				t.Errorf("after %d bytes %q is not whole", after, p)
			}
		}
		if _, _, err := s.mirror(t.Context(), target); err != nil {
			t.Fatal(err)
		}
		wantTree(t, target, want)
	}
}

var errGone = errors.New("gone")

// TestMirrorSyncsBeforeItRenames checks that a power cut cannot leave a name with part of its
// content. The mirror syncs each file, or its file system, between the last write and the
// rename.
func TestMirrorSyncsBeforeItRenames(t *testing.T) {
	source := t.TempDir()
	g := gardener{rand.New(rand.NewPCG(5, 5)), t}
	g.grow(source, 3)
	g.check(os.WriteFile(filepath.Join(source, "large"), make([]byte, 5<<20), 0o644))
	s := ServeTree(t, kwik.ServerRolePrimary, source, nil)
	for _, noVolumes := range []bool{false, true} {
		target := filepath.Join(t.TempDir(), "copy")
		var mu sync.Mutex
		dirty := make(map[string]bool)
		renamed, syncs := 0, 0
		unsynced := false
		_, _, err := s.mirror(t.Context(), target, spied(&spy{noVolumes: noVolumes, step: func(op, path string) error {
			mu.Lock()
			defer mu.Unlock()
			switch op {
			case "create", "write":
				dirty[path] = true
			case "sync":
				delete(dirty, path)
			case "syncvolume":
				syncs++
				clear(dirty)
				unsynced = false
			case "syncdir":
				syncs++
				unsynced = false
			case "rename":
				if dirty[path] {
					t.Errorf("%q is renamed before it is synced (volumes: %t)", path, !noVolumes)
				}
				if fileName := disk.Base(path); strings.HasSuffix(fileName, ".new") ||
					strings.HasSuffix(fileName, ".part") {
					renamed++
				}
				unsynced = true
			}
			return nil
		}}))
		if err != nil || renamed == 0 || syncs == 0 {
			t.Errorf("%v; %d renamed, %d syncs", err, renamed, syncs)
		}
		if unsynced && !noVolumes {
			t.Error("the last name is not synced")
		}
		wantTree(t, target, snapshot(t, source))
	}
}

// TestMirrorDeletes checks that a mirror deletes no excluded entry, and no entry at all after
// an incomplete listing.
func TestMirrorDeletes(t *testing.T) {
	source, target := t.TempDir(), t.TempDir()
	transfertest.Put(t, filepath.Join(source, "a"), "a")
	os.Mkdir(filepath.Join(source, "d"), 0o755)
	transfertest.Put(t, filepath.Join(source, "d", "b"), "b")
	grow := func() {
		for _, p := range []string{"x", "x.keep", "d/y", "gone/z", "gone/z.keep", "gone/deep/w", "gone2/v",
			"d/.kwikcp-00000000000000000000.part"} {
			os.MkdirAll(filepath.Dir(filepath.Join(target, p)), 0o755)
			transfertest.Put(t, filepath.Join(target, p), "old")
		}
		os.Symlink("/", filepath.Join(target, "root"))
		os.Chmod(filepath.Join(target, "gone2"), 0o500)
	}
	grow()
	s := ServeTree(t, kwik.ServerRolePrimary, source, nil)
	before := snapshot(t, target)
	keep := func(o *MirrorOptions) {
		if err := o.Filter.Add(false, "*.keep"); err != nil {
			t.Fatal(err)
		}
	}
	result, reports, err := s.mirror(t.Context(), target, deleting, keep, func(o *MirrorOptions) { o.DryRun = true })
	if err != nil || result.Deleted != 9 || result.Fetched != 2 {
		t.Errorf("dry: %+v, %v, %+v", result, err, reports.files)
	}
	wantTree(t, target, before)
	result, reports, err = s.mirror(t.Context(), target, deleting, keep)
	if err != nil || result.Deleted != 9 || result.Fetched != 2 {
		t.Errorf("%+v, %v, %+v", result, err, reports.files)
	}
	want := snapshot(t, source)
	for p, e := range before {
		if strings.HasSuffix(p, ".keep") || p == "gone" {
			want[p] = e
		}
	}
	got := snapshot(t, target)
	want["gone"] = got["gone"] // its time is new
	wantTree(t, target, want)
	if _, err := os.Stat("/"); err != nil {
		t.Fatal("oh no")
	}

	if os.Geteuid() == 0 {
		return // for whom nothing is unreadable
	}
	grow()
	defer os.Chmod(filepath.Join(target, "gone2"), 0o700) // so that it can be cleaned up
	os.Mkdir(filepath.Join(source, "secret"), 0o000)
	result, _, err = s.mirror(t.Context(), target, deleting, keep)
	if err == nil || result.Deleted != 0 {
		t.Errorf("a listing with a hole: %+v, %v", result, err)
	}
}

// TestMirrorFoldedNames mirrors names that differ only in case to a file system that ignores
// case. The first name wins, and the mirror reports the others.
func TestMirrorFoldedNames(t *testing.T) {
	source, target := t.TempDir(), t.TempDir()
	transfertest.Put(t, filepath.Join(source, "README"), "large")
	transfertest.Put(t, filepath.Join(source, "readme"), "small")
	s := ServeTree(t, kwik.ServerRolePrimary, source, nil)
	_, reports, err := s.mirror(t.Context(), target, func(o *MirrorOptions) {
		o.OpenTree = func(path string, create bool) (disk.TreeDir, error) {
			d, err := disk.OpenTree(path, create)
			return foldingDir{d}, err
		}
	})
	if e, ok := errors.AsType[*Error](err); !ok || e.Kind != KindExists {
		t.Errorf("%v", err)
	}
	if reports.action("README") != FileFetched || reports.action("readme") != FileFailed {
		t.Errorf("%+v", reports.files)
	}
	transfertest.WantContent(t, filepath.Join(target, "README"), "large")

	// A file with another spelling of the name is not deleted: it is the one that was fetched.
	os.Remove(filepath.Join(source, "readme"))
	os.Rename(filepath.Join(target, "README"), filepath.Join(target, "ReadMe"))
	transfertest.Put(t, filepath.Join(target, "other"), "other")
	result, reports, err := s.mirror(t.Context(), target, deleting, func(o *MirrorOptions) {
		o.OpenTree = func(path string, create bool) (disk.TreeDir, error) {
			d, err := disk.OpenTree(path, create)
			return foldingDir{d}, err
		}
	})
	if err != nil || result.Deleted != 1 || reports.action("ReadMe") != "" {
		t.Errorf("%+v, %v, %+v", result, err, reports.files)
	}
}

// A foldingDir finds its lock file whatever the case.
type foldingDir struct{ disk.TreeDir }

func (d foldingDir) Lstat(name string) (fs.FileInfo, error) {
	if strings.EqualFold(name, mirrorLock) {
		name = mirrorLock
	}
	return d.TreeDir.Lstat(name)
}

// TestMirrorFromPartsOfTheTree checks that secondaries with parts of the tree serve these
// parts.
func TestMirrorFromPartsOfTheTree(t *testing.T) {
	source := t.TempDir()
	g := gardener{rand.New(rand.NewPCG(9, 9)), t}
	for i := range 120 {
		g.check(os.WriteFile(filepath.Join(source, fmt.Sprintf("%03d", i)), g.content(), 0o644))
	}
	primary := ServeTree(t, kwik.ServerRolePrimary, source, nil)
	for n := range 2 {
		root := t.TempDir()
		for i := range 120 {
			name := fmt.Sprintf("%03d", i)
			content, err := os.ReadFile(filepath.Join(source, name))
			g.check(err)
			switch {
			case i%3 == n: // missing
				continue
			case i%7 == 0: // stale, with another time
				content = bytes.Clone(content)
				for j := range content {
					content[j]++
				}
			case i%11 == 0:
				content = content[:len(content)/2]
			}
			g.check(os.WriteFile(filepath.Join(root, name), content, 0o644))
			if i%5 == 0 && i%7 != 0 {
				info, _ := os.Stat(filepath.Join(source, name))
				os.Chtimes(filepath.Join(root, name), time.Time{}, info.ModTime())
			}
		}
		s := ServeTree(t, kwik.ServerRoleSecondary, root, nil)
		if _, err := s.l.Join(t.Context(), primary.Addr, kwik.JoinConfig{Token: joinToken}); err != nil {
			t.Fatal(err)
		}
	}
	target := filepath.Join(t.TempDir(), "copy")
	result, _, err := primary.mirror(t.Context(), target)
	if err != nil || result.Fetched != 120 {
		t.Fatalf("%+v, %v", result, err)
	}
	wantTree(t, target, snapshot(t, source))
	for _, s := range result.Servers {
		if s.State == ServerBanned {
			t.Errorf("%+v", s)
		}
	}
}

// TestMirrorKeepsFewPartsOpen mirrors with more part files than may be open. The mirror closes
// and reopens them.
func TestMirrorKeepsFewPartsOpen(t *testing.T) {
	d, err := disk.OpenTree(t.TempDir(), false)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	reports := &mirrorReports{}
	m := &mirror{
		report: reports, request: newRequest(URL{}, nil, 0, 0, nil, nil, reports), root: d,
		cache: disk.NewDirCache(d), runID: "test", opened: partfile.NewPool(maxOpenParts),
		volumes: make(map[uint64]disk.Volume)}
	defer m.cache.Close()
	content := make([]byte, 3*integrity.DefaultGroupSize.Bytes())
	rand.NewChaCha8([32]byte{4}).Read(content)
	tree, err := integrity.Build(t.Context(), bytes.NewReader(content), int64(len(content)), integrity.DefaultGroupSize,
		nil)
	if err != nil {
		t.Fatal(err)
	}
	top := &mirrorDir{users: 1}
	var files []*mirrorFile
	for i := range 3 * maxOpenParts {
		name := fmt.Sprint(i)
		m.retainDir(top)
		files = append(files, &mirrorFile{entry: Entry{Path: name}, name: name, dir: top, tree: tree,
			manifest: Manifest{Size: tree.Size(), Mode: 0o644, MTime: time.Unix(1, 0)}})
	}
	place := m.startPlacer()
	for part := range int64(3) {
		for _, f := range files {
			group := tree.GroupSize().Bytes()
			m.write(f, content[part*group:][:group], part*group, place)
		}
		if n := m.opened.Len(); n > maxOpenParts {
			t.Errorf("%d part files are open", n)
		}
	}
	place.finish()
	for _, v := range m.volumes {
		v.Close()
	}
	if m.result.Fetched != int64(len(files)) || m.result.Failed != 0 {
		t.Errorf("%+v, %v", m.result, m.worst)
	}
	names, err := d.Names(10_000)
	if err != nil || len(names) != len(files) {
		t.Errorf("%d names, %v", len(names), err)
	}
	for _, f := range files {
		file, err := d.Open(f.name)
		if err != nil {
			t.Fatal(err)
		}
		if same, err := partfile.Matches(t.Context(), file, tree.Size(), tree, nil); !same || err != nil {
			t.Errorf("%s: %t, %v", f.name, same, err)
		}
		file.Close()
	}
}

// TestMirrorDry checks that a dry run does not create an absent target.
func TestMirrorDry(t *testing.T) {
	source := t.TempDir()
	transfertest.Put(t, filepath.Join(source, "a"), "a")
	os.Mkdir(filepath.Join(source, "d"), 0o755)
	os.Symlink("a", filepath.Join(source, "l"))
	s := ServeTree(t, kwik.ServerRolePrimary, source, nil)
	parent := t.TempDir()
	result, reports, err := s.mirror(t.Context(), filepath.Join(parent, "copy"), deleting,
		func(o *MirrorOptions) { o.DryRun = true })
	if err != nil {
		t.Error(err)
	}
	if result.Fetched != 1 || result.Made != 1 || result.Linked != 1 {
		t.Errorf("%+v, %+v", result, reports.files)
	}
	wantNames(t, parent)
}

// TestListPages checks that List and Mirror get the same tree from many pages as from few.
func TestListPages(t *testing.T) {
	source := t.TempDir()
	var want []string
	for i := range 40 {
		d := fmt.Sprintf("d%02d", i)
		os.Mkdir(filepath.Join(source, d), 0o755)
		want = append(want, d)
		for j := range 300 {
			p := fmt.Sprintf("%s/%03d", d, j)
			if err := os.WriteFile(filepath.Join(source, p), nil, 0o644); err != nil {
				t.Fatal(err)
			}
			want = append(want, p)
		}
	}
	s := ServeTree(t, kwik.ServerRolePrimary, source, nil)
	var got []string
	o := ListOptions{MirrorSource: MirrorSource{URL: URL{Host: s.Addr}, TLS: trust.PinnedClientConfig(nil, s.Pin)},
		Recursive: true}
	err := List(t.Context(), o, func(e Entry, _ *Manifest) error {
		got = append(got, e.Path)
		return nil
	})
	if err != nil || len(want) <= listPage || !slices.Equal(got, want) {
		t.Errorf("%d entries, want %d, %v", len(got), len(want), err)
	}
}
