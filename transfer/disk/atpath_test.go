package disk

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"testing"
)

// TestCheckPath moves, replaces and removes a directory that is open.
func TestCheckPath(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("an open directory can be neither moved nor removed on Windows")
	}
	top := t.TempDir()
	at, away := filepath.Join(top, "root"), filepath.Join(top, "away")
	do := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	do(os.Mkdir(at, 0o755))
	d, err := OpenTree(at, false)
	do(err)
	defer d.Close()
	check := func(what string, want error) {
		t.Helper()
		err := CheckPath(d, at)
		if !errors.Is(err, want) {
			t.Errorf("%s: error %v, want %v", what, err, want)
		}
		if pe, ok := errors.AsType[*fs.PathError](err); err != nil && (!ok || pe.Path != at) {
			t.Errorf("%s: the error %v does not name the path", what, err)
		}
	}
	check("unchanged", nil)
	do(os.WriteFile(filepath.Join(at, "f"), nil, 0o600))
	check("with a new file", nil)
	do(os.Rename(at, away))
	check("moved", ErrRemoved)
	do(os.WriteFile(at, nil, 0o600))
	check("a file in its place", ErrRemoved)
	do(os.Remove(at))
	do(os.Mkdir(at, 0o755))
	check("another directory in its place", ErrMoved)
	do(os.Remove(at))
	do(os.Symlink("away", at))
	check("a link to it in its place", nil)
	do(os.Remove(at))
	do(os.Symlink("nowhere", at))
	check("a link to nothing in its place", ErrRemoved)
	do(os.RemoveAll(away))
	check("removed", ErrRemoved)
}
