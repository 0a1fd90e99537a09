package transfertest

import (
	"testing"
	"time"

	"kwikcp/transfer/disk"
)

// OpenTreeWithTraps makes a TreeWithTraps and opens it. The test closes it.
func OpenTreeWithTraps(t testing.TB) (root string, d disk.Dir) {
	t.Helper()
	root = TreeWithTraps(t)
	d, err := disk.OpenDir(root)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close() })
	return root, d
}

// A SlowDir is a Dir in which each read of a file takes Delay longer.
type SlowDir struct {
	disk.Dir
	Delay time.Duration
}

// Open opens a file whose reads are slow.
func (d SlowDir) Open(name string) (disk.File, error) {
	f, err := d.Dir.Open(name)
	if err != nil {
		return nil, err
	}
	return slowFile{f, d.Delay}, nil
}

type slowFile struct {
	disk.File
	delay time.Duration
}

func (f slowFile) ReadAt(p []byte, off int64) (int, error) {
	time.Sleep(f.delay)
	return f.File.ReadAt(p, off)
}
