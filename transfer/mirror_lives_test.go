package transfer

import (
	"errors"
	"fmt"
	"kwikcp/kwik"
	"kwikcp/transfer/disk"
	"kwikcp/transfer/internal/transfertest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
)

// The simulator found what the tests of this file check (transfer/sim, TestMirrorLives).

// TestMirrorBackupOfOtherType checks that a backup takes files whose names were directories
// when it took others, and the reverse, and keeps both.
func TestMirrorBackupOfOtherType(t *testing.T) {
	for _, linked := range []bool{true, false} {
		source, top := t.TempDir(), t.TempDir()
		target, kept := filepath.Join(top, "copy"), filepath.Join(top, "kept")
		s := ServeTree(t, kwik.ServerRolePrimary, source, nil)
		long := strings.Repeat("n", 255)
		states := [][]string{
			{"a", "b/c", "d/e/f", long},
			{"a/x/y", "b", "d/e", long + "/z"},
			{"a", "b/c/c", "d", long},
			{"a/x", "b", "d/e/f"},
		}
		for i, names := range append(states, nil) {
			for p := range snapshot(t, source) {
				os.RemoveAll(filepath.Join(source, p))
			}
			putAll(t, source, append([]string{"stays"}, names...)...)
			result, reports, err := s.mirror(t.Context(), target, deleting, func(o *MirrorOptions) {
				o.BackupDir = kept
				if linked {
					o.OpenTree = nil
				}
			})
			if err != nil {
				t.Fatalf("linked %t, mirror %d: %v, %+v, %+v", linked, i, err, result, reports.files)
			}
		}
		files := 0
		for p, e := range snapshot(t, kept) {
			if e.mode.IsRegular() {
				files++
			}
			if strings.HasPrefix(filepath.Base(p), ".kwikcp") {
				t.Errorf("%q is left", p)
			}
		}
		for _, p := range []string{
			"a/x", "a.~1~", "a.~2~/x/y", "a.~3~", "b", "b.~1~/c", "b.~2~", "b.~3~/c/c",
			"d/e/f", "d.~1~/e", "d.~1~/e.~1~/f", "d.~2~",
		} {
			if info, err := os.Stat(filepath.Join(kept, p)); err != nil || info.IsDir() {
				t.Errorf("linked %t: %q is not kept: %v", linked, p, err)
			}
		}
		if files != 15 {
			t.Errorf("linked %t: %d files are kept, want 15", linked, files)
		}
	}
}

// TestMirrorDeletesOnlyWhatItCounts checks that an entry that cannot be counted is not deleted,
// but named. Otherwise the limit would not hold once the error has passed.
func TestMirrorDeletesOnlyWhatItCounts(t *testing.T) {
	limit, _ := ParseDeleteLimit("3")
	for _, op := range []string{"openpart", "names"} {
		source, target := t.TempDir(), t.TempDir()
		putAll(t, source, "a")
		putAll(t, target, "a", "extra/1", "extra/2", "extra/3", "extra/4", "gone")
		s := ServeTree(t, kwik.ServerRolePrimary, source, nil)
		failed := false
		once := spied(&spy{step: func(done, path string) error {
			if done == op && strings.HasPrefix(path, "extra") && !failed {
				failed = true
				return syscall.EIO
			}
			return nil
		}})
		limited := func(o *MirrorOptions) { o.Delete, o.MaxDelete = true, limit }
		_, reports, err := s.mirror(t.Context(), target, once, limited)
		wantKind(t, err, KindLocal, "input/output error")
		if !failed || reports.action("extra") != FileFailed || reports.action("gone") != FileDeleted {
			t.Errorf("%s: %+v", op, reports.files)
		}
		transfertest.WantNames(t, filepath.Join(target, "extra"), "1", "2", "3", "4")
		_, _, err = s.mirror(t.Context(), target, limited)
		if _, ok := errors.AsType[*DeleteLimitError](err); !ok {
			t.Errorf("%s: %v", op, err)
		}
	}
}

// lockedDir is a directory of another user: entries in it are reached only once its mode has
// changed.
type lockedDir struct {
	disk.TreeDir
	modes *[]string // that were set
	open  *atomic.Bool
}

func (d lockedDir) Sub(name string) (disk.TreeDir, error) {
	if name == "extra" && !d.open.Load() {
		return nil, syscall.EACCES
	}
	return d.TreeDir.Sub(name)
}

func (d lockedDir) ChmodDir(name string, mode os.FileMode) error {
	if name == "extra" {
		*d.modes = append(*d.modes, fmt.Sprintf("%o", mode.Perm()))
		d.open.Store(mode&0o700 == 0o700)
	}
	return d.TreeDir.ChmodDir(name, mode)
}

// TestMirrorCountsUnreadable checks that the limit counts what is in directories that cannot be
// read. Their modes stay if nothing is deleted.
func TestMirrorCountsUnreadable(t *testing.T) {
	limit, _ := ParseDeleteLimit("3")
	source, target := t.TempDir(), t.TempDir()
	putAll(t, source, "a")
	putAll(t, target, "a", "extra/1", "extra/2", "extra/3")
	if err := os.Chmod(filepath.Join(target, "extra"), 0); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.Chmod(filepath.Join(target, "extra"), 0o700) })
	s := ServeTree(t, kwik.ServerRolePrimary, source, nil)
	var modes []string
	_, _, err := s.mirror(t.Context(), target, func(o *MirrorOptions) {
		o.Delete, o.MaxDelete = true, limit
		o.OpenTree = func(path string, create bool) (disk.TreeDir, error) {
			d, err := disk.OpenTree(path, create)
			return lockedDir{d, &modes, new(atomic.Bool)}, err
		}
	})
	if e, ok := errors.AsType[*DeleteLimitError](err); !ok || e.Deleted != 4 {
		t.Errorf("%v", err)
	}
	if !slices.Equal(modes, []string{"700", "0"}) {
		t.Errorf("the modes were %v", modes)
	}
}

// TestMirrorDeletesInPlaceOfExcluded checks that an entry that the filter includes is deleted,
// though the server has an excluded entry of another type with the same name.
func TestMirrorDeletesInPlaceOfExcluded(t *testing.T) {
	source, target := t.TempDir(), t.TempDir()
	putAll(t, source, "a", "private/x", "own/x")
	putAll(t, target, "a", "private", "own/mine")
	s := ServeTree(t, kwik.ServerRolePrimary, source, nil)
	result, _, err := s.mirror(t.Context(), target, deleting, func(o *MirrorOptions) {
		for _, text := range []string{"/private/", "/own/"} {
			if err := o.Filter.Add(false, text); err != nil {
				t.Fatal(err)
			}
		}
	})
	if err != nil || result.Deleted != 1 {
		t.Errorf("%+v, %v", result, err)
	}
	transfertest.WantNames(t, target, "a", "own")
	transfertest.WantNames(t, filepath.Join(target, "own"), "mine")
}

// replacingTree replaces a file when it is opened first.
type replacingTree struct {
	disk.TreeDir
	replace func()
}

func (d replacingTree) Open(name string) (disk.File, error) {
	if disk.Base(name) == "first" {
		d.replace()
	}
	return d.TreeDir.Open(name)
}

// TestMirrorLinksOnlyTheListedFile replaces the first name of a file between the listing and the
// request. The other name, which has not changed, must not get the content of another file.
func TestMirrorLinksOnlyTheListedFile(t *testing.T) {
	for _, stage := range []bool{false, true} {
		source, target := t.TempDir(), t.TempDir()
		first, second := filepath.Join(source, "first"), filepath.Join(source, "second")
		transfertest.Put(t, first, "one")
		if err := os.Link(first, second); err != nil {
			t.Skip(err)
		}
		var once sync.Once
		s := ServeTree(t, kwik.ServerRolePrimary, source, func(d disk.TreeDir) disk.TreeDir {
			return replacingTree{d, func() {
				once.Do(func() {
					os.Remove(first)
					transfertest.Put(t, first, "another")
				})
			}}
		})
		mirror := func(wantLinks int64) {
			t.Helper()
			result, _, err := s.mirror(t.Context(), target, func(o *MirrorOptions) { o.Stage = stage })
			if err != nil || result.HardLinked != wantLinks {
				t.Errorf("stage %t: %+v, %v", stage, result, err)
			}
			transfertest.WantContent(t, filepath.Join(target, "first"), "another")
			transfertest.WantContent(t, filepath.Join(target, "second"), "one")
		}
		mirror(0)
		mirror(0)
	}
}

// TestMirrorStagesWhileBytesArrive checks that a file may wait for the end of a mirror while
// other files of its batch still arrive.
func TestMirrorStagesWhileBytesArrive(t *testing.T) {
	onWire(t, func(w *testNet) {
		root, target := w.T.TempDir(), filepath.Join(w.T.TempDir(), "copy")
		for i := range 6 {
			transfertest.Put(w.T, filepath.Join(root, fmt.Sprint(i)), strings.Repeat(fmt.Sprint(i), 300_000))
		}
		dir, err := disk.OpenTree(root, false)
		if err != nil {
			w.T.Fatal(err)
		}
		defer dir.Close()
		w.serve(dir)
		conf := w.Client()
		conf.RateLimit = kwik.NewRateLimit(200_000) // bytes a second
		result, err := Mirror(w.Ctx, MirrorOptions{
			MirrorSource: MirrorSource{URL: URL{Host: transfertest.ServerAddr.String()}, TLS: w.TLS(), KWIK: conf},
			Target:       target, Stage: true,
		}, nil)
		if err != nil || result.Fetched != 6 {
			w.T.Errorf("%+v, %v", result, err)
		}
	})
}
