package transfer

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"kwikcp/kwik"
	"kwikcp/transfer/disk"
	"kwikcp/transfer/internal/partfile"
	"kwikcp/transfer/internal/transfertest"
	"kwikcp/transfer/internal/wire"
)

func staged(o *MirrorOptions) { o.Stage = true }

// published returns the entries of a directory without temporary files.
func published(t *testing.T, target string) map[string]treeEntry {
	t.Helper()
	all := snapshot(t, target)
	for p, e := range all {
		if wire.IsTemporary(filepath.Base(p)) || e.mode.IsDir() {
			delete(all, p)
		}
	}
	return all
}

func samePublished(a, b map[string]treeEntry) bool {
	if len(a) != len(b) {
		return false
	}
	for p, e := range a {
		if b[p].content != e.content || b[p].mode != e.mode {
			return false
		}
	}
	return true
}

// Nothing is in place before the last byte has arrived. Then new files precede changed ones.
func TestMirrorStage(t *testing.T) {
	source, target := t.TempDir(), filepath.Join(t.TempDir(), "copy")
	put := func(path, content string) {
		t.Helper()
		os.MkdirAll(filepath.Dir(filepath.Join(source, path)), 0o755)
		transfertest.Put(t, filepath.Join(source, path), content)
	}
	link := func(target, path string) {
		t.Helper()
		os.Remove(filepath.Join(source, path))
		if err := os.Symlink(target, filepath.Join(source, path)); err != nil {
			t.Fatal(err)
		}
	}
	put("dists/index", "pool/1")
	put("pool/1", strings.Repeat("1", 20<<20)) // larger than what is written whole
	link("pool/1", "current")
	s := ServeTree(t, kwik.ServerRolePrimary, source, nil)
	if _, _, err := s.mirror(t.Context(), target, staged); err != nil {
		t.Fatal(err)
	}
	wantTree(t, target, snapshot(t, source))

	put("dists/index", "pool/2")
	put("pool/2", strings.Repeat("2", 20<<20))
	put("pool/small", "small")
	if err := os.Link(filepath.Join(source, "pool/2"), filepath.Join(source, "pool/hard")); err != nil {
		t.Fatal(err)
	}
	link("pool/2", "current")
	os.Remove(filepath.Join(source, "pool/1"))
	before := published(t, target)
	var mu sync.Mutex
	var order []string
	writes := 0
	result, reports, err := s.mirrorTo(t.Context(), target, func(f FileReport) {
		mu.Lock()
		defer mu.Unlock()
		if f.Action != FileUpToDate {
			order = append(order, f.Path)
		}
	}, staged, deleting, spied(&spy{write: func(int) {
		mu.Lock()
		defer mu.Unlock()
		if writes++; writes%16 == 0 && !samePublished(published(t, target), before) {
			t.Error("the target changed before all files had arrived")
		}
	}}))
	if err != nil || result.Failed > 0 {
		t.Fatalf("%+v, %v, %+v", result, err, reports.files)
	}
	wantTree(t, target, snapshot(t, source))
	if want := "pool/2 pool/small dists/index current pool/hard pool/1"; strings.Join(order, " ") != want {
		t.Errorf("%v, want %s", order, want)
	}
}

// A staged mirror that is interrupted changes nothing, and the next one goes on with what it has.
func TestMirrorStageInterrupted(t *testing.T) {
	source := t.TempDir()
	g := gardener{rand.New(rand.NewPCG(3, 3)), t}
	for i := range 40 {
		dir := filepath.Join(source, fmt.Sprint("d", i%4))
		os.MkdirAll(dir, 0o755)
		g.check(os.WriteFile(filepath.Join(dir, fmt.Sprint(i)), g.content(), 0o644))
	}
	transfertest.Put(t, filepath.Join(source, "large"), strings.Repeat("large", 4<<20))
	want := snapshot(t, source)
	s := ServeTree(t, kwik.ServerRolePrimary, source, nil)
	for _, after := range []int64{1, 1 << 20, 18 << 20} {
		target := filepath.Join(t.TempDir(), "copy")
		ctx, cancel := context.WithCancelCause(t.Context())
		written := int64(0)
		var mu sync.Mutex
		_, _, err := s.mirror(ctx, target, staged, spied(&spy{write: func(n int) {
			mu.Lock()
			defer mu.Unlock()
			if written += int64(n); written >= after {
				cancel(errGone)
			}
		}}))
		if err != errGone {
			t.Fatalf("after %d bytes: %v", after, err)
		}
		if there := published(t, target); len(there) > 0 {
			t.Errorf("after %d bytes %d files are in place", after, len(there))
		}
		for p := range snapshot(t, target) {
			if strings.HasSuffix(p, ".new") {
				t.Errorf("after %d bytes %q is left", after, p)
			}
		}
		result, _, err := s.mirror(t.Context(), target, staged)
		if err != nil || after == 18<<20 && result.Bytes-result.Network < 17<<20 {
			t.Errorf("again: %+v, %v", result, err)
		}
		wantTree(t, target, want)
	}
}

// TestAttackStageTakesPart interrupts a staged mirror while a get has the part file of a file that
// waits. The get goes on.
func TestAttackStageTakesPart(t *testing.T) {
	source, target := t.TempDir(), filepath.Join(t.TempDir(), "copy")
	transfertest.Put(t, filepath.Join(source, "a"), strings.Repeat("a", 2<<20))
	transfertest.Put(t, filepath.Join(source, "z"), strings.Repeat("z", 30<<20))
	s := ServeTree(t, kwik.ServerRolePrimary, source, nil)
	ctx, cancel := context.WithCancelCause(t.Context())
	var mu sync.Mutex
	var get *partfile.PartFile
	_, _, err := s.mirror(ctx, target, staged, limited(15<<20), spied(&spy{step: func(op, path string) error {
		mu.Lock()
		defer mu.Unlock()
		if waits, _ := filepath.Glob(filepath.Join(target, ".kwikcp-*.new")); len(waits) == 0 || get != nil {
			return nil
		}
		dir, err := disk.OpenDir(target)
		if err == nil {
			get, err = partfile.Place{Dir: dir, Name: "a"}.Open(partfile.Options{})
		}
		cancel(errGone)
		return err
	}}))
	if err != errGone || get == nil {
		t.Fatal(err, get)
	}
	defer get.Discard()
	if err := get.Forget(); err != nil {
		t.Fatal(err)
	}
	if _, err := get.WriteAt([]byte("of the get"), 0); err != nil {
		t.Fatal(err)
	}
	if !get.Leave() {
		t.Error("a get has lost its part file")
	}
	transfertest.WantContent(t, filepath.Join(target, partfile.PartName("a")), "of the get")
	if left, _ := filepath.Glob(filepath.Join(target, ".kwikcp-*.new")); len(left) > 0 {
		t.Errorf("left are %v", left)
	}
}

// The files that wait may have any mode. After an interruption each is a part file as others are,
// and is not fetched again.
func TestMirrorStageModes(t *testing.T) {
	source, target := t.TempDir(), filepath.Join(t.TempDir(), "copy")
	for i, mode := range []os.FileMode{0o444, 0o666, 0o775, 0o400} {
		at := filepath.Join(source, fmt.Sprint("a", i))
		transfertest.Put(t, at, strings.Repeat(fmt.Sprint(i), 1<<20))
		if err := os.Chmod(at, mode); err != nil {
			t.Fatal(err)
		}
	}
	transfertest.Put(t, filepath.Join(source, "z"), strings.Repeat("z", 20<<20))
	want := snapshot(t, source)
	s := ServeTree(t, kwik.ServerRolePrimary, source, nil)
	ctx, cancel := context.WithCancelCause(t.Context())
	special := func(o *MirrorOptions) { o.SpecialModes = true } // the umask does not apply
	_, _, err := s.mirror(ctx, target, staged, special, limited(10<<20), spied(&spy{write: func(int) {
		if waits, _ := filepath.Glob(filepath.Join(target, ".kwikcp-*.new")); len(waits) == 4 {
			cancel(errGone)
		}
	}}))
	if err != errGone {
		t.Fatal(err)
	}
	result, _, err := s.mirror(t.Context(), target, staged, special)
	if err != nil || result.Bytes-result.Network < 4<<20 {
		t.Errorf("%+v, %v", result, err)
	}
	wantTree(t, target, want)
}

func limited(rate int64) func(*MirrorOptions) {
	return func(o *MirrorOptions) {
		o.KWIK = &kwik.ClientConfig{Config: kwik.Config{RateLimit: kwik.NewRateLimit(rate)}}
	}
}
