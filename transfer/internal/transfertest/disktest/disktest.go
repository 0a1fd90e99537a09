// Package disktest holds files that tests of part files and of transfers share.
package disktest

import (
	"sync"
	"testing"

	"kwikcp/internal/rangeset"
	"kwikcp/transfer/disk"
)

// OpenFile creates a file with a content and holes, in a new directory.
func OpenFile(t testing.TB, content []byte, holes ...rangeset.Range) disk.File {
	t.Helper()
	d, err := disk.OpenDir(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	f, err := d.Create("f")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close(); d.Close() })
	if err := f.Truncate(int64(len(content))); err != nil {
		t.Fatal(err)
	}
	data := rangeset.Of(rangeset.Range{Start: 0, End: int64(len(content))})
	for _, h := range holes {
		data.Sub(h.Start, h.End)
	}
	for r := range data.All() {
		if _, err := f.WriteAt(content[r.Start:r.End], r.Start); err != nil {
			t.Fatal(err)
		}
	}
	return f
}

// A ReadCounter records which bytes of a file are read.
type ReadCounter struct {
	disk.File
	mu   sync.Mutex
	Read rangeset.Set // belongs to the test when no method runs
}

// ReadAt implements io.ReaderAt.
func (f *ReadCounter) ReadAt(p []byte, off int64) (int, error) {
	f.mu.Lock()
	f.Read.Add(off, off+int64(len(p)))
	f.mu.Unlock()
	return f.File.ReadAt(p, off)
}
