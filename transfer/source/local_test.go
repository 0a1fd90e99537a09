package source

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"kwikcp/transfer/disk"
)

// A wrapped is a Dir around another one.
type wrapped struct{ Dir }

func (w wrapped) Unwrap() Dir { return w.Dir }

// TestLocal reads a local directory through the seam.
func TestLocal(t *testing.T) {
	top := t.TempDir()
	path := filepath.Join(top, "root")
	if err := os.MkdirAll(filepath.Join(path, "sub"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(path, "sub/file"), []byte("content"), 0o644); err != nil {
		t.Fatal(err)
	}
	open := func(path string) (disk.TreeDir, error) { return disk.OpenTree(path, false) }
	followed, err := disk.Follow(path, open, func(disk.FollowReport) {})
	if err != nil {
		t.Fatal(err)
	}
	root := Local(followed)
	defer root.Close()
	if f, err := root.Open(t.Context(), "missing"); f != nil || !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("%v, %v", f, err)
	}
	sub, err := root.Sub(t.Context(), "sub")
	if err != nil {
		t.Fatal(err)
	}
	defer sub.Close()
	f, err := sub.Open(t.Context(), "file")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	p := make([]byte, 7)
	if _, err := f.ReadAt(p, 0); err != nil || string(p) != "content" {
		t.Errorf("%q, %v", p, err)
	}
	if _, isSparse := f.(Sparse); !isSparse {
		t.Error("a local file does not know its holes")
	}
	if d, ok := LocalDir(wrapped{wrapped{root}}); !ok || d != disk.TreeDir(followed) {
		t.Error("the directory is not found in its wrappers")
	}
	if _, ok := LocalDir(wrapped{nil}); ok {
		t.Error("another root is local")
	}
	if err := root.Check(t.Context()); err != nil {
		t.Error(err)
	}
	os.Rename(path, path+"-gone")
	if err := root.Check(t.Context()); err == nil {
		t.Error("a root that is gone is readable")
	}
}
