package transfer

import (
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"kwikcp/kwik"
	"kwikcp/transfer/disk"
	"kwikcp/transfer/internal/transfertest"
)

// A syncSpy knows what a power cut may cost.
type syncSpy struct {
	t      *testing.T
	refuse func(op string) error // of openvolume and syncvolume; nil for none
	full   bool                  // writes fail

	mu       sync.Mutex
	contents map[string]bool // files that are not durable
	names    map[string]bool // directories whose names are not
}

func newSyncSpy(t *testing.T) *syncSpy {
	return &syncSpy{t: t, contents: make(map[string]bool), names: make(map[string]bool)}
}

func (s *syncSpy) step(op, path string) error {
	if path == mirrorLock { // it may return after a power cut
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	switch op {
	case "openvolume", "syncvolume":
		if s.refuse != nil {
			if err := s.refuse(op); err != nil {
				return &os.PathError{Op: op, Path: path, Err: err}
			}
		}
		if op == "syncvolume" {
			clear(s.contents)
			clear(s.names)
		}
	case "create", "write":
		if s.full && op == "write" {
			return &os.PathError{Op: op, Path: path, Err: syscall.ENOSPC}
		}
		s.contents[path], s.names[disk.Parent(path)] = true, true
	case "sync":
		delete(s.contents, path)
	case "syncdir":
		delete(s.names, path)
	case "rename":
		if s.contents[path] {
			s.t.Errorf("%q is renamed before it is synced", path)
		}
		s.names[disk.Parent(path)] = true
	case "mkdir", "symlink", "remove":
		s.names[disk.Parent(path)] = true
		delete(s.names, path)
	}
	return nil
}

// check checks that everything is durable.
func (s *syncSpy) check(what string) {
	for path := range s.names {
		s.t.Errorf("%s: names in %q are not synced", what, path)
	}
}

// TestMirrorThatCannotSyncVolumes checks that everything is durable if the system refuses to sync
// whole file systems, whenever it does so first.
func TestMirrorThatCannotSyncVolumes(t *testing.T) {
	source := t.TempDir()
	for _, name := range []string{"a/b/c", "d/e/f", "g/h/i", "later"} {
		os.MkdirAll(filepath.Dir(filepath.Join(source, name)), 0o755)
		transfertest.Put(t, filepath.Join(source, name), "content of "+name)
	}
	os.MkdirAll(filepath.Join(source, "empty", "too"), 0o755)
	os.Symlink("b", filepath.Join(source, "a", "link"))
	s := ServeTree(t, kwik.ServerRolePrimary, source, nil)
	for refused := range 5 {
		errno := []error{syscall.EPERM, syscall.ENOSYS}[refused%2]
		for _, isStaged := range []bool{false, true} {
			w := newSyncSpy(t)
			calls := 0
			w.refuse = func(string) error {
				if calls++; calls > refused {
					return errno
				}
				return nil
			}
			target := t.TempDir()
			for _, name := range []string{"d/gone", "extra/deep/gone"} {
				os.MkdirAll(filepath.Dir(filepath.Join(target, name)), 0o755)
				transfertest.Put(t, filepath.Join(target, name), "x")
			}
			_, _, err := s.mirror(t.Context(), target, spied(&spy{step: w.step}), deleting, func(o *MirrorOptions) {
				o.Stage, o.Quick = isStaged, true
			})
			if err != nil {
				t.Error(err)
			}
			w.check(errno.Error())
		}
	}
}

// TestMirrorAfterOneThatSyncedNothing has a quick mirror sync what the one before it left to a sync
// of the file system, for which it found no room.
func TestMirrorAfterOneThatSyncedNothing(t *testing.T) {
	source, target := t.TempDir(), t.TempDir()
	os.MkdirAll(filepath.Join(source, "a", "b"), 0o755)
	os.MkdirAll(filepath.Join(source, "c", "d"), 0o755)
	transfertest.Put(t, filepath.Join(source, "z"), strings.Repeat("z", 1000))
	s := ServeTree(t, kwik.ServerRolePrimary, source, nil)
	w := newSyncSpy(t)
	w.full = true
	quick := func(o *MirrorOptions) { o.Quick = true }
	if _, _, err := s.mirror(t.Context(), target, spied(&spy{step: w.step}), quick); err == nil {
		t.Error("no error of a full disk")
	}
	if len(w.names) == 0 {
		t.Error("the first mirror leaves nothing to sync")
	}
	w.full, w.refuse = false, func(op string) error {
		if op == "openvolume" {
			return syscall.EMFILE
		}
		return nil
	}
	if _, _, err := s.mirror(t.Context(), target, spied(&spy{step: w.step}), quick); err != nil {
		t.Error(err)
	}
	w.check("the second mirror")
}
