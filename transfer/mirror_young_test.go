package transfer

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"kwikcp/kwik"
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
