//go:build unix

package transfer

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"kwikcp/kwik"
	"kwikcp/transfer/internal/transfertest"
	"kwikcp/transfer/internal/wire"
)

// A typeWorld is a source of which entries change their types.
type typeWorld struct {
	t              *testing.T
	source, target string
	s              *mirrorServer
	before, after  map[string]treeEntry // of the source
}

func newTypeWorld(t *testing.T) *typeWorld {
	w := &typeWorld{t: t, source: t.TempDir(), target: filepath.Join(t.TempDir(), "copy")}
	w.put("data", "a file")
	w.link("pool", "link")
	w.link("d", "dirlink")
	w.put("old/a/x", "x")
	w.put("old/y", "y")
	w.put("tree/z", "z")
	w.put("to-link/q", "q")
	w.put("index", "1")
	w.put("d/inner/f", "f")
	w.put("d/file", "file")
	w.s = ServeTree(t, kwik.ServerRolePrimary, w.source, nil)
	if _, _, err := w.s.mirror(t.Context(), w.target, deleting); err != nil {
		t.Fatal(err)
	}
	w.before = snapshot(t, w.source)
	for _, name := range []string{"data", "link", "dirlink", "old", "tree", "to-link", "d/inner", "d/file"} {
		os.RemoveAll(filepath.Join(w.source, name))
	}
	w.put("data/small", "small")
	w.put("data/sub/large", strings.Repeat("large", 60_000))
	w.put("data/sub/deep/w", "w")
	w.link("sub/large", "data/ln")
	w.put("link/in", "in")
	w.put("dirlink", strings.Repeat("f", 200_000))
	w.put("old", strings.Repeat("old", 90_000))
	w.put("tree", "a small file")
	w.link("data", "to-link")
	w.put("index", "2")
	w.put("d/inner", "now a file")
	w.put("d/file/k", "k")
	os.Chmod(filepath.Join(w.source, "data", "sub"), 0o555)
	t.Cleanup(func() { os.Chmod(filepath.Join(w.source, "data", "sub"), 0o755) })
	w.after = snapshot(t, w.source)
	return w
}

func (w *typeWorld) put(path, content string) {
	w.t.Helper()
	at := filepath.Join(w.source, path)
	os.MkdirAll(filepath.Dir(at), 0o755)
	transfertest.Put(w.t, at, content)
}

func (w *typeWorld) link(to, path string) {
	w.t.Helper()
	if err := os.Symlink(to, filepath.Join(w.source, path)); err != nil {
		w.t.Fatal(err)
	}
}

// copied returns a copy of the target, as a kill of the process would leave it now.
func (w *typeWorld) copied(to string) string {
	if out, err := exec.Command("cp", "-a", w.target, to).CombinedOutput(); err != nil {
		w.t.Errorf("%v: %s", err, out)
	}
	return to
}

// look returns what others see of a tree: without temporary entries and what is in them.
func (w *typeWorld) look(root string) map[string]treeEntry {
	all := snapshot(w.t, root)
	for p := range all {
		for at := p; at != "."; at = filepath.Dir(at) {
			if wire.IsTemporary(filepath.Base(at)) {
				delete(all, p)
			}
		}
	}
	return all
}

// is reports whether everything at and below a path is as wanted.
func (w *typeWorld) is(seen, want map[string]treeEntry, top string) bool {
	for p, e := range want {
		if isAt(p, top) && (seen[p].content != e.content || seen[p].mode.Type() != e.mode.Type()) {
			return false
		}
	}
	for p := range seen {
		if _, ok := want[p]; isAt(p, top) && !ok {
			return false
		}
	}
	return true
}

func isAt(p, top string) bool { return p == top || strings.HasPrefix(p, top+"/") }

var typeTops = []string{"data", "link", "dirlink", "old", "tree", "to-link", "index", "d/inner", "d/file"}

// TestMirrorStageTypes checks that no entry of another type is in place before everything has
// arrived. A mirror is killed at each of its steps. A directory that replaces a file has all its
// entries when it is in place. A file that replaces a directory is there as soon as that has
// gone. The next mirror makes the target equal, and fetches nothing that has arrived.
func TestMirrorStageTypes(t *testing.T) {
	w := newTypeWorld(t)
	scratch := t.TempDir()
	var mu sync.Mutex
	var copies []string
	var seen []map[string]treeEntry
	steps := 0
	hasBegun := false // something has changed
	step := func(op, path string) error {
		mu.Lock()
		defer mu.Unlock()
		steps++
		if mayPublish := op == "rename" || op == "remove" || op == "symlink"; !mayPublish && steps%8 != 0 {
			return nil
		}
		at := w.copied(filepath.Join(scratch, fmt.Sprint(len(copies))))
		copies = append(copies, at)
		tree := w.look(at)
		seen = append(seen, tree)
		isBefore := true
		for _, top := range typeTops {
			isOld, isNew := w.is(tree, w.before, top), w.is(tree, w.after, top)
			isBefore = isBefore && isOld
			isGoing := w.before[top].mode.IsDir() // its entries are being deleted
			if !isOld && !isNew && !isGoing {
				t.Errorf("%d, %s of %q: %q is neither old nor new", len(copies)-1, op, path, top)
			}
		}
		hasBegun = hasBegun || !isBefore
		return nil
	}
	writes := 0
	_, reports, err := w.s.mirror(t.Context(), w.target, staged, deleting, spied(&spy{step: step, write: func(int) {
		mu.Lock()
		defer mu.Unlock()
		if writes++; hasBegun {
			t.Error("bytes arrived after something had changed")
		}
	}}))
	if err != nil || writes == 0 || len(copies) < 15 {
		t.Fatalf("%v, %d writes, %d copies, %+v", err, writes, len(copies), reports.files)
	}
	wantTree(t, w.target, w.after)
	for i, at := range copies {
		if i%5 != 0 && i < len(copies)-3 {
			continue
		}
		result, reports, err := w.s.mirror(t.Context(), at, staged, deleting)
		if err != nil {
			t.Fatalf("after a kill at step %d: %+v, %v, %+v", i, result, err, reports.files)
		}
		wantTree(t, at, w.after)
		arrived := !w.is(seen[i], w.before, "data")
		if arrived && result.Network > 0 {
			t.Errorf("after a kill at step %d %d bytes were fetched again", i, result.Network)
		}
		if t.Failed() {
			t.Fatalf("after a kill at step %d", i)
		}
	}
}

// TestMirrorStageTypesFail checks that an entry stays if what replaces it by another type could not
// be written. A mirror without Stage, or of a source in which the type is as before, removes what
// was left.
func TestMirrorStageTypesFail(t *testing.T) {
	w := newTypeWorld(t)
	transfertest.Put(t, filepath.Join(w.source, "zz"), strings.Repeat("z", 4<<20))
	_, _, err := w.s.mirror(t.Context(), w.target, staged, deleting, spied(&spy{step: func(op, path string) error {
		if op == "syncvolume" {
			return errGone
		}
		return nil
	}}))
	if err == nil {
		t.Fatal("it succeeded")
	}
	seen := w.look(w.target)
	for _, top := range typeTops {
		if top != "to-link" && !w.is(seen, w.before, top) { // links need no bytes
			t.Errorf("%q is not as before", top)
		}
	}
	os.Remove(filepath.Join(w.source, "zz"))
	again := w.copied(filepath.Join(t.TempDir(), "again"))
	if _, _, err := w.s.mirror(t.Context(), again, deleting); err != nil {
		t.Error(err)
	}
	wantTree(t, again, w.after)
	os.RemoveAll(filepath.Join(w.source, "data"))
	transfertest.Put(t, filepath.Join(w.source, "data"), "a file again")
	want := snapshot(t, w.source)
	if _, _, err := w.s.mirror(t.Context(), w.target, staged, deleting); err != nil {
		t.Error(err)
	}
	wantTree(t, w.target, want)
}
