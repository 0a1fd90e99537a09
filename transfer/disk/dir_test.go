package disk_test

import (
	"errors"
	"io/fs"
	"kwikcp/transfer/disk"
	"kwikcp/transfer/internal/transfertest"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

func TestDirOpensWhatIsInside(t *testing.T) {
	_, d := transfertest.OpenTreeWithTraps(t)
	for name, want := range map[string]string{
		"file": "content", "sub/deeper/file": "deep content", "inside": "content", "sub/up": "content",
		"dirlink/deeper/file": "deep content",
	} {
		f, err := d.Open(name)
		if err != nil {
			t.Errorf("Open(%q): %v", name, err)
			continue
		}
		got := make([]byte, len(want))
		if n, err := f.ReadAt(got, 0); err != nil || string(got[:n]) != want {
			t.Errorf("%q holds %q, %v", name, got[:n], err)
		}
		f.Close()
	}
}

// TestDirRefusesWithoutWaiting opens a FIFO without a writer. A blocking open would never
// return.
func TestDirRefusesWithoutWaiting(t *testing.T) {
	_, d := transfertest.OpenTreeWithTraps(t)
	for name, want := range map[string]error{
		"fifo":                   disk.ErrNotAFile,
		"sub":                    disk.ErrNotAFile,
		"dirlink":                disk.ErrNotAFile,
		".":                      disk.ErrNotAFile,
		"missing":                fs.ErrNotExist,
		"dangling":               fs.ErrNotExist,
		"file/x":                 syscall.ENOTDIR,
		"loop":                   syscall.ELOOP,
		strings.Repeat("n", 256): syscall.ENAMETOOLONG,
		"outside":                nil,
		"sub/outside":            nil,
		"absolute":               nil,
		"absoluteinside":         nil,
		"updir/secret":           nil,
		"updir":                  nil,
		"../secret":              nil,
		"sub/../../secret":       nil,
		"/etc/hostname":          nil,
		"":                       nil,
		"nul\x00":                nil,
	} {
		done := make(chan error, 1)
		go func() {
			f, err := d.Open(name)
			if err == nil {
				f.Close()
			}
			done <- err
		}()
		select {
		case err := <-done:
			if err == nil || want != nil && !errors.Is(err, want) {
				t.Errorf("Open(%q): %v, want %v", name, err, want)
			}
		case <-time.After(10 * time.Second):
			t.Fatalf("Open(%q) waits", name)
		}
	}
}

func TestDirOpensPartFilesThemselves(t *testing.T) {
	root, d := transfertest.OpenTreeWithTraps(t)
	for _, name := range []string{"inside", "outside", "dangling", "fifo", "sub"} {
		if f, err := d.OpenPart(name); !errors.Is(err, disk.ErrNotAFile) {
			t.Errorf("OpenPart(%q): %v, %v", name, f, err)
		}
	}
	f, err := d.OpenPart("file")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteAt([]byte("C"), 0); err != nil {
		t.Fatal(err)
	}
	transfertest.WantContent(t, filepath.Join(root, "file"), "Content")
}

func TestDirCreatesNothingTwice(t *testing.T) {
	_, d := transfertest.OpenTreeWithTraps(t)
	for _, name := range []string{"file", "sub", "inside", "dangling", "outside", "fifo"} {
		if f, err := d.Create(name); !errors.Is(err, fs.ErrExist) {
			t.Errorf("Create(%q): %v, %v", name, f, err)
		}
	}
	if f, err := d.Create("../escaped"); err == nil {
		t.Errorf("Create outside: %v", f)
	}
	if err := d.Rename("file", "../escaped"); err == nil {
		t.Error("Rename led outside")
	}
}

// TestDirLocks checks that locks are between open files, not between processes. One process can
// therefore run two transfers.
func TestDirLocks(t *testing.T) {
	_, d := transfertest.OpenTreeWithTraps(t)
	open := func() disk.File {
		f, err := d.OpenPart("file")
		if err != nil {
			t.Fatal(err)
		}
		return f
	}
	a, b := open(), open()
	defer b.Close()
	if ok, err := a.TryLock(); !ok || err != nil {
		t.Fatal(ok, err)
	}
	if ok, err := b.TryLock(); ok || err != nil {
		t.Fatal(ok, err)
	}
	a.Close()
	if ok, err := b.TryLock(); !ok || err != nil {
		t.Fatal("the lock outlived its file:", ok, err)
	}
}

func TestVersionOf(t *testing.T) {
	root, d := transfertest.OpenTreeWithTraps(t)
	path := filepath.Join(root, "file")
	version := func() disk.Version {
		info, err := d.Stat("file")
		if err != nil {
			t.Fatal(err)
		}
		return disk.VersionOf(info)
	}
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	before := version()
	if again := version(); again != before {
		t.Errorf("unchanged, but %+v became %+v", before, again)
	}
	// Another file of the same size and time in its place.
	transfertest.Put(t, path+".new", "CONTENT")
	if err := errors.Join(os.Chtimes(path+".new", info.ModTime(), info.ModTime()),
		os.Rename(path+".new", path)); err != nil {
		t.Fatal(err)
	}
	if version() == before {
		t.Error("a file of the same size and time took its place unnoticed")
	}
}
