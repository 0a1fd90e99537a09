package transfer

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"testing"

	"kwikcp/internal/rangeset"
	"kwikcp/kwik"
	"kwikcp/transfer/disk"
	"kwikcp/transfer/internal/transfertest"
)

// A partTree is a directory whose new files reserve free space and share blocks as the test
// chooses.
type partTree struct {
	disk.TreeDir
	free int64 // bytes

	mu       sync.Mutex
	reserved rangeset.Set
	first    int64 // offset of the first write
	wrote    int64 // bytes; 0 before the first write
	cloned   int   // files
}

func (d *partTree) Create(name string) (disk.File, error) {
	f, err := d.TreeDir.Create(name)
	if err != nil {
		return nil, err
	}
	return partTreeFile{f, d}, nil
}

type partTreeFile struct {
	disk.File
	dir *partTree
}

func (f partTreeFile) WriteAt(p []byte, off int64) (int, error) {
	f.dir.mu.Lock()
	if f.dir.wrote == 0 {
		f.dir.first = off
	}
	f.dir.wrote += int64(len(p))
	f.dir.mu.Unlock()
	return f.File.WriteAt(p, off)
}

func (f partTreeFile) Allocate(start, end int64) error {
	f.dir.mu.Lock()
	defer f.dir.mu.Unlock()
	if end-start > 1 { // one byte is a question
		f.dir.reserved.Add(start, end)
	}
	return nil
}

func (f partTreeFile) Release(start, end int64) {}
func (f partTreeFile) Free() (int64, bool)      { return f.dir.free, true }

func (f partTreeFile) CloneFrom(other disk.File) error {
	f.dir.mu.Lock()
	f.dir.cloned++
	f.dir.mu.Unlock()
	return cloningFile{f.File}.CloneFrom(other)
}

// into has a mirror write into the directory.
func (d *partTree) into(o *MirrorOptions) {
	o.OpenTree = func(path string, create bool) (disk.TreeDir, error) {
		var err error
		d.TreeDir, err = disk.OpenTree(path, create)
		return d, err
	}
}

// mirrored is a large file that a server has.
func mirrored(t *testing.T) (content []byte, s *mirrorServer) {
	content = make([]byte, 17<<20+5)
	rand.NewChaCha8([32]byte{9}).Read(content)
	source := t.TempDir()
	transfertest.Put(t, filepath.Join(source, "large"), string(content))
	return content, ServeTree(t, kwik.ServerRolePrimary, source, nil)
}

// TestMirrorReserves checks that a mirror fetches the last group of a large file first, and
// then reserves space for the rest.
func TestMirrorReserves(t *testing.T) {
	content, s := mirrored(t)
	target := filepath.Join(t.TempDir(), "copy")
	d := &partTree{free: 1 << 40}
	if _, _, err := s.mirror(t.Context(), target, d.into); err != nil {
		t.Fatal(err)
	}
	transfertest.WantContent(t, filepath.Join(target, "large"), string(content))
	last := int64(17 << 20)
	if d.first != last {
		t.Errorf("the first write is at %d, want %d", d.first, last)
	}
	if d.reserved.Total() < 16<<20 || !d.reserved.ContainsRange(1<<20, 16<<20) {
		t.Errorf("reserved %v", &d.reserved)
	}
}

// TestMirrorOfAFileThatDoesNotFit checks that a mirror ends before a large file has filled a
// small disk.
func TestMirrorOfAFileThatDoesNotFit(t *testing.T) {
	content, s := mirrored(t)
	target := filepath.Join(t.TempDir(), "copy")
	d := &partTree{free: 10 << 20}
	_, _, err := s.mirror(t.Context(), target, d.into)
	wantKind(t, err, KindNoSpace, "more bytes are needed, 10485760 are free")
	if !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("the cause of %v is lost", err)
	}
	if d.wrote >= int64(len(content)) {
		t.Errorf("%d bytes were written", d.wrote)
	}
	if _, err := os.Lstat(filepath.Join(target, "large")); err == nil {
		t.Error("it is in place")
	}
}

// TestMirrorClones checks that a mirror with Reuse shares the blocks of the old file. It
// fetches and writes only the groups that differ.
func TestMirrorClones(t *testing.T) {
	const group = 65536
	content, s := mirrored(t)
	target := t.TempDir()
	old := bytes.Clone(content)
	old[5*group]++
	transfertest.Put(t, filepath.Join(target, "large"), string(old))
	d := &partTree{free: 1 << 40}
	r, _, err := s.mirror(t.Context(), target, d.into, func(o *MirrorOptions) { o.Reuse = true })
	if err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(filepath.Join(target, "large"))
	if err != nil || !slices.Equal(got, content) {
		t.Errorf("%d bytes are in place, %v", len(got), err)
	}
	if d.cloned != 1 || d.wrote != group {
		t.Errorf("%d files were cloned, %d bytes written", d.cloned, d.wrote)
	}
	if r.Network != group {
		t.Errorf("%d bytes were fetched", r.Network)
	}
}
