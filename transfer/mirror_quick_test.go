package transfer

import (
	"kwikcp/kwik"
	"kwikcp/transfer/disk"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"
)

// An openCounter counts the files that a server opens.
type openCounter struct {
	disk.TreeDir
	opened *atomic.Int64
}

func (d openCounter) Open(name string) (disk.File, error) {
	d.opened.Add(1)
	return d.TreeDir.Open(name)
}

func (d openCounter) Sub(name string) (disk.TreeDir, error) {
	sub, err := d.TreeDir.Sub(name)
	return openCounter{sub, d.opened}, err
}

func (d openCounter) At(name string) (disk.TreeDir, error) {
	sub, err := d.TreeDir.At(name)
	return openCounter{sub, d.opened}, err
}

// TestMirrorQuick checks that Quick trusts size and time: such a file is neither requested nor
// read, and gets the server's mode. Other files are compared as without Quick.
func TestMirrorQuick(t *testing.T) {
	source, target := t.TempDir(), filepath.Join(t.TempDir(), "copy")
	write := func(path, content string, mtime time.Time) {
		t.Helper()
		if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(path, mtime, mtime); err != nil {
			t.Fatal(err)
		}
	}
	then := time.Date(2020, 1, 2, 3, 4, 5, 678_000_000, time.UTC)
	for _, name := range []string{"same", "trusted", "mode", "later", "longer"} {
		write(filepath.Join(source, name), "content of "+name, then)
	}
	var opened atomic.Int64
	count := func(d disk.TreeDir) disk.TreeDir { return openCounter{d, &opened} }
	s := ServeTree(t, kwik.ServerRolePrimary, source, count)
	quick := func(o *MirrorOptions) { o.Quick = true }
	if _, _, err := s.mirror(t.Context(), target, quick); err != nil {
		t.Fatal(err)
	}
	write(filepath.Join(target, "trusted"), "CONTENT of trusted", then)
	write(filepath.Join(target, "later"), "CONTENT of later", then.Add(time.Nanosecond*1000))
	write(filepath.Join(target, "longer"), "content of longer!", then)
	if err := os.Chmod(filepath.Join(source, "mode"), 0o600); err != nil {
		t.Fatal(err)
	}
	r, reports, err := s.mirror(t.Context(), target, quick)
	if err != nil || r.Fetched != 2 || r.UpToDate != 3 {
		t.Errorf("%+v, %v", r, err)
	}
	for name, want := range map[string]FileAction{
		"same": FileUpToDate, "trusted": FileUpToDate, "mode": FileUpToDate, "later": FileFetched,
		"longer": FileFetched,
	} {
		if got := reports.action(name); got != want {
			t.Errorf("%s: %s, want %s", name, got, want)
		}
	}
	info, err := os.Stat(filepath.Join(target, "mode"))
	if err != nil || info.Mode() != 0o600 || !info.ModTime().Equal(then) {
		t.Errorf("%v, %v", info, err)
	}
	before := opened.Load()
	if r, _, err := s.mirror(t.Context(), target, quick); err != nil || r.UpToDate != 5 || opened.Load() != before {
		t.Errorf("%+v, %v, %d files were opened on the server", r, err, opened.Load()-before)
	}
	trusted, err := os.ReadFile(filepath.Join(target, "trusted"))
	if err != nil || string(trusted) != "CONTENT of trusted" {
		t.Errorf("%q, %v: it was read, or fetched", trusted, err)
	}
	if _, _, err := s.mirror(t.Context(), target); err != nil {
		t.Error(err)
	}
	wantTree(t, target, snapshot(t, source))
}
