package transfer

import (
	"errors"
	"kwikcp/kwik"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// mountAt mounts something in the target of a test until it ends. Only root may do that.
func mountAt(t *testing.T, what, at, fsType string, flags uintptr) {
	t.Helper()
	if err := unix.Mount(what, at, fsType, flags, ""); err != nil {
		t.Skipf("this test needs root, and mounts: %v", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(at, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
}

// TestMirrorOneFileSystem checks that with OneFileSystem a mirror leaves everything that is mounted
// in its target, and names it. Directories and files are mounted. The source has some of them, and
// a file or link in the place of others.
func TestMirrorOneFileSystem(t *testing.T) {
	source, target, elsewhere := t.TempDir(), t.TempDir(), t.TempDir()
	putAll(t, source, "listed/file", "listed/below/file", "over", "mountedfile", "plain", "deep/plain")
	if err := os.Symlink("plain", filepath.Join(source, "overlink")); err != nil {
		t.Fatal(err)
	}
	putAll(t, target, "listed/", "extra/", "deep/extra/", "gone/below/extra/", "gone/file", "over/", "overlink/",
		"mountedfile", "extrafile", "old")
	putAll(t, elsewhere, "file", "content")
	mounts := []string{"listed", "extra", "deep/extra", "gone/below/extra", "over", "overlink"}
	for _, at := range mounts {
		mountAt(t, "none", filepath.Join(target, at), "tmpfs", 0)
		putAll(t, target, at+"/mine", at+"/dir/mine", at+"/.kwikcp-abc.new")
	}
	files := []string{"mountedfile", "extrafile"}
	for _, at := range files {
		mountAt(t, filepath.Join(elsewhere, "file"), filepath.Join(target, at), "", unix.MS_BIND)
	}
	mounted := func() map[string]treeEntry {
		all := make(map[string]treeEntry)
		for _, at := range mounts {
			for name, e := range snapshot(t, filepath.Join(target, at)) {
				all[at+"/"+name] = e
			}
		}
		all["file"] = snapshot(t, elsewhere)["file"]
		return all
	}
	before := mounted()
	s := ServeTree(t, kwik.ServerRolePrimary, source, nil)
	for _, step := range []struct {
		what    string
		change  func(*MirrorOptions)
		deleted int64
	}{
		{"dry run", func(o *MirrorOptions) { o.DryRun = true }, 2},
		{"first", func(*MirrorOptions) {}, 2},
		{"again", func(o *MirrorOptions) { o.Quick = true }, 0},
		{"staged", func(o *MirrorOptions) { o.Stage = true }, 0},
		{"with specials", func(o *MirrorOptions) { o.Specials = true }, 0},
	} {
		r, reports, err := s.mirror(t.Context(), target, deleting, step.change, func(o *MirrorOptions) {
			o.OneFileSystem = true
		})
		if err != nil {
			t.Errorf("%s: %v, %+v", step.what, err, reports.files)
		}
		for _, at := range append(files, mounts...) {
			if f := reports.of(at); len(f) != 1 || f[0].Action != FileSkipped || !errors.Is(f[0].Err, ErrElsewhere) {
				t.Errorf("%s: %q is reported as %+v", step.what, at, f)
			}
		}
		if r.Skipped != int64(len(mounts)+len(files)) || r.Deleted != step.deleted {
			t.Errorf("%s: %d skipped, %d deleted: %+v", step.what, r.Skipped, r.Deleted, reports.files)
		}
		after := mounted()
		for name, e := range before {
			if after[name] != e {
				t.Errorf("%s: %q was %v, is %v", step.what, name, e, after[name])
			}
		}
		if len(after) != len(before) {
			t.Errorf("%s: %d entries are mounted, were %d", step.what, len(after), len(before))
		}
	}
	for name, isThere := range map[string]bool{"plain": true, "deep/plain": true, "old": false, "gone/file": false} {
		if _, err := os.Lstat(filepath.Join(target, name)); (err == nil) != isThere {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestMirrorOverMount checks that without OneFileSystem a mirror enters a file system that is
// mounted in its target. Names of one file on both sides of it are separate files, and counted.
func TestMirrorOverMount(t *testing.T) {
	source, target := t.TempDir(), t.TempDir()
	putAll(t, source, "sub/a", "b")
	relink(t, source, "sub/a", "c")
	putAll(t, target, "sub/")
	mountAt(t, "none", filepath.Join(target, "sub"), "tmpfs", 0)
	putAll(t, target, "sub/extra")
	s := ServeTree(t, kwik.ServerRolePrimary, source, nil)
	for round := range 2 {
		r, reports, err := s.mirror(t.Context(), target, deleting)
		if err != nil || r.NotKept != (NotKept{HardLinks: 1}) {
			t.Fatalf("%+v, %v, %+v", r, err, reports.files)
		}
		if n := r.Fetched + r.Copied; round == 1 && n != 0 {
			t.Errorf("again: %+v", r)
		}
	}
	wantTree(t, target, snapshot(t, source))
}
