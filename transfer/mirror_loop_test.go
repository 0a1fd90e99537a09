package transfer

import (
	"errors"
	"kwikcp/kwik"
	"kwikcp/transfer/disk"
	"kwikcp/transfer/internal/transfertest"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"testing"
	"time"
)

// ofSystem makes a mirror use the directories of the system, which have places.
func ofSystem(o *MirrorOptions) { o.OpenTree = nil }

// TestAttackMirrorIntoItself mirrors a directory into itself, into a directory in it and into one
// around it, under several names. Nothing is written.
func TestAttackMirrorIntoItself(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("the system has no boot ID")
	}
	top := t.TempDir()
	putAll(t, top, "around/source/a", "around/source/in/deep/", "around/other/", "elsewhere/")
	if err := os.Symlink("around/source/in", filepath.Join(top, "link")); err != nil {
		t.Fatal(err)
	}
	s := ServeTree(t, kwik.ServerRolePrimary, filepath.Join(top, "around", "source"), nil)
	exclude := func(o *MirrorOptions) { o.Filter.Add(false, "/in/deep") }
	for target, want := range map[string]struct {
		loop   Loop
		isFine bool
		change func(*MirrorOptions)
	}{
		"around/source":               {loop: LoopSame},
		"around/source/in":            {loop: LoopInside},
		"around/source/in/deep/":      {loop: LoopInside},
		"around/source/in/deep/../..": {loop: LoopSame},
		"around/source/new":           {loop: LoopInside},
		"link":                        {loop: LoopInside},
		"link/deep":                   {loop: LoopInside},
		"around":                      {loop: LoopAround},
		".":                           {loop: LoopAround},
		"around/other":                {isFine: true},
		"elsewhere":                   {isFine: true},
		"around/source/in/deep":       {isFine: true, change: exclude},
	} {
		change := []func(*MirrorOptions){ofSystem, func(o *MirrorOptions) {
			if want.change != nil {
				want.change(o)
			}
		}}
		at := top + string(filepath.Separator) + filepath.FromSlash(target)
		before := snapshot(t, top)
		_, reports, err := s.mirror(t.Context(), at, change...)
		loop, ok := errors.AsType[*LoopError](err)
		if want.isFine {
			if err != nil || reports.action("a") != FileFetched {
				t.Errorf("%s: %v", target, err)
			}
			continue
		}
		if !ok || loop.Loop != want.loop {
			t.Errorf("%s: %v, want loop %d", target, err, want.loop)
		}
		wantKind(t, err, KindLoop, s.Addr)
		if after := snapshot(t, top); len(after) != len(before) {
			t.Errorf("%s: %d entries, before there were %d", target, len(after), len(before))
		}
	}
}

// TestAttackTwoWayMirrors mirrors A into B while B is mirrored into A. The second mirror is
// refused, unless newer files win and nothing is deleted.
func TestAttackTwoWayMirrors(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("the system has no boot ID")
	}
	a, b := t.TempDir(), t.TempDir()
	putAll(t, a, "x")
	putAll(t, b, "y")
	serverA, serverB := ServeTree(t, kwik.ServerRolePrimary, a, nil), ServeTree(t, kwik.ServerRolePrimary, b, nil)
	var pair MirrorPair
	holding := func(o *MirrorOptions) { o.Pair = &pair }
	if _, _, err := serverA.mirror(t.Context(), b, ofSystem, holding); err != nil {
		t.Fatal(err)
	}
	for i, c := range []struct {
		update, delete, isFine bool
	}{{false, false, false}, {false, true, false}, {true, true, false}, {true, false, true}} {
		change := func(o *MirrorOptions) { o.Update, o.Delete = c.update, c.delete }
		_, _, err := serverB.mirror(t.Context(), a, ofSystem, change)
		loop, refused := errors.AsType[*LoopError](err)
		switch {
		case c.isFine && err != nil:
			t.Errorf("%d: %v", i, err)
		case !c.isFine && (!refused || loop.Loop != LoopTwoWays):
			t.Errorf("%d: %v", i, err)
		}
	}
	// The announcement stays for later rounds, and does not disturb others in the same direction.
	for _, change := range []func(*MirrorOptions){holding, func(*MirrorOptions) {}, deleting} {
		if _, _, err := serverA.mirror(t.Context(), b, ofSystem, change); err != nil {
			t.Error(err)
		}
	}
	_, _, err := serverB.mirror(t.Context(), a, ofSystem)
	wantKind(t, err, KindLoop, "is a mirror of")
	pair.Close()
	if _, _, err := serverB.mirror(t.Context(), a, ofSystem, deleting); err != nil {
		t.Errorf("after the first mirror has ended: %v", err)
	}
	transfertest.WantNames(t, b, "x", "y")
	transfertest.WantNames(t, a, "x", "y")
}

// TestAttackMirrorRing mirrors A into B, B into C, and so on, and the last into A. The mirror that
// closes the ring is refused.
func TestAttackMirrorRing(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("the system has no boot ID")
	}
	const n = 5
	var dirs []string
	var servers []*mirrorServer
	var pairs [n]MirrorPair
	for i := range n {
		dirs = append(dirs, t.TempDir())
		putAll(t, dirs[i], "a")
		servers = append(servers, ServeTree(t, kwik.ServerRolePrimary, dirs[i], nil))
		defer pairs[i].Close()
	}
	putAll(t, dirs[0], "new")
	for i := range n - 1 {
		holding := func(o *MirrorOptions) { o.Pair = &pairs[i] }
		if _, _, err := servers[i].mirror(t.Context(), dirs[i+1], ofSystem, holding, deleting); err != nil {
			t.Fatal(i, err)
		}
	}
	os.Remove(filepath.Join(dirs[n-1], "new")) // as if a round were late
	_, _, err := servers[n-1].mirror(t.Context(), dirs[0], ofSystem, deleting)
	wantKind(t, err, KindLoop, "is a mirror of")
	transfertest.WantNames(t, dirs[0], "a", "new")
	if _, _, err := servers[0].mirror(t.Context(), dirs[n-1], ofSystem, deleting); err != nil {
		t.Errorf("a second way in the same direction: %v", err)
	}
}

// TestIsMirrorOf follows pairs, also those that no mirror announced.
func TestIsMirrorOf(t *testing.T) {
	id := func(b byte) (p disk.PlaceID) { p[0] = b; return p }
	pairs := []string{"mirror-", "mirror-x", "mirror-x-y-z", pairName(id(1), id(2)), pairName(id(2), id(3)),
		pairName(id(3), id(2)), pairName(id(4), id(4)), pairName(id(2), id(2))}
	for of := byte(1); of < 5; of++ {
		for copied := byte(1); copied < 5; copied++ {
			want := copied == 2 && of < 4 || copied == 3 && of < 4 || copied == 4 && of == 4
			if got := isMirrorOf(id(copied), id(of), pairs); got != want {
				t.Errorf("%d of %d: %t", copied, of, got)
			}
		}
	}
}

// TestMirrorUpdate leaves newer files as they are, also those that become newer during the mirror,
// and reports them.
func TestMirrorUpdate(t *testing.T) {
	source, target := t.TempDir(), t.TempDir()
	now := time.Now()
	put := func(root, name, content string, age time.Duration) {
		t.Helper()
		at := transfertest.Put(t, filepath.Join(root, name), content)
		if err := os.Chtimes(at, now.Add(-age), now.Add(-age)); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"newer", "older", "same", "missing", "racy"} {
		put(source, name, "of the source", time.Hour)
	}
	put(target, "newer", "mine", time.Minute)
	put(target, "older", "old", 2*time.Hour)
	put(target, "same", "other size of the same age", time.Hour)
	put(target, "racy", "old", 2*time.Hour)
	s := ServeTree(t, kwik.ServerRolePrimary, source, nil)
	var once sync.Once
	updating := func(o *MirrorOptions) { o.Update = true }
	touching := spied(&spy{step: func(op, path string) error {
		if op == "create" {
			once.Do(func() { put(target, "racy", "just now", 0) })
		}
		return nil
	}})
	result, reports, err := s.mirror(t.Context(), target, updating, deleting, touching)
	if err != nil || result.Skipped != 2 || result.Fetched != 3 {
		t.Errorf("%+v, %v, %+v", result, err, reports.files)
	}
	for name, want := range map[string]string{
		"newer": "mine", "older": "of the source", "same": "of the source", "missing": "of the source",
		"racy": "just now",
	} {
		transfertest.WantContent(t, filepath.Join(target, name), want)
	}
	for _, name := range []string{"newer", "racy"} {
		if reports.action(name) != FileSkipped {
			t.Errorf("%q: %q", name, reports.action(name))
		}
	}
	transfertest.WantNames(t, target, "newer", "older", "same", "missing", "racy")
}

// TestAttackMirrorUpdateTypes has newer files in the places of a link and a directory. They stay as
// in the place of a file.
func TestAttackMirrorUpdateTypes(t *testing.T) {
	source, target := t.TempDir(), t.TempDir()
	putAll(t, source, "dir/a", "dir/b/c", "old/a", "file")
	putAll(t, target, "dir", "link", "file", "old")
	for _, name := range []string{"link", "oldlink"} {
		if err := os.Symlink("file", filepath.Join(source, name)); err != nil {
			t.Fatal(err)
		}
	}
	putAll(t, target, "oldlink")
	for name, age := range map[string]time.Duration{"dir": 1, "link": 1, "file": 1, "old": -1, "oldlink": -1} {
		at := time.Now().Add(age * time.Hour)
		if err := os.Chtimes(filepath.Join(target, name), at, at); err != nil {
			t.Fatal(err)
		}
	}
	s := ServeTree(t, kwik.ServerRolePrimary, source, nil)
	lost := 0
	for _, stage := range []bool{false, true} {
		result, reports, err := s.mirror(t.Context(), target, deleting, func(o *MirrorOptions) {
			o.Update, o.Stage = true, stage
		})
		if err != nil || result.Skipped != 3 {
			t.Errorf("%+v, %v", result, err)
		}
		for _, name := range []string{"dir", "link", "file"} {
			if content, _ := os.ReadFile(filepath.Join(target, name)); string(content) != "content of "+name {
				lost++
			}
			if reports.action(name) != FileSkipped {
				t.Errorf("%q: %q", name, reports.action(name))
			}
		}
	}
	transfertest.WantNames(t, filepath.Join(target, "old"), "a")
	if to, err := os.Readlink(filepath.Join(target, "oldlink")); to != "file" {
		t.Error(to, err)
	}
	if lost > 0 {
		t.Errorf("%d newer files are lost", lost)
	}
}

// FuzzPlaces reads places of a hostile server.
func FuzzPlaces(f *testing.F) {
	f.Add([]byte("0123456789abcdef"), []byte(nil))
	f.Add(make([]byte, 15), make([]byte, 17))
	f.Fuzz(func(t *testing.T, a, b []byte) {
		places, err := placesOf([][]byte{a, b})
		isRight := len(a) == len(disk.PlaceID{}) && len(b) == len(disk.PlaceID{})
		if (err == nil) != isRight {
			t.Errorf("%v, %v", places, err)
		}
		if err == nil && (string(places[0][:]) != string(a) || len(places) != 2) {
			t.Errorf("%v", places)
		}
	})
}
