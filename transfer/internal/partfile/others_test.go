package partfile

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"kwikcp/transfer/disk"
	"kwikcp/transfer/internal/transfertest"
)

// A stickyDir has a file that this user can neither open nor remove nor rename.
type stickyDir struct {
	disk.Dir
	other string
}

func (d stickyDir) refuse(op, name string, err error) error {
	if name != d.other {
		return nil
	}
	return &fs.PathError{Op: op, Path: name, Err: err}
}

func (d stickyDir) Open(name string) (disk.File, error) {
	if err := d.refuse("open", name, syscall.EACCES); err != nil {
		return nil, err
	}
	return d.Dir.Open(name)
}

func (d stickyDir) OpenPart(name string) (disk.File, error) {
	if err := d.refuse("open", name, syscall.EACCES); err != nil {
		return nil, err
	}
	return d.Dir.OpenPart(name)
}

func (d stickyDir) Remove(name string) error {
	if err := d.refuse("remove", name, syscall.EPERM); err != nil {
		return err
	}
	return d.Dir.Remove(name)
}

func (d stickyDir) Rename(old, new string) error {
	for _, name := range []string{old, new} {
		if err := d.refuse("rename", name, syscall.EPERM); err != nil {
			return err
		}
	}
	return d.Dir.Rename(old, new)
}

// TestPartFileOfAnotherUser has another user's file under the name of the part file, in a sticky
// directory. The transfer does not need that name. One that ends early keeps its bytes.
func TestPartFileOfAnotherUser(t *testing.T) {
	other := PartName("out")
	openDir := func(path string) (disk.Dir, error) {
		d, err := disk.OpenDir(path)
		return stickyDir{d, other}, err
	}
	target := filepath.Join(t.TempDir(), "out")
	dir := filepath.Dir(target)
	transfertest.Put(t, filepath.Join(dir, other), "not ours")
	if err := receive(openDir, target); err != nil {
		t.Fatal(err)
	}
	if got, _ := os.ReadFile(target); string(got) != "whole" {
		t.Errorf("the target has %q", got)
	}
	p, err := open(openDir, target)
	if err != nil {
		t.Fatal(err)
	}
	content, tree := largeFile()
	if err := p.Prove(t.Context(), tree, nil, nil); err != nil {
		t.Fatal(err)
	}
	if _, err := p.WriteAt(content[:65536], 0); err != nil {
		t.Fatal(err)
	}
	if held, err := IsHeld(stickyDir{must(disk.OpenDir(dir)), other}, p.Name()); !held || err != nil {
		t.Errorf("the private part file is not locked: %v", err)
	}
	if !p.Leave() {
		t.Error("nothing is kept")
	}
	names, _ := os.ReadDir(dir)
	own := 0
	for _, e := range names {
		if e.Name() != "out" && e.Name() != other && strings.HasSuffix(e.Name(), ".part") {
			own++
		}
	}
	if own != 1 || len(names) != 3 {
		t.Errorf("there is %v", names)
	}
	if got, _ := os.ReadFile(filepath.Join(dir, other)); string(got) != "not ours" {
		t.Errorf("the other user's file has %q", got)
	}
	// A lock has no private name: two of them would not exclude each other.
	if _, err := (Place{Dir: stickyDir{must(disk.OpenDir(dir)), "lock"}, Name: "lock"}).Lock(); err != nil {
		t.Fatal(err)
	}
	_, err = Place{Dir: stickyDir{must(disk.OpenDir(dir)), "lock"}, Name: "lock"}.Lock()
	if !errors.Is(err, fs.ErrPermission) {
		t.Errorf("a lock of another user: %v", err)
	}
}

func must(d disk.Dir, err error) disk.Dir {
	if err != nil {
		panic(err)
	}
	return d
}

// A shortFile cannot grow without a write.
type shortFile struct {
	disk.File
	err error
}

func (f shortFile) Truncate(size int64) error {
	if info, err := f.Stat(); err != nil || size > info.Size() {
		return f.err
	}
	return f.File.Truncate(size)
}

// TestFilesThatCannotGrow checks that zeros are written where a file system makes no hole at the end
// of a file. An error of the disk stays one.
func TestFilesThatCannotGrow(t *testing.T) {
	for _, err := range []error{syscall.EPERM, syscall.ENOSYS, syscall.EOPNOTSUPP, syscall.EINVAL, syscall.EIO} {
		d := must(disk.OpenDir(t.TempDir()))
		f, failed := d.Create("f")
		if failed != nil {
			t.Fatal(failed)
		}
		f.WriteAt([]byte("start"), 0)
		got := newOwnFile(shortFile{f, err}).Truncate(3 << 20)
		info, _ := f.Stat()
		isLost := errors.Is(err, syscall.EIO)
		if (got != nil) != isLost || (info.Size() == 3<<20) == isLost {
			t.Errorf("%v: %v, %d bytes", err, got, info.Size())
		}
		f.Close()
	}
}
