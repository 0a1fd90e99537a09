package transfer

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"kwikcp/kwik"
	"kwikcp/transfer/disk"
)

// A coarseDir keeps times of files in steps.
type coarseDir struct {
	disk.TreeDir
	step time.Duration
}

func (d coarseDir) Chtimes(name string, mtime time.Time) error {
	return d.TreeDir.Chtimes(name, mtime.Truncate(d.step))
}

func (d coarseDir) Sub(name string) (disk.TreeDir, error) {
	sub, err := d.TreeDir.Sub(name)
	return coarseDir{sub, d.step}, err
}

func (d coarseDir) At(name string) (disk.TreeDir, error) {
	sub, err := d.TreeDir.At(name)
	return coarseDir{sub, d.step}, err
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
				return coarseDir{d, c.step}, err
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
