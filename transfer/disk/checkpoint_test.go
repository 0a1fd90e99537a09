package disk

import (
	"os"
	"path/filepath"
	"testing"
)

// createFile returns a new, empty file in its own new directory, and its name.
func createFile(t *testing.T) (name string, f File) {
	t.Helper()
	name = filepath.Join(t.TempDir(), "f")
	d, err := OpenDir(filepath.Dir(name))
	if err != nil {
		t.Fatal(err)
	}
	if f, err = d.Create("f"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		f.Close()
		d.Close()
	})
	return name, f
}

// TestCheckpoint checks that Checkpoint does not change a file and fails for a closed one.
func TestCheckpoint(t *testing.T) {
	name, f := createFile(t)
	if _, err := f.WriteAt(make([]byte, 1<<20), 1<<20); err != nil {
		t.Fatal(err)
	}
	if err := f.Checkpoint(); err != nil {
		t.Error(err)
	}
	f.Close()
	if info, err := os.Stat(name); err != nil || info.Size() != 2<<20 {
		t.Errorf("%v, %v", info, err)
	}
}
