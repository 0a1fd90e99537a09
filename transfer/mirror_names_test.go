package transfer

import (
	"fmt"
	"kwikcp/kwik"
	"kwikcp/transfer/disk"
	"kwikcp/transfer/internal/transfertest"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
)

// A nameWatch notes in which directories names changed that were not synced since.
type nameWatch struct {
	mu       sync.Mutex
	unsynced map[string]bool
	syncs    int
}

func (w *nameWatch) step(op, path string) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	switch op {
	case "mkdir", "symlink", "remove", "rename":
		if op != "remove" || !strings.HasPrefix(disk.Base(path), ".kwikcp-") {
			w.unsynced[disk.Parent(path)] = true
		}
		if op == "remove" {
			delete(w.unsynced, path)
		}
	case "syncdir":
		w.syncs++
		delete(w.unsynced, strings.TrimSuffix(path, "/"))
	}
	return nil
}

// TestMirrorSyncsNames checks that all names of a mirror are durable in the end on a system
// that cannot sync a whole file system. These are names of files, links and directories, and
// those that are gone. A quick mirror syncs only directories that it changes.
func TestMirrorSyncsNames(t *testing.T) {
	for _, stage := range []bool{false, true} {
		t.Run(fmt.Sprintf("stage %t", stage), func(t *testing.T) {
			source, target := t.TempDir(), filepath.Join(t.TempDir(), "copy")
			put := func(name string) { transfertest.Put(t, filepath.Join(source, name), name) }
			for _, dir := range []string{"files", "links/inner", "names", "empty", "gone/inner", "same"} {
				if err := os.MkdirAll(filepath.Join(source, dir), 0o755); err != nil {
					t.Fatal(err)
				}
			}
			put("files/a")
			put("same/a")
			put("gone/inner/a")
			if err := os.Symlink("../../files/a", filepath.Join(source, "links/inner/a")); err != nil {
				t.Skip(err)
			}
			if err := os.Link(filepath.Join(source, "files/a"), filepath.Join(source, "names/b")); err != nil {
				t.Skip(err)
			}
			s := ServeTree(t, kwik.ServerRolePrimary, source, nil)
			mirror := func(quick bool) *nameWatch {
				t.Helper()
				w := &nameWatch{unsynced: make(map[string]bool)}
				_, _, err := s.mirror(t.Context(), target, spied(&spy{noVolumes: true, step: w.step}), deleting,
					func(o *MirrorOptions) { o.Stage, o.Quick = stage, quick })
				if err != nil || len(w.unsynced) > 0 {
					t.Errorf("names in %q are not synced: %v", slices.Sorted(maps.Keys(w.unsynced)), err)
				}
				return w
			}
			mirror(false)
			os.Remove(filepath.Join(source, "links/inner/a"))
			os.RemoveAll(filepath.Join(source, "gone/inner"))
			put("files/b")
			mirror(true)
			if w := mirror(true); w.syncs > 1 { // the target itself
				t.Errorf("a quick mirror that changes nothing syncs %d directories", w.syncs)
			}
		})
	}
}
