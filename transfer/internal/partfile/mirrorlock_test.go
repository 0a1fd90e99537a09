package partfile

import (
	"io/fs"
	"kwikcp/transfer/disk"
	"os"
	"path/filepath"
	"syscall"
	"testing"
)

// closedDir is a directory whose files cannot be opened.
type closedDir struct {
	disk.Dir
	err error
}

func (d closedDir) Open(string) (disk.File, error)     { return nil, d.err }
func (d closedDir) OpenPart(string) (disk.File, error) { return nil, d.err }

// TestIsHeld checks who is taken for the owner of a file.
func TestIsHeld(t *testing.T) {
	path := t.TempDir()
	dir, err := disk.OpenDir(path)
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	for name, mode := range map[string]fs.FileMode{"free": 0o600, "held": 0o600, "final": 0, "foreign": 0o622} {
		p := filepath.Join(path, name)
		if err := os.WriteFile(p, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(p, mode); err != nil {
			t.Fatal(err)
		}
	}
	held, err := dir.OpenPart("held")
	if err != nil {
		t.Fatal(err)
	}
	defer held.Close()
	if ok, err := held.TryLock(); !ok {
		t.Fatal(err)
	}
	for _, c := range []struct {
		d    disk.Dir
		name string
		held bool
		err  error
	}{
		{dir, "free", false, nil},
		{dir, "held", true, nil},
		{dir, "none", false, nil},
		{closedDir{dir, syscall.EACCES}, "final", false, nil}, // left by a transfer that was killed before its rename
		{closedDir{dir, syscall.EACCES}, "foreign", true, nil},
		{closedDir{dir, syscall.EIO}, "free", false, syscall.EIO},
		{closedDir{dir, syscall.EMFILE}, "free", false, syscall.EMFILE},
	} {
		if held, err := IsHeld(c.d, c.name); held != c.held || err != c.err {
			t.Errorf("%q: held %t, %v, want %t, %v", c.name, held, err, c.held, c.err)
		}
	}
}
