package transfer

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"kwikcp/kwik"
	"kwikcp/transfer/disk"
)

// A coarseDir keeps times of files in steps.
type coarseDir struct {
	disk.TreeDir
	step time.Duration
	set  *[]string // names whose times were set
}

func (d coarseDir) Chtimes(name string, mtime time.Time) error {
	if d.set != nil {
		*d.set = append(*d.set, name)
	}
	return d.TreeDir.Chtimes(name, mtime.Truncate(d.step))
}

func (d coarseDir) Unwrap() disk.TreeDir { return d.TreeDir }

func (d coarseDir) Sub(name string) (disk.TreeDir, error) {
	sub, err := d.TreeDir.Sub(name)
	return coarseDir{sub, d.step, d.set}, err
}

func (d coarseDir) At(name string) (disk.TreeDir, error) {
	sub, err := d.TreeDir.At(name)
	return coarseDir{sub, d.step, d.set}, err
}

// A quick round trusts files whose times the target's file system keeps coarsely, and only there.
func TestMirrorWindow(t *testing.T) {
	source := t.TempDir()
	path := filepath.Join(source, "f")
	changed := time.Date(2024, 5, 6, 7, 8, 9, 987_654_321, time.UTC)
	put := func(content string, mtime time.Time) {
		t.Helper()
		if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(path, mtime, mtime); err != nil {
			t.Fatal(err)
		}
	}
	s := ServeTree(t, kwik.ServerRolePrimary, source, nil)
	for _, c := range []struct {
		step, given time.Duration
		later       time.Duration // by which another content of the same size is newer
		sees        bool
	}{
		{step: 1, later: 1, sees: true},
		{step: 1, later: time.Second, given: time.Second},
		{step: time.Second, later: 1500 * time.Millisecond, sees: true},
		{step: 2 * time.Second, later: 2500 * time.Millisecond, sees: true},
	} {
		target := filepath.Join(t.TempDir(), "copy")
		options := func(o *MirrorOptions) {
			o.Quick, o.ModifyWindow = true, c.given
			o.OpenTree = func(path string, create bool) (disk.TreeDir, error) {
				d, err := disk.OpenTree(path, create)
				return coarseDir{d, c.step, nil}, err
			}
		}
		put("one", changed)
		if r, _, err := s.mirror(t.Context(), target, options); err != nil || r.Fetched != 1 {
			t.Fatalf("%+v: %+v, %v", c, r, err)
		}
		put("ONE", changed) // found by a comparison alone
		if r, _, err := s.mirror(t.Context(), target, options); err != nil || r.Fetched != 0 || r.UpToDate != 1 {
			t.Errorf("%+v: the file was compared: %+v, %v", c, r, err)
		}
		put("two", changed.Add(c.later))
		if r, _, err := s.mirror(t.Context(), target, options); err != nil || r.Fetched == 1 != c.sees {
			t.Errorf("%+v, a change: %+v, %v", c, r, err)
		}
	}
}

// TestMirrorWindowIsStable checks that no round sets times again that the target's file system
// keeps coarsely. Nor does a round copy a file of several names for that.
func TestMirrorWindowIsStable(t *testing.T) {
	source, target := t.TempDir(), filepath.Join(t.TempDir(), "copy")
	changed := time.Date(2024, 5, 6, 7, 8, 9, 987_654_321, time.UTC)
	put(t, source, "dir/file", "file")
	put(t, source, "dir/linked", "linked")
	relink(t, source, "dir/linked", "other")
	for _, name := range []string{"dir/file", "dir/linked", "dir"} {
		if err := os.Chtimes(filepath.Join(source, name), changed, changed); err != nil {
			t.Fatal(err)
		}
	}
	s := ServeTree(t, kwik.ServerRolePrimary, source, nil)
	for round := range 4 {
		var set []string
		r, _, err := s.mirror(t.Context(), target, func(o *MirrorOptions) {
			o.Quick = round%2 == 1
			o.OpenTree = func(path string, create bool) (disk.TreeDir, error) {
				d, err := disk.OpenTree(path, create)
				return coarseDir{d, time.Second, &set}, err
			}
		})
		if err != nil {
			t.Fatal(err)
		}
		isDir := func(name string) bool { return name == "dir" }
		if n := r.Fetched + r.Copied + r.HardLinked; round > 0 && (n > 0 || slices.ContainsFunc(set, isDir)) {
			t.Errorf("round %d: %+v, times were set of %q", round, r, set)
		}
	}
}

// TestMirrorUpdateWindow checks that a target whose file system rounds times up is not newer for
// that.
func TestMirrorUpdateWindow(t *testing.T) {
	source, target := t.TempDir(), t.TempDir()
	changed := time.Date(2024, 5, 6, 7, 8, 9, 987_654_321, time.UTC)
	put(t, source, "f", "new")
	put(t, target, "f", "old")
	s := ServeTree(t, kwik.ServerRolePrimary, source, nil)
	for later, isNewer := range map[time.Duration]bool{time.Second: false, 2 * time.Second: true} {
		if err := errors.Join(
			os.Chtimes(filepath.Join(source, "f"), changed, changed),
			os.WriteFile(filepath.Join(target, "f"), []byte("old"), 0o600),
			os.Chtimes(filepath.Join(target, "f"), changed, changed.Add(later)),
		); err != nil {
			t.Fatal(err)
		}
		r, _, err := s.mirror(t.Context(), target, func(o *MirrorOptions) {
			o.Update, o.ModifyWindow = true, time.Second
		})
		if err != nil || (r.Skipped == 1) != isNewer || (r.Fetched == 0) != isNewer {
			t.Errorf("%v later: %+v, %v", later, r, err)
		}
	}
}

func TestWindowOf(t *testing.T) {
	set := time.Date(2001, 2, 3, 4, 5, 7, 123_456_789, time.UTC)
	for step, want := range map[time.Duration]time.Duration{
		1: 0, 100: 99, time.Microsecond: 999, time.Millisecond: time.Millisecond - 1,
		10 * time.Millisecond: 10*time.Millisecond - 1, time.Second: time.Second - 1,
		2 * time.Second: 2*time.Second - 1,
	} {
		if got := windowOf(set, set.Truncate(step)); got != want {
			t.Errorf("steps of %v: %v, want %v", step, got, want)
		}
	}
	if got := windowOf(set, time.Now()); got != 0 {
		t.Errorf("times that are not kept: %v", got)
	}
}
