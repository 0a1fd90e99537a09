package transfer

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"kwikcp/kwik"
	"kwikcp/transfer/disk"
	"kwikcp/transfer/internal/partfile"
	"kwikcp/transfer/internal/transfertest"
)

// TestMirrorRemovesParts checks that a mirror without Delete removes the part files of names that
// the source no longer has. It keeps those in use, and those of files that the filter excludes or
// that are too young. It keeps those in other directories, and what only looks like a part file.
func TestMirrorRemovesParts(t *testing.T) {
	source, target := t.TempDir(), t.TempDir()
	put := func(root, path string) {
		t.Helper()
		at := filepath.Join(root, path)
		os.MkdirAll(filepath.Dir(at), 0o755)
		transfertest.Put(t, at, "content of "+path)
		if err := os.Chmod(at, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, path := range []string{"a", "x.tmp", "young", "d/b", "some/c", "some/rest"} {
		put(source, path)
	}
	old := time.Now().Add(-time.Hour)
	for _, path := range []string{"a", "x.tmp", "d/b", "some/c", "some/rest"} {
		os.Chtimes(filepath.Join(source, path), old, old)
	}
	part := func(path string) string {
		return filepath.Join(filepath.Dir(path), partName(filepath.Base(path)))
	}
	kept := []string{part("held"), part("x.tmp"), part("young"), ".kwikcp-notes", ".kwikcp-A.part", part("mine/own")}
	left := func(path string) string { return strings.TrimSuffix(part(path), ".part") + "-run1.new" }
	for _, path := range append([]string{
		part("gone"), part("d/gone"), part("a"), left("gone2"), left("d/b"), left("d/gone") + "/sub/file",
	}, kept...) {
		put(target, path)
	}
	dir, err := disk.OpenDir(target)
	if err != nil {
		t.Fatal(err)
	}
	held, err := partfile.Place{Dir: dir, Name: "held"}.Open(partfile.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer held.Leave()
	s := ServeTree(t, kwik.ServerRolePrimary, source, nil)
	some := func(o *MirrorOptions) {
		o.MinAge = time.Minute
		o.Filter.Add(false, "*.tmp")
	}
	dry := func(o *MirrorOptions) { o.DryRun = true }
	before := namesBelow(t, target)
	if _, _, err := s.mirror(t.Context(), target, some, dry); err != nil || namesBelow(t, target) != before {
		t.Errorf("a dry run: %v, %s", err, namesBelow(t, target))
	}
	result, reports, err := s.mirror(t.Context(), target, some)
	if err != nil || result.Deleted != 0 || result.Fetched != 4 {
		t.Errorf("%+v, %v, %+v", result, err, reports.files)
	}
	there := strings.Fields(namesBelow(t, target))
	for _, path := range append([]string{"a", "d/b", "some/c", "some/rest"}, kept...) {
		if !strings.Contains(" "+strings.Join(there, " ")+" ", " "+path+" ") {
			t.Errorf("%q is gone", path)
		}
	}
	if want := 4 + len(kept); len(there) != want {
		t.Errorf("%d files are left, want %d: %q", len(there), want, there)
	}
}

// TestMirrorLeavesNoParts checks that a part file is used or removed, whatever becomes of its file.
// The file may replace a directory, be another name of a file, be empty by now, or be newer in the
// target.
func TestMirrorLeavesNoParts(t *testing.T) {
	full := func(at string) error { // a directory
		return errors.Join(os.Mkdir(at, 0o755), os.WriteFile(filepath.Join(at, "inner"), []byte("inner"), 0o644))
	}
	newer := func(at string) error { return os.WriteFile(at, []byte("newer"), 0o644) }
	const group, large = 64 << 10, 200_000
	tests := []struct {
		name     string
		size     int64
		isLinked bool                  // it is the second name of a file
		prepare  func(at string) error // puts something in its place
		network  int64                 // bytes that are fetched of it
		isKept   bool                  // the target keeps its own entry
	}{
		{"over a directory", large, false, full, large % group, false},
		{"small, over a directory", 10, false, full, 0, false},
		{"linked", large, true, nil, 0, false},
		{"linked, over a directory", large, true, full, 0, false},
		{"empty", 0, false, nil, 0, false},
		{"empty, over a directory", 0, false, full, 0, false},
		{"newer", large, false, newer, 0, true},
	}
	for _, c := range tests {
		for _, stage := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, staged %t", c.name, stage), func(t *testing.T) {
				source, target := t.TempDir(), t.TempDir()
				content := strings.Repeat("0123456789", large/10)
				name, at := "b", filepath.Join(source, "b")
				transfertest.Put(t, at, content[:c.size])
				old := time.Now().Add(-time.Hour)
				os.Chtimes(at, old, old)
				first := int64(0) // bytes of the first name
				if c.isLinked {
					if err := os.Link(at, filepath.Join(source, "a")); err != nil {
						t.Fatal(err)
					}
					first = c.size
				}
				left := filepath.Join(target, partName(name))
				if err := os.WriteFile(left, []byte(content[:large/group*group]), 0o600); err != nil {
					t.Fatal(err)
				}
				if c.prepare != nil {
					if err := c.prepare(filepath.Join(target, name)); err != nil {
						t.Fatal(err)
					}
				}
				s := ServeTree(t, kwik.ServerRolePrimary, source, nil)
				result, _, err := s.mirror(t.Context(), target, deleting, func(o *MirrorOptions) {
					o.Stage, o.Update = stage, c.isKept
				})
				if err != nil || result.Network != first+c.network {
					t.Errorf("%v, %d bytes were fetched, want %d", err, result.Network, first+c.network)
				}
				if _, err := os.Lstat(left); !errors.Is(err, fs.ErrNotExist) {
					t.Errorf("the part file is left: %v", err)
				}
				if !c.isKept {
					wantTree(t, target, snapshot(t, source))
				}
			})
		}
	}
}

// TestMirrorAdopts checks that the files that a killed mirror had ready are not fetched again, but
// verified: one of them has wrong bytes.
func TestMirrorAdopts(t *testing.T) {
	source, target := t.TempDir(), filepath.Join(t.TempDir(), "copy")
	for _, name := range []string{"a", "b", "c"} {
		transfertest.Put(t, filepath.Join(source, name), strings.Repeat(name, 300_000))
	}
	s := ServeTree(t, kwik.ServerRolePrimary, source, nil)
	killed := t.TempDir()
	var once sync.Once
	_, _, err := s.mirror(t.Context(), target, staged, spied(&spy{step: func(op, path string) error {
		waits, _ := filepath.Glob(filepath.Join(target, ".kwikcp-*.new"))
		if len(waits) < 3 || op != "rename" {
			return nil
		}
		once.Do(func() {
			for i, from := range waits {
				content, err := os.ReadFile(from)
				if content[0] == 'c' {
					content[len(content)-1] = 'x'
				}
				written := os.WriteFile(filepath.Join(killed, filepath.Base(from)), content, 0o664)
				if err != nil || written != nil {
					t.Error(i, err, written)
				}
			}
		})
		return nil
	}}))
	if err != nil {
		t.Fatal(err)
	}
	result, _, err := s.mirror(t.Context(), killed, staged)
	if last := int64(300_000 % (64 << 10)); err != nil || result.Network != last {
		t.Errorf("%d bytes were fetched, want %d: %+v, %v", result.Network, last, result, err)
	}
	wantTree(t, killed, snapshot(t, source))
}

// TestMirrorKeepsMoved checks that a file that was moved on the server stays under its old name
// until it is in place under the new one.
func TestMirrorKeepsMoved(t *testing.T) {
	source, target := t.TempDir(), filepath.Join(t.TempDir(), "copy")
	os.Mkdir(filepath.Join(source, "d"), 0o755)
	old := time.Now().Add(-time.Hour)
	for i, name := range []string{"renamed", "d/moved", "young", "gone", "small"} {
		at, mtime := filepath.Join(source, name), old.Add(time.Duration(i)*time.Second)
		transfertest.Put(t, at, strings.Repeat(name, 1000))
		if err := os.Chtimes(at, mtime, mtime); err != nil {
			t.Fatal(err)
		}
	}
	s := ServeTree(t, kwik.ServerRolePrimary, source, nil)
	if _, _, err := s.mirror(t.Context(), target, deleting); err != nil {
		t.Fatal(err)
	}
	for from, to := range map[string]string{"renamed": "new", "d/moved": "moved", "young": "young2"} {
		if err := os.Rename(filepath.Join(source, from), filepath.Join(source, to)); err != nil {
			t.Fatal(err)
		}
	}
	os.Remove(filepath.Join(source, "gone"))
	now := time.Now()
	os.Chtimes(filepath.Join(source, "young2"), now, now)
	os.Chtimes(filepath.Join(target, "young"), now, now)
	minAge := func(o *MirrorOptions) { o.MinAge = time.Minute }
	names := map[string]bool{partfile.NewName("new", ""): true, partfile.NewName("moved", ""): true}
	isNew := func(path string) bool { // the names of runs differ
		return names[filepath.Base(path)[:len(".kwikcp-")+20]+"-.new"]
	}
	fails := spied(&spy{step: func(op, path string) error {
		if op == "create" && len(filepath.Base(path)) > 30 && isNew(path) {
			return context.DeadlineExceeded
		}
		return nil
	}})
	result, reports, err := s.mirror(t.Context(), target, deleting, minAge, fails)
	wantKind(t, err, KindLocal, "deadline exceeded")
	if result.Failed != 2 || result.Deleted != 1 || result.Skipped != 4 {
		t.Errorf("%+v, %v, %+v", result, err, reports.files)
	}
	if got, want := namesBelow(t, target), "d/moved renamed small young"; got != want {
		t.Errorf("the target has %s, not %s", got, want)
	}
	for _, path := range []string{"renamed", "d/moved", "young"} {
		if of := reports.of(path); len(of) != 1 || of[0].Action != FileSkipped || of[0].Err != ErrMoved {
			t.Errorf("%q: %+v", path, of)
		}
	}
	result, reports, err = s.mirror(t.Context(), target, deleting)
	if err != nil || result.Copied != 3 || result.Deleted != 3 {
		t.Errorf("%+v, %v, %+v", result, err, reports.files)
	}
	wantTree(t, target, snapshot(t, source))
}
