package transfertest

import (
	"io/fs"
	"testing"
	"time"

	"kwikcp/transfer/disk"
)

// OpenTreeWithTraps makes a TreeWithTraps and opens it. The test closes it.
func OpenTreeWithTraps(t testing.TB) (root string, d disk.TreeDir) {
	t.Helper()
	root = TreeWithTraps(t)
	d, err := disk.OpenTree(root, false)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close() })
	return root, d
}

// A SlowDir is a TreeDir in which each read of a file takes Delay longer.
type SlowDir struct {
	disk.TreeDir
	Delay time.Duration
}

// Open opens a file whose reads are slow.
func (d SlowDir) Open(name string) (disk.File, error) {
	f, err := d.TreeDir.Open(name)
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

// A MappedDir is a directory of files that programs store to through mappings: whatever is written
// to them, they keep their times.
type MappedDir struct{ disk.TreeDir }

// Open opens a file that keeps its times.
func (d MappedDir) Open(name string) (disk.File, error) {
	f, err := d.TreeDir.Open(name)
	if err != nil {
		return nil, err
	}
	return mappedFile{f}, nil
}

// Stat describes a file by the times that it keeps.
func (d MappedDir) Stat(name string) (fs.FileInfo, error) {
	info, err := d.TreeDir.Stat(name)
	return mappedInfo{info}, err
}

type mappedFile struct{ disk.File }

func (f mappedFile) Stat() (fs.FileInfo, error) {
	info, err := f.File.Stat()
	return mappedInfo{info}, err
}

type mappedInfo struct{ fs.FileInfo }

func (mappedInfo) ModTime() time.Time { return time.Unix(9e8, 123) }
func (mappedInfo) Sys() any           { return nil }
