package transfer

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"kwikcp/kwik"
	"kwikcp/transfer/internal/transfertest"
)

// Files that have just changed on the server are left for a later mirror, and the copies that are
// there stay. A time that is far in the future does not hold a file back.
func TestMirrorMinAge(t *testing.T) {
	source, target := t.TempDir(), filepath.Join(t.TempDir(), "copy")
	age := map[string]time.Duration{
		"old": 2 * time.Hour, "young": time.Second, "soon": -time.Minute, "future": -24 * time.Hour,
	}
	write := func(content string) {
		for name, age := range age {
			path := filepath.Join(source, name)
			changed := time.Now().Add(-age)
			err := os.WriteFile(path, []byte(content+name), 0o644)
			if err = errors.Join(err, os.Chtimes(path, changed, changed)); err != nil {
				t.Fatal(err)
			}
		}
	}
	s := ServeTree(t, kwik.ServerRolePrimary, source, nil)
	aged := func(o *MirrorOptions) { o.MinAge, o.Delete = time.Hour, true }
	write("first ")
	for _, c := range []struct {
		change     func(*MirrorOptions)
		young, old FileAction
	}{
		{aged, FileSkipped, FileFetched},
		{func(*MirrorOptions) {}, FileFetched, FileUpToDate},
		{aged, FileSkipped, FileUpToDate},
	} {
		result, reports, err := s.mirror(t.Context(), target, c.change)
		if err != nil || result.Deleted > 0 {
			t.Fatalf("%+v, %v", result, err)
		}
		for name := range age {
			want := c.old
			if name == "young" || name == "soon" {
				want = c.young
			}
			if got := reports.action(name); got != want {
				t.Errorf("%s: %s, want %s", name, got, want)
			}
		}
	}
	write("second")
	if _, _, err := s.mirror(t.Context(), target, aged); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{"old": "secondold", "young": "first young"} {
		if got, err := os.ReadFile(filepath.Join(target, name)); err != nil || string(got) != want {
			t.Errorf("%s has %q, %v", name, got, err)
		}
	}
}

// A young file does not replace a directory either, whose entries would be gone. Nor is a file
// fetched that has changed since it was listed.
func TestAttackMirrorYoung(t *testing.T) {
	source, target := t.TempDir(), t.TempDir()
	putAll(t, source, "dir", "written", "last", "calm")
	putAll(t, target, "dir/mine", "written")
	long := time.Now().Add(-2 * time.Hour)
	s := ServeTree(t, kwik.ServerRolePrimary, source, nil)
	half := func(path string) []Checksum { // called after the listing
		if path == "written" || path == "last" {
			if err := os.WriteFile(filepath.Join(source, path), []byte("half"), 0o644); err != nil {
				t.Error(err)
			}
		}
		return nil
	}
	lost := 0
	for _, stage := range []bool{false, true} {
		for _, name := range []string{"written", "last", "calm"} {
			if err := os.Chtimes(filepath.Join(source, name), long, long); err != nil {
				t.Fatal(err)
			}
		}
		result, reports, err := s.mirror(t.Context(), target, func(o *MirrorOptions) {
			o.MinAge, o.Delete, o.Checksums, o.Stage = time.Hour, true, half, stage
		})
		if err != nil || result.Deleted > 0 {
			t.Errorf("%+v, %v", result, err)
		}
		for _, name := range []string{"dir", "written", "last"} {
			if reports.action(name) != FileSkipped {
				t.Errorf("%s is %s", name, reports.action(name))
				lost++
			}
		}
	}
	transfertest.WantContent(t, filepath.Join(target, "written"), "content of written")
	transfertest.WantNames(t, target, "dir", "written", "calm")
	transfertest.WantNames(t, filepath.Join(target, "dir"), "mine")
	if lost > 0 {
		t.Errorf("%d half-written files are put in place", lost)
	}
}
