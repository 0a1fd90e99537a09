package transfer

import (
	"io/fs"
	"kwikcp/kwik"
	"kwikcp/transfer/disk"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
)

// A sickSource cannot read one of its entries, with a given error.
type sickSource struct {
	disk.TreeDir
	at, sick string
	err      error
}

func (d sickSource) fault(name string) error {
	if disk.JoinPath(d.at, name) == d.sick {
		return &fs.PathError{Op: "read", Path: name, Err: d.err}
	}
	return nil
}

func (d sickSource) Sub(name string) (disk.TreeDir, error) {
	sub, err := d.TreeDir.Sub(name)
	if err != nil {
		return nil, err
	}
	if err := d.fault(name); err != nil {
		sub.Close()
		return nil, err
	}
	return sickSource{sub, disk.JoinPath(d.at, name), d.sick, d.err}, nil
}

func (d sickSource) At(name string) (disk.TreeDir, error) {
	sub, err := d.TreeDir.At(name)
	if err != nil || name != "." {
		return sub, err
	}
	return sickSource{sub, d.at, d.sick, d.err}, nil
}

func (d sickSource) Lstat(name string) (fs.FileInfo, error) {
	info, err := d.TreeDir.Lstat(name)
	if err == nil && !info.IsDir() {
		err = d.fault(name)
	}
	return info, err
}

// TestAttackMirrorUnreadableEntry mirrors a source that cannot read one entry. It costs that entry,
// and the deletions in its directory. In a later quick round files are compared only if they failed.
func TestAttackMirrorUnreadableEntry(t *testing.T) {
	for _, errno := range []syscall.Errno{syscall.EACCES, syscall.EIO, syscall.ELOOP, syscall.ESTALE} {
		for _, sick := range []string{"b/bad", "b/file"} {
			source, target := t.TempDir(), t.TempDir()
			putAll(t, source, append(numbered("a/%02d", 20), "b/bad/x", "b/file", "b/good", "c")...)
			putAll(t, target, "a/gone", "b/held", "b/deep/gone", "gone/x", "b/bad/mine", "b/file")
			s := ServeTree(t, kwik.ServerRolePrimary, source, func(d disk.TreeDir) disk.TreeDir {
				return sickSource{d, "", sick, errno}
			})
			var mu sync.Mutex
			compared := 0
			counting := spied(&spy{step: func(op, path string) error {
				mu.Lock()
				defer mu.Unlock()
				if op == "open" {
					compared++
				}
				return nil
			}})
			recheck := make(map[string]bool)
			result, reports, err := s.mirrorTo(t.Context(), target, func(f FileReport) {
				if f.Action == FileFailed {
					recheck[f.Path] = true
				}
			}, deleting)
			if err == nil || result.Failed != 1 || reports.action(sick) != FileFailed || result.Fetched < 22 {
				t.Errorf("%s, %v: %+v, %v, %+v", sick, errno, result, err, reports.files)
			}
			for p, stays := range map[string]bool{
				"a/gone": false, "gone/x": false, "gone": false, "b/held": true, "b/deep/gone": true, "b/bad/mine": sick == "b/bad",
				"b/good": true, "c": true, "b/file": true,
			} {
				if _, err := os.Stat(filepath.Join(target, p)); (err == nil) != stays {
					t.Errorf("%s, %v: %q: %v", sick, errno, p, err)
				}
			}
			_, _, err = s.mirror(t.Context(), target, deleting, counting, func(o *MirrorOptions) {
				o.Quick, o.Recheck = true, recheck
			})
			if err == nil || compared > 1 {
				t.Errorf("%s, %v: the next round compares %d files: %v", sick, errno, compared, err)
			}
		}
	}
}

// TestMirrorRecheck compares files with the size and time of the source that are in Recheck.
func TestMirrorRecheck(t *testing.T) {
	source, target := t.TempDir(), t.TempDir()
	putAll(t, source, "a", "d/e/b", "d/c", "f")
	s := ServeTree(t, kwik.ServerRolePrimary, source, nil)
	if _, _, err := s.mirror(t.Context(), target); err != nil {
		t.Fatal(err)
	}
	rot := func() {
		for _, p := range []string{"a", "d/e/b", "d/c", "f"} {
			at := filepath.Join(target, p)
			info, err := os.Stat(at)
			if err != nil {
				t.Fatal(err)
			}
			b, _ := os.ReadFile(at)
			b[0]++
			if err := os.WriteFile(at, b, 0o600); err != nil {
				t.Fatal(err)
			}
			os.Chtimes(at, info.ModTime(), info.ModTime())
		}
	}
	for _, c := range []struct {
		recheck []string
		fetched int64
	}{{nil, 0}, {[]string{"a"}, 1}, {[]string{"d"}, 2}, {[]string{"d/e", "f"}, 2}, {[]string{"."}, 4}, {[]string{"x", "d/e/b/x"}, 0}} {
		rot()
		result, _, err := s.mirror(t.Context(), target, func(o *MirrorOptions) {
			o.Quick, o.Recheck = true, make(map[string]bool)
			for _, p := range c.recheck {
				o.Recheck[p] = true
			}
		})
		if err != nil || result.Fetched != c.fetched {
			t.Errorf("%q: %+v, %v, want %d fetched", c.recheck, result, err, c.fetched)
		}
		if _, _, err := s.mirror(t.Context(), target); err != nil {
			t.Fatal(err)
		}
	}
}
