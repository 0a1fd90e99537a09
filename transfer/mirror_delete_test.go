package transfer

import (
	"errors"
	"fmt"
	"kwikcp/kwik"
	"kwikcp/transfer/disk"
	"kwikcp/transfer/internal/partfile"
	"kwikcp/transfer/internal/transfertest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// putAll writes files, and the directories that they are in. A name that ends with a slash is an
// empty directory.
func putAll(t *testing.T, root string, names ...string) {
	t.Helper()
	for _, name := range names {
		at := filepath.Join(root, name)
		if strings.HasSuffix(name, "/") {
			if err := os.MkdirAll(at, 0o755); err != nil {
				t.Fatal(err)
			}
			continue
		}
		if err := os.MkdirAll(filepath.Dir(at), 0o755); err != nil {
			t.Fatal(err)
		}
		transfertest.Put(t, at, "content of "+name)
	}
}

func numbered(format string, n int) (names []string) {
	for i := range n {
		names = append(names, fmt.Sprintf(format, i))
	}
	return names
}

// TestAttackMirrorEmptiesTarget deletes after a source that lost its files. Unless the caller
// allows it, nothing is deleted. New files of the source are fetched.
func TestAttackMirrorEmptiesTarget(t *testing.T) {
	exclude := func(pattern string) func(*MirrorOptions) {
		return func(o *MirrorOptions) { o.Filter.Add(false, pattern) }
	}
	atMost := func(text string) func(*MirrorOptions) {
		return func(o *MirrorOptions) {
			var err error
			if o.MaxDelete, err = ParseDeleteLimit(text); err != nil {
				t.Fatal(err)
			}
		}
	}
	listed := func(paths string) func(*MirrorOptions) {
		return func(o *MirrorOptions) {
			var err error
			if o.Paths, err = ParsePathList([]byte(paths), false); err != nil {
				t.Fatal(err)
			}
		}
	}
	lost := 0
	for _, c := range []struct {
		name           string
		source, target []string
		change         []func(*MirrorOptions)
		deleted, of    int64 // counts of the error; 0 for no error
		then           int64 // number of entries that are deleted without an error
	}{
		{name: "empty", target: []string{"a", "d/b"}, deleted: 3, of: 3},
		{name: "not mounted", source: []string{"lost+found/"}, target: []string{"a"}, deleted: 1, of: 1},
		{name: "all excluded", source: []string{"x.tmp"}, target: []string{"a"},
			change: []func(*MirrorOptions){exclude("*.tmp")}, deleted: 1, of: 1},
		{name: "nothing to lose", target: []string{"a"}, change: []func(*MirrorOptions){exclude("a")}},
		{name: "small", source: []string{"a"}, target: numbered("%d", 9), then: 9},
		{name: "half", source: numbered("%d", 5), target: numbered("%d", 10), then: 5},
		{name: "most", source: numbered("%d", 4), target: numbered("%d", 10), deleted: 6, of: 10},
		{name: "deep", source: []string{"a", "b", "new"}, target: append(numbered("d/e/%d", 10), "a", "b"),
			deleted: 12, of: 14},
		{name: "protected is not lost", source: []string{"new"},
			target: append(numbered("d/%d.keep", 6), numbered("%d", 6)...),
			change: []func(*MirrorOptions){exclude("*.keep")}, then: 6},
		{name: "another file in its place", source: numbered("%d", 10), target: numbered("%d/x", 10),
			deleted: 20, of: 20},
		{name: "excluded does not count", source: append(numbered("%d", 4), "x.keep"),
			target: append(append(numbered("%d", 10), numbered("%d.keep", 90)...), numbered("d.keep/%d", 90)...),
			change: []func(*MirrorOptions){exclude("*.keep")}, deleted: 6, of: 10},
		{name: "not in the list does not count", source: append(numbered("d/%d", 3), numbered("%d", 90)...),
			target: append(numbered("d/%d", 9), numbered("%d", 90)...),
			change: []func(*MirrorOptions){listed("d")}, deleted: 6, of: 10},
		{name: "excluded in a lost directory", source: numbered("%d", 9),
			target: append(numbered("%d", 9), append(numbered("d/%d", 12), numbered("d/%d.keep", 90)...)...),
			change: []func(*MirrorOptions){exclude("*.keep")}, deleted: 12, of: 22},
		{name: "allowed", target: numbered("%d", 20), change: []func(*MirrorOptions){atMost("100%")}, then: 20},
		{name: "allowed by number", target: numbered("%d", 20), change: []func(*MirrorOptions){atMost("20")}, then: 20},
		{name: "too many", source: numbered("%d", 18), target: numbered("%d", 20),
			change: []func(*MirrorOptions){atMost("1")}, deleted: 2, of: 20},
		{name: "too large a share", source: numbered("%d", 18), target: numbered("%d", 20),
			change: []func(*MirrorOptions){atMost("9%")}, deleted: 2, of: 20},
		{name: "none", source: numbered("%d", 18), target: numbered("%d", 19),
			change: []func(*MirrorOptions){atMost("0")}, deleted: 1, of: 19},
	} {
		source, target := t.TempDir(), t.TempDir()
		putAll(t, source, c.source...)
		putAll(t, target, c.target...)
		s := ServeTree(t, kwik.ServerRolePrimary, source, nil)
		before := snapshot(t, target)
		change := append([]func(*MirrorOptions){func(o *MirrorOptions) { o.Delete = true }}, c.change...)
		result, reports, err := s.mirror(t.Context(), target, change...)
		if c.deleted == 0 {
			if err != nil || result.Deleted != c.then {
				t.Errorf("%s: %d deleted, want %d: %v", c.name, result.Deleted, c.then, err)
			}
			continue
		}
		limit, ok := errors.AsType[*DeleteLimitError](err)
		if !ok || limit.Deleted != c.deleted || limit.Of != c.of {
			t.Errorf("%s: error %v, %+v, want %d of %d", c.name, err, reports.files, c.deleted, c.of)
		}
		if result.Deleted != 0 {
			t.Errorf("%s: %d deleted", c.name, result.Deleted)
		}
		if e, ok := errors.AsType[*Error](err); !ok || e.Kind != KindDeleteLimit {
			t.Errorf("%s: error %v", c.name, err)
		}
		after := snapshot(t, target)
		for p := range before {
			if _, ok := after[p]; !ok {
				lost++
			}
		}
		for _, p := range c.source {
			_, err := os.Stat(filepath.Join(target, p))
			if err != nil && reports.action(p) != "" {
				t.Errorf("%s: %q is not fetched: %v", c.name, p, err)
			}
		}
	}
	if lost > 0 {
		t.Errorf("%d entries are lost", lost)
	}
}

// TestMirrorBackup checks that everything that a mirror deletes or replaces is in the backup, with
// content, mode and time. In one run the backup is linked, in the other copied.
func TestMirrorBackup(t *testing.T) {
	for _, linked := range []bool{true, false} {
		source, top := t.TempDir(), t.TempDir()
		target, kept := filepath.Join(top, "copy"), filepath.Join(top, "kept")
		putAll(t, source, "same", "changed", "wasfile/x", "waslink/y", "wasdir", "d/e/changed", "link", "big")
		putAll(t, target, "gone", "gone2/a/b", "gone2/empty/", "wasfile", "wasdir/deep/z", "link")
		transfertest.Put(t, filepath.Join(source, "big"), strings.Repeat("new", 1<<20))
		transfertest.Put(t, filepath.Join(target, "big"), strings.Repeat("old", 1<<20))
		putAll(t, target, "d/e/changed")
		for _, p := range []string{"changed", "d/e/changed"} {
			transfertest.Put(t, filepath.Join(target, p), "old "+p)
		}
		for _, err := range []error{
			os.Symlink("nowhere", filepath.Join(target, "waslink")), os.Chmod(filepath.Join(target, "gone"), 0o640),
			os.Chtimes(filepath.Join(target, "gone"), transfertest.SomeTime, transfertest.SomeTime),
			os.Remove(filepath.Join(source, "link")), os.Symlink("same", filepath.Join(source, "link")),
		} {
			if err != nil {
				t.Fatal(err)
			}
		}
		info, err := os.Stat(filepath.Join(source, "same"))
		if err != nil {
			t.Fatal(err)
		}
		transfertest.Put(t, filepath.Join(target, "same"), "content of same")
		os.Chtimes(filepath.Join(target, "same"), info.ModTime(), info.ModTime())
		before := snapshot(t, target)
		s := ServeTree(t, kwik.ServerRolePrimary, source, nil)
		backing := func(o *MirrorOptions) {
			o.BackupDir = kept
			if linked {
				o.OpenTree = nil
			}
		}
		_, reports, err := s.mirror(t.Context(), target, deleting, backing)
		if err != nil {
			t.Fatalf("linked %t: %v, %+v", linked, err, reports.files)
		}
		wantTree(t, target, snapshot(t, source))
		want := make(map[string]treeEntry)
		got := snapshot(t, kept)
		for p, e := range before {
			if !e.mode.IsDir() && p != "same" {
				want[p] = e
			}
		}
		for p, e := range got {
			if e.mode.IsDir() {
				want[p] = e
			}
		}
		wantTree(t, kept, want)

		// A later backup replaces an earlier one of the same name.
		transfertest.Put(t, filepath.Join(target, "gone"), "again")
		if _, _, err := s.mirror(t.Context(), target, deleting, backing); err != nil {
			t.Fatal(err)
		}
		transfertest.WantContent(t, filepath.Join(kept, "gone"), "again")

		// A file that cannot be kept is not deleted.
		transfertest.Put(t, filepath.Join(target, "wasdir2"), "mine")
		full := spied(&spy{step: func(op, path string) error {
			if op == "rename" && strings.HasSuffix(path, ".new") {
				return syscall.EROFS
			}
			return nil
		}})
		result, _, err := s.mirror(t.Context(), target, deleting, backing, full)
		if err == nil || result.Failed != 1 || result.Deleted != 0 {
			t.Errorf("linked %t: %+v, %v", linked, result, err)
		}
		transfertest.WantContent(t, filepath.Join(target, "wasdir2"), "mine")
		for p := range snapshot(t, kept) {
			if strings.HasSuffix(p, ".new") {
				t.Errorf("%q is left", p)
			}
		}
	}
}

// TestAttackMirrorBackupTypes backs up a name again and again that is by turns a file, a directory
// and a link. All that was ever there is in the backup.
func TestAttackMirrorBackupTypes(t *testing.T) {
	source, top := t.TempDir(), t.TempDir()
	target, kept := filepath.Join(top, "copy"), filepath.Join(top, "kept")
	putAll(t, source, "a")
	s := ServeTree(t, kwik.ServerRolePrimary, source, nil)
	failed := 0
	for round := range 7 {
		if err := os.MkdirAll(target, 0o755); err != nil {
			t.Fatal(err)
		}
		switch round % 3 {
		case 0:
			transfertest.Put(t, filepath.Join(target, "x"), fmt.Sprint(round))
		case 1:
			putAll(t, target, "x/deep/y")
		default:
			if err := os.Symlink(top, filepath.Join(target, "x")); err != nil {
				t.Fatal(err)
			}
		}
		_, _, err := s.mirror(t.Context(), target, deleting, func(o *MirrorOptions) {
			o.BackupDir, o.OpenTree = kept, nil
		})
		if err != nil {
			failed++
			t.Errorf("round %d: %v", round, err)
		}
		transfertest.WantNames(t, target, "a")
	}
	transfertest.WantNames(t, kept, "x", "x.~1~", "x.~2~", "x.~3~", "x.~4~")
	transfertest.WantContent(t, filepath.Join(kept, "x.~1~"), "0")
	transfertest.WantContent(t, filepath.Join(kept, "x.~2~", "deep", "y"), "content of x/deep/y")
	if failed > 0 {
		t.Errorf("%d entries could not be deleted", failed)
	}
}

// TestMirrorBackupNested refuses a backup inside the target, or around it, before it writes.
func TestMirrorBackupNested(t *testing.T) {
	source, top := t.TempDir(), t.TempDir()
	putAll(t, source, "a")
	target := filepath.Join(top, "copy")
	putAll(t, target, "b")
	if err := os.Symlink("copy", filepath.Join(top, "link")); err != nil {
		t.Fatal(err)
	}
	s := ServeTree(t, kwik.ServerRolePrimary, source, nil)
	for _, dir := range []string{target, top, filepath.Join(target, "old"), filepath.Join(top, "link", "old"), "/"} {
		_, _, err := s.mirror(t.Context(), target, deleting, func(o *MirrorOptions) { o.BackupDir = dir })
		if wantKind(t, err, KindLocal, "inside"); !errors.Is(err, errBackupNested) {
			t.Errorf("%s: %v", dir, err)
		}
	}
	transfertest.WantNames(t, target, "b")
}

// TestMirrorLostFound checks that lost+found of either side costs nothing.
func TestMirrorLostFound(t *testing.T) {
	source, target := t.TempDir(), t.TempDir()
	putAll(t, source, "a", "lost+found/#1")
	putAll(t, target, "old", "lost+found/#2", "d/lost+found/#3")
	s := ServeTree(t, kwik.ServerRolePrimary, source, func(d disk.TreeDir) disk.TreeDir {
		return unreadableTree{d, "lost+found"}
	})
	result, reports, err := s.mirror(t.Context(), target, deleting)
	if err != nil || result.Deleted != 1 || result.Failed+result.Skipped > 0 {
		t.Errorf("%+v, %v, %+v", result, err, reports.files)
	}
	for _, p := range []string{"lost+found/#2", "d/lost+found/#3"} {
		transfertest.WantContent(t, filepath.Join(target, p), "content of "+p)
	}
}

// An unreadableTree cannot open one of its directories.
type unreadableTree struct {
	disk.TreeDir
	name string
}

func (d unreadableTree) Sub(name string) (disk.TreeDir, error) {
	if name == d.name {
		return nil, os.ErrPermission
	}
	return d.TreeDir.Sub(name)
}

func (d unreadableTree) At(name string) (disk.TreeDir, error) {
	sub, err := d.TreeDir.At(name)
	if err != nil || name != "." {
		return sub, err
	}
	return unreadableTree{sub, d.name}, nil
}

// TestMirrorKeepsPartsOfOthers deletes around part files that other transfers hold, or that the
// filter excludes.
func TestMirrorKeepsPartsOfOthers(t *testing.T) {
	source, target := t.TempDir(), t.TempDir()
	putAll(t, source, "a", "d/b")
	const stale = ".kwikcp-00000000000000000000.part"
	putAll(t, target, stale, "d/"+stale, "gone/"+stale, "gone/x", "out/"+stale)
	held := []string{"held", "d/held", "gone/deep/held"}
	for _, p := range held {
		putAll(t, target, filepath.Dir(p)+"/")
		d, err := disk.OpenDir(filepath.Join(target, filepath.Dir(p)))
		if err != nil {
			t.Fatal(err)
		}
		part, err := partfile.Place{Dir: d, Name: filepath.Base(p)}.Open(partfile.Options{})
		if err != nil {
			t.Fatal(err)
		}
		defer part.Discard()
	}
	s := ServeTree(t, kwik.ServerRolePrimary, source, nil)
	exclude := func(o *MirrorOptions) { o.Filter.Add(false, "/out/") }
	result, reports, err := s.mirror(t.Context(), target, deleting, exclude)
	if err != nil || result.Deleted != 4 {
		t.Errorf("%+v, %v, %+v", result, err, reports.files)
	}
	var got []string
	for p, e := range snapshot(t, target) {
		if !e.mode.IsDir() {
			got = append(got, p)
		}
	}
	part := partfile.PartName("held")
	want := []string{"a", "d/b", "out/" + stale, part, "d/" + part, "gone/deep/" + part}
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("there are %q, want %q", got, want)
	}
}

// TestMirrorDeleteLimitHeld checks that entries that only stay because they may have moved count as
// entries of the target: six of ten would go.
func TestMirrorDeleteLimitHeld(t *testing.T) {
	source, target := t.TempDir(), filepath.Join(t.TempDir(), "copy")
	old := time.Now().Add(-time.Hour)
	for i := range 10 {
		at := filepath.Join(source, fmt.Sprint("f", i))
		transfertest.Put(t, at, strings.Repeat("x", 100+i))
		if err := os.Chtimes(at, old, old); err != nil {
			t.Fatal(err)
		}
	}
	s := ServeTree(t, kwik.ServerRolePrimary, source, nil)
	mirror := func() (MirrorResult, error) {
		aged := func(o *MirrorOptions) { o.Delete, o.MinAge = true, time.Minute }
		result, _, err := s.mirror(t.Context(), target, aged)
		return result, err
	}
	if _, err := mirror(); err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	for i := range 8 {
		at := filepath.Join(source, fmt.Sprint("f", i))
		if i >= 2 {
			os.Remove(at)
			continue
		}
		err := os.Mkdir(filepath.Join(source, fmt.Sprint("new", i)), 0o755)
		to := filepath.Join(source, fmt.Sprint("new", i), fmt.Sprint("f", i))
		if err = errors.Join(err, os.Rename(at, to), os.Chtimes(to, now, now)); err != nil {
			t.Fatal(err)
		}
	}
	result, err := mirror()
	e, ok := errors.AsType[*DeleteLimitError](err)
	if !ok || result.Deleted != 0 {
		t.Fatalf("%+v, %v", result, err)
	}
	if e.Deleted != 6 || e.Of != 8 {
		t.Errorf("%d of %d, want 6 of 8", e.Deleted, e.Of)
	}
}
