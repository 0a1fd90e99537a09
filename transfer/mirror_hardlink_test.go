package transfer

import (
	"fmt"
	"kwikcp/kwik"
	"kwikcp/transfer/disk"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// linkSets returns the names of a tree that are one file, as sets of at least two names.
func linkSets(t *testing.T, root string) (sets []string) {
	t.Helper()
	var names []string
	var infos []os.FileInfo
	all := snapshot(t, root)
	for p := range all {
		names = append(names, p)
	}
	slices.Sort(names)
	for _, name := range names {
		info, err := os.Lstat(filepath.Join(root, name))
		if err != nil {
			t.Fatal(err)
		}
		infos = append(infos, info)
	}
	done := make(map[int]bool)
	for i, name := range names {
		set := []string{name}
		for j := i + 1; j < len(names); j++ {
			if !done[j] && !infos[i].IsDir() && os.SameFile(infos[i], infos[j]) {
				set = append(set, names[j])
				done[j] = true
			}
		}
		if len(set) > 1 && !done[i] {
			sets = append(sets, strings.Join(set, " "))
		}
	}
	return sets
}

// relink makes one name of a tree another name of the same file as a second one.
func relink(t *testing.T, root, old, name string) {
	t.Helper()
	at := filepath.Join(root, name)
	os.MkdirAll(filepath.Dir(at), 0o755)
	os.Remove(at)
	if err := os.Link(filepath.Join(root, old), at); err != nil {
		t.Fatal(err)
	}
}

func put(t *testing.T, root, name, content string) {
	t.Helper()
	at := filepath.Join(root, name)
	os.MkdirAll(filepath.Dir(at), 0o755)
	if err := os.WriteFile(at, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
}

// wantSameTree compares contents, metadata and link sets of two trees.
func wantSameTree(t *testing.T, target, source string) {
	t.Helper()
	wantTree(t, target, snapshot(t, source))
	if got, want := linkSets(t, target), linkSets(t, source); !slices.Equal(got, want) {
		t.Errorf("these are one file each: %q, want %q", got, want)
	}
}

// TestMirrorHardLinks checks that the names of one file stay names of one file. Its content is
// fetched once, and a second round changes nothing.
func TestMirrorHardLinks(t *testing.T) {
	source, target := t.TempDir(), filepath.Join(t.TempDir(), "copy")
	large := strings.Repeat("0123456789abcdef", 200<<10/16)
	put(t, source, "a/large", large)
	relink(t, source, "a/large", "a/again")
	relink(t, source, "a/large", "z/deep/er/again")
	put(t, source, "empty", "")
	relink(t, source, "empty", "b/empty")
	put(t, source, "alone", "alone")
	os.Symlink("alone", filepath.Join(source, "link"))
	relink(t, source, "link", "link2")
	s := ServeTree(t, kwik.ServerRolePrimary, source, nil)
	result, reports, err := s.mirror(t.Context(), target)
	if err != nil || result.NotKept.Total() != 0 {
		t.Fatalf("%+v, %v, %+v", result, err, reports.files)
	}
	if result.Network > int64(len(large))+1000 || result.HardLinked != 3 || result.Files != 6 {
		t.Errorf("%d bytes fetched, %d linked, %d files; want about %d, 3, 6", result.Network, result.HardLinked,
			result.Files, len(large))
	}
	wantSameTree(t, target, source)
	for _, quick := range []bool{false, true} {
		again, reports, err := s.mirror(t.Context(), target, func(o *MirrorOptions) { o.Quick = quick })
		changes := again.Fetched + again.Made + again.Linked + again.HardLinked + again.Deleted
		if err != nil || changes+again.Network != 0 || again.UpToDate != 6 {
			t.Errorf("again: %+v, %v, %+v", again, err, reports.files)
		}
	}
	wantSameTree(t, target, source)
}

// TestMirrorHardLinksChange checks that a group of names that changes between rounds is mended.
// A link of the target that the source does not have is broken and never written through.
func TestMirrorHardLinksChange(t *testing.T) {
	for _, quick := range []bool{false, true} {
		source, target := t.TempDir(), filepath.Join(t.TempDir(), "copy")
		for i := range 6 {
			put(t, source, fmt.Sprintf("f%d", i), strings.Repeat("x", 1000+i))
		}
		relink(t, source, "f0", "d/f0")
		s := ServeTree(t, kwik.ServerRolePrimary, source, nil)
		round := func(what string) MirrorResult {
			t.Helper()
			result, reports, err := s.mirror(t.Context(), target, deleting, func(o *MirrorOptions) { o.Quick = quick })
			if err != nil {
				t.Fatalf("%s: %v, %+v", what, err, reports.files)
			}
			wantSameTree(t, target, source)
			return result
		}
		round("first")

		relink(t, source, "f1", "d/f0") // from one group to another
		relink(t, source, "f1", "new")
		round("another group")

		// Equal content and time: only the link tells them apart.
		content, _ := os.ReadFile(filepath.Join(source, "f1"))
		info, _ := os.Stat(filepath.Join(source, "f1"))
		os.Remove(filepath.Join(source, "new"))
		put(t, source, "new", string(content))
		os.Chtimes(filepath.Join(source, "new"), info.ModTime(), info.ModTime())
		if result := round("a file of its own"); result.Network > 0 {
			t.Errorf("%d bytes fetched that were in the target", result.Network)
		}

		relink(t, target, "f2", "f3") // in the target alone
		os.Chmod(filepath.Join(source, "f2"), 0o600)
		round("linked in the target")

		outside := filepath.Join(filepath.Dir(target), "outside")
		if err := os.Link(filepath.Join(target, "f4"), outside); err != nil {
			t.Fatal(err)
		}
		before, _ := os.Stat(outside)
		os.Chmod(filepath.Join(source, "f4"), 0o755)
		os.Chtimes(filepath.Join(source, "f4"), time.Time{}, time.Unix(1e9, 5))
		round("linked outside")
		if after, _ := os.Stat(outside); after.Mode() != before.Mode() || !after.ModTime().Equal(before.ModTime()) {
			t.Errorf("a name outside got %v of %v", after.Mode(), after.ModTime())
		}
		put(t, source, "f0", "changed")
		round("changed")
	}
}

// TestMirrorNoHardLinks checks that without hard links each name gets a separate file, and that
// the loss is counted.
func TestMirrorNoHardLinks(t *testing.T) {
	source := t.TempDir()
	put(t, source, "a", "content")
	relink(t, source, "a", "b")
	relink(t, source, "a", "c")
	s := ServeTree(t, kwik.ServerRolePrimary, source, nil)
	target := filepath.Join(t.TempDir(), "copy")
	result, _, err := s.mirror(t.Context(), target, func(o *MirrorOptions) { o.NoHardLinks = true })
	if err != nil || result.Fetched != 3 || result.NotKept.HardLinks != 2 {
		t.Errorf("%+v, %v", result, err)
	}
	wantTree(t, target, snapshot(t, source))
	if sets := linkSets(t, target); len(sets) > 0 {
		t.Errorf("linked: %q", sets)
	}
	result, _, err = s.mirror(t.Context(), target)
	if err != nil || result.HardLinked != 2 || result.NotKept.HardLinks != 0 {
		t.Errorf("with hard links: %+v, %v", result, err)
	}
	wantSameTree(t, target, source)
}

// TestMirrorRandomLinks mirrors random trees whose links change at random, over targets whose
// links change at random.
func TestMirrorRandomLinks(t *testing.T) {
	for seed := range uint64(2) {
		g := gardener{rand.New(rand.NewPCG(seed, 14)), t}
		source, target := t.TempDir(), filepath.Join(t.TempDir(), "copy")
		for i := range 30 {
			put(t, source, fmt.Sprintf("d%d/f%d", i%3, i), strings.Repeat("x", g.IntN(3)))
		}
		s := ServeTree(t, kwik.ServerRolePrimary, source, nil)
		for round := range 4 {
			for _, root := range []string{source, target} {
				for range 10 {
					i, j := g.IntN(30), g.IntN(30)
					if i != j && (round > 0 || root == source) {
						relink(t, root, fmt.Sprintf("d%d/f%d", i%3, i), fmt.Sprintf("d%d/f%d", j%3, j))
					}
				}
			}
			i := g.IntN(30)
			name := fmt.Sprintf("d%d/f%d", i%3, i)
			os.Remove(filepath.Join(source, name))
			put(t, source, name, strings.Repeat("y", g.IntN(3)))
			quick := func(o *MirrorOptions) { o.Quick = round%2 == 1 }
			_, reports, err := s.mirror(t.Context(), target, deleting, quick)
			if err != nil {
				t.Fatalf("seed %d, round %d: %v, %+v", seed, round, err, reports.files)
			}
			if round%2 == 0 { // with Quick a file of the same size and time is not read
				wantSameTree(t, target, source)
			}
		}
	}
}

// TestMirrorHardLinksAcross checks what a mirror does where names cannot be linked: it counts
// them.
func TestMirrorHardLinksAcross(t *testing.T) {
	source := t.TempDir()
	put(t, source, "a", "content")
	relink(t, source, "a", "b")
	s := ServeTree(t, kwik.ServerRolePrimary, source, nil)
	target := filepath.Join(t.TempDir(), "copy")
	result, reports, err := s.mirror(t.Context(), target, func(o *MirrorOptions) {
		o.OpenTree = openWithoutLinks
	})
	isRight := result.NotKept.HardLinks == 1 && result.Copied == 1 && result.Network <= 7
	if err != nil || !isRight {
		t.Errorf("%+v, %v, %+v", result, err, reports.files)
	}
	wantTree(t, target, snapshot(t, source))
}

// A linklessDir is a TreeDir of a system without hard links.
type linklessDir struct{ disk.TreeDir }

func openWithoutLinks(path string, create bool) (disk.TreeDir, error) {
	d, err := disk.OpenTree(path, create)
	return linklessDir{d}, err
}

func (d linklessDir) Sub(name string) (disk.TreeDir, error) {
	sub, err := d.TreeDir.Sub(name)
	return linklessDir{sub}, err
}
