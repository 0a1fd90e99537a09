package transfer

import (
	"math"
	"os"
	"path/filepath"
	"testing"
	"time"

	"kwikcp/internal/trust"
	"kwikcp/kwik"
	"kwikcp/transfer/disk"
)

// Times that 64 bits of nanoseconds do not reach survive as others do. A file system may have
// others nearest to them: then those are compared.
func TestFarTimes(t *testing.T) {
	source, target := t.TempDir(), filepath.Join(t.TempDir(), "copy")
	names := map[string]time.Time{
		"first": time.Date(1, 1, 1, 0, 0, 0, 0, time.UTC), "old": time.Date(1905, 1, 2, 3, 4, 5, 678, time.UTC),
		"before": time.Unix(-1, 500_000_000), "epoch": time.Unix(0, 0),
		"end": time.Unix(math.MaxInt64/1_000_000_000+1, 1),
		"far": time.Date(2300, 1, 2, 3, 4, 5, 678, time.UTC), "last": time.Date(9999, 12, 31, 23, 59, 59, 1, time.UTC),
	}
	dir, err := disk.OpenTree(source, false)
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	if err := os.Mkdir(filepath.Join(source, "dir"), 0o755); err != nil {
		t.Fatal(err)
	}
	names["dir"] = names["far"]
	for name, at := range names {
		if name != "dir" {
			if err := os.WriteFile(filepath.Join(source, name), []byte(name), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		if err := dir.Chtimes(name, at); err != nil {
			t.Fatal(err)
		}
	}
	check := func(name, copied string) {
		t.Helper()
		a, errA := os.Stat(filepath.Join(source, name))
		b, errB := os.Stat(copied)
		if errA != nil || errB != nil {
			t.Fatal(errA, errB)
		}
		if !a.ModTime().Equal(b.ModTime()) {
			t.Errorf("%s has time %v, want %v", copied, b.ModTime().UTC(), a.ModTime().UTC())
		}
	}
	s := ServeTree(t, kwik.ServerRolePrimary, source, nil)
	if _, _, err := s.mirror(t.Context(), target, func(*MirrorOptions) {}); err != nil {
		t.Fatal(err)
	}
	for name := range names {
		check(name, filepath.Join(target, name))
	}
	result, _, err := s.mirror(t.Context(), target, func(o *MirrorOptions) { o.Quick, o.MinAge = true, time.Hour })
	if err != nil || result.UpToDate != result.Files {
		t.Errorf("not everything is up to date: %+v, %v", result, err)
	}
	got := filepath.Join(t.TempDir(), "got")
	_, err = Get(t.Context(), GetOptions{
		URL: URL{Host: s.Addr, Path: "far"}, TLS: trust.PinnedClientConfig(nil, s.Pin), Target: got,
	}, nil)
	if err != nil {
		t.Fatal(err)
	}
	check("far", got)
}
