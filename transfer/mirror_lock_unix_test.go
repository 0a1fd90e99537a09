//go:build unix

package transfer

import (
	"errors"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"kwikcp/kwik"
	"kwikcp/transfer/internal/transfertest"
)

// TestMirrorLockName checks that a mirror neither blocks nor fails if something else has the name
// of its lock file. It may be in the target, below it or above it. A directory that is not empty
// stays, and the error names it.
func TestMirrorLockName(t *testing.T) {
	source := t.TempDir()
	os.Mkdir(filepath.Join(source, "d"), 0o755)
	transfertest.Put(t, filepath.Join(source, "d", "file"), "content")
	s := ServeTree(t, kwik.ServerRolePrimary, source, nil)
	for name, put := range map[string]func(path string) error{
		"FIFO":             func(path string) error { return syscall.Mkfifo(path, 0o600) },
		"link to nothing":  func(path string) error { return os.Symlink("nothing", path) },
		"link to a dir":    func(path string) error { return os.Symlink("/", path) },
		"empty directory":  func(path string) error { return os.Mkdir(path, 0o700) },
		"file without use": func(path string) error { return os.WriteFile(path, []byte("x"), 0) },
		"two names": func(path string) error {
			return errors.Join(os.WriteFile(path+"x", nil, 0o600), os.Link(path+"x", path))
		},
		"directory": func(path string) error { return os.MkdirAll(filepath.Join(path, "sub"), 0o700) },
	} {
		for _, at := range []string{".", "target", "target/d"} {
			above := t.TempDir()
			target := filepath.Join(above, "target")
			os.MkdirAll(filepath.Join(target, "d"), 0o755)
			lock := filepath.Join(above, at, mirrorLock)
			if err := put(lock); err != nil {
				t.Fatal(err)
			}
			hangs := time.AfterFunc(time.Minute, func() { panic("the mirror blocks: " + name + " in " + at) })
			_, _, err := s.mirror(t.Context(), target, deleting)
			hangs.Stop()
			if at != "target" || name != "directory" {
				transfertest.WantContent(t, filepath.Join(target, "d", "file"), "content")
				if err != nil {
					t.Errorf("%s in %s: %v", name, at, err)
				}
				continue
			}
			wantKind(t, err, KindLocal, "directory not empty")
			if e, ok := errors.AsType[*LockError](err); !ok || e.Path != lock {
				t.Errorf("%s in %s: %v", name, at, err)
			}
			if _, err := os.Lstat(filepath.Join(lock, "sub")); err != nil {
				t.Error(err)
			}
		}
	}
}
