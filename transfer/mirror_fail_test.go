package transfer

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io/fs"
	"kwikcp/kwik"
	"kwikcp/transfer/disk"
	"kwikcp/transfer/internal/transfertest"
	"kwikcp/transfer/internal/wire"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// TestMirrorWithoutSpace checks that a mirror to a full disk ends with an error and leaves no
// incomplete file.
func TestMirrorWithoutSpace(t *testing.T) {
	source := t.TempDir()
	for i := range 50 {
		transfertest.Put(t, filepath.Join(source, fmt.Sprint(i)), strings.Repeat("x", 10_000))
	}
	transfertest.Put(t, filepath.Join(source, "large"), strings.Repeat("y", 3<<20))
	s := ServeTree(t, kwik.ServerRolePrimary, source, nil)
	target := filepath.Join(t.TempDir(), "copy")
	var mu sync.Mutex
	writes := 0
	_, reports, err := s.mirror(t.Context(), target, spied(&spy{step: func(op, path string) error {
		mu.Lock()
		defer mu.Unlock()
		if op == "write" {
			if writes++; writes > 20 {
				return &fs.PathError{Op: op, Path: path, Err: syscall.ENOSPC}
			}
		}
		return nil
	}}))
	if e, ok := errors.AsType[*Error](err); !ok || e.Kind != KindNoSpace {
		t.Fatalf("%v; %+v", err, reports.files)
	}
	want := snapshot(t, source)
	for p, e := range snapshot(t, target) {
		if !wire.IsTemporary(p) && e.content != want[p].content {
			t.Errorf("%q is not whole", p)
		}
		if strings.HasSuffix(p, ".new") {
			t.Errorf("%q is left", p)
		}
	}
	if _, _, err := s.mirror(t.Context(), target); err != nil {
		t.Fatal(err)
	}
	wantTree(t, target, want)
}

// TestMirrorEntriesThatFail checks that a mirror reports a failed file and continues with the
// others.
func TestMirrorEntriesThatFail(t *testing.T) {
	source := t.TempDir()
	for _, name := range []string{"a", "b", "c", "d/e"} {
		os.MkdirAll(filepath.Dir(filepath.Join(source, name)), 0o755)
		transfertest.Put(t, filepath.Join(source, name), "content of "+name)
	}
	s := ServeTree(t, kwik.ServerRolePrimary, source, nil)
	target := t.TempDir()
	os.MkdirAll(filepath.Join(target, "b", "full"), 0o755) // without --delete it is in the way
	os.Symlink(t.TempDir(), filepath.Join(target, "d"))
	transfertest.Mkfifo(filepath.Join(target, "c"))
	result, reports, err := s.mirror(t.Context(), target)
	wantKind(t, err, KindLocal, "")
	if _, ok := errors.AsType[*MirrorError](err); !ok {
		t.Errorf("%v has no MirrorError", err)
	}
	if result.Failed != 3 || result.Fetched != 1 {
		t.Errorf("%+v", result)
	}
	for p, want := range map[string]FileAction{"a": FileFetched, "b": FileFailed, "c": FileFailed, "d": FileFailed,
		"d/e": ""} {
		if got := reports.action(p); got != want {
			t.Errorf("%q: %q, want %q", p, got, want)
		}
	}
	outside, _ := os.Readlink(filepath.Join(target, "d"))
	wantNames(t, outside)
	os.Remove(filepath.Join(target, "c"))
	if result, _, err := s.mirror(t.Context(), target, deleting); err != nil || result.Fetched != 3 {
		t.Errorf("with --delete: %+v, %v", result, err)
	}
	wantTree(t, target, snapshot(t, source))
	wantNames(t, outside)
}

// TestMirrorOfFilesThatGo removes files from the server after it listed them.
func TestMirrorOfFilesThatGo(t *testing.T) {
	source := t.TempDir()
	for i := range 20 {
		transfertest.Put(t, filepath.Join(source, fmt.Sprintf("%02d", i)), strings.Repeat("x", 1000+i))
	}
	gone := false
	var mu sync.Mutex
	s := ServeTree(t, kwik.ServerRolePrimary, source, func(d disk.TreeDir) disk.TreeDir {
		// The directory goes with the first requested file.
		return &spyDir{TreeDir: d, spy: &spy{step: func(op, path string) error {
			mu.Lock()
			defer mu.Unlock()
			if op == "open" && !gone {
				gone = true
				os.Remove(filepath.Join(source, "07"))
				os.Remove(filepath.Join(source, "08"))
				os.Mkdir(filepath.Join(source, "08"), 0o755)
			}
			return nil
		}}}
	})
	target := t.TempDir()
	result, reports, err := s.mirror(t.Context(), target)
	wantKind(t, err, KindNotFound, "")
	if result.Failed != 2 || result.Fetched != 18 {
		t.Errorf("%+v", result)
	}
	if reports.action("07") != FileFailed || reports.action("08") != FileFailed {
		t.Error(reports.files)
	}
}

// changingTree serves a tree in which a file is written to whenever it is opened, for the first n
// times after the first.
func changingTree(t *testing.T, source, name string, n int) *mirrorServer {
	var mu sync.Mutex
	opened := 0
	return ServeTree(t, kwik.ServerRolePrimary, source, func(d disk.TreeDir) disk.TreeDir {
		return &spyDir{TreeDir: d, spy: &spy{step: func(op, path string) error {
			mu.Lock()
			defer mu.Unlock()
			if op == "open" && path == name {
				if opened++; opened > 1 && opened <= n+1 {
					b := bytes.Repeat([]byte{byte(opened)}, 5000)
					if err := os.WriteFile(filepath.Join(source, name), b, 0o644); err != nil {
						t.Error(err)
					}
				}
			}
			return nil
		}}}
	})
}

func TestMirrorOfFilesThatChange(t *testing.T) {
	for _, c := range []struct {
		times int
		fails bool
	}{{1, false}, {1000, true}} {
		source, target := t.TempDir(), t.TempDir()
		for i := range 40 {
			transfertest.Put(t, filepath.Join(source, fmt.Sprintf("%02d", i)), strings.Repeat("x", 5000))
		}
		s := changingTree(t, source, "11", c.times)
		result, reports, err := s.mirror(t.Context(), target)
		if !c.fails {
			if err != nil || result.Fetched != 40 {
				t.Errorf("%+v, %v", result, err)
			}
			wantTree(t, target, snapshot(t, source))
			continue
		}
		wantKind(t, err, KindChanged, "")
		if result.Failed != 1 || result.Fetched != 39 {
			t.Errorf("%+v", result)
		}
		if action := reports.action("11"); action != FileFailed {
			t.Errorf("the file that changes is %q", action)
		}
		if _, err := os.Stat(filepath.Join(target, "11")); err == nil {
			t.Error("a file that changed all the time is in place")
		}
	}
}

// TestMirrorTooDeep checks that a mirror rejects a tree beyond the maximum depth.
func TestMirrorTooDeep(t *testing.T) {
	source, target := t.TempDir(), filepath.Join(t.TempDir(), "copy")
	root, err := os.OpenRoot(source) // paths may be longer than the system allows at once
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	deep := strings.Repeat("d/", maxDepth+10) + "d"
	if err := root.MkdirAll(deep, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := root.WriteFile(strings.Repeat("d/", maxDepth)+"file", []byte("deep"), 0o644); err != nil {
		t.Fatal(err)
	}
	s := ServeTree(t, kwik.ServerRolePrimary, source, nil)
	result, _, err := s.mirror(t.Context(), target)
	if err == nil {
		t.Error("no error")
	}
	if result.Failed != 1 || result.Made != maxDepth || result.Fetched != 1 {
		t.Errorf("%+v", result)
	}
	if err := root.RemoveAll("d"); err != nil { // for t.TempDir cannot
		t.Error(err)
	}
	copied, err := os.OpenRoot(target)
	if err != nil {
		t.Fatal(err)
	}
	defer copied.Close()
	if content, err := copied.ReadFile(strings.Repeat("d/", maxDepth) + "file"); string(content) != "deep" {
		t.Errorf("%q, %v", content, err)
	}
	if err := copied.RemoveAll("d"); err != nil {
		t.Error(err)
	}
}

// TestMirrorRetry checks that a retry does not count a file twice.
func TestMirrorRetry(t *testing.T) {
	source, target := t.TempDir(), t.TempDir()
	for i := range 30 {
		transfertest.Put(t, filepath.Join(source, fmt.Sprint(i)), strings.Repeat("x", 10_000))
	}
	var mu sync.Mutex
	var session *kwik.ClientSession
	dials, opened := 0, 0
	s := ServeTree(t, kwik.ServerRolePrimary, source, func(d disk.TreeDir) disk.TreeDir {
		return &spyDir{TreeDir: d, spy: &spy{step: func(op, path string) error {
			mu.Lock()
			defer mu.Unlock()
			if op == "open" {
				if opened++; dials < 3 && opened%20 == 0 {
					session.CloseWithError(1, "cut")
				}
			}
			return nil
		}}}
	})
	result, reports, err := s.mirror(t.Context(), target, func(o *MirrorOptions) {
		o.Retries, o.RetryDelay = 2, time.Millisecond
		o.Dial = func(
			ctx context.Context, addr string, tlsConf *tls.Config, conf *kwik.ClientConfig,
		) (*kwik.ClientSession, error) {
			c, err := kwik.DialAddr(ctx, addr, tlsConf, conf)
			mu.Lock()
			defer mu.Unlock()
			dials, session = dials+1, c
			return c, err
		}
	})
	if err != nil || dials != 3 {
		t.Errorf("%d dials: %v, %+v", dials, err, reports.files)
	}
	if result.Fetched+result.UpToDate != 30 || result.Files != 30 || result.Bytes != 300_000 {
		t.Errorf("%+v, %+v", result, reports.files)
	}
	wantTree(t, target, snapshot(t, source))
}

// TestMirrorsExcludeEachOther checks that a second mirror into one directory fails. It would
// delete the files of the first.
func TestMirrorsExcludeEachOther(t *testing.T) {
	source, target := t.TempDir(), t.TempDir()
	transfertest.Put(t, filepath.Join(source, "a"), "a")
	s := ServeTree(t, kwik.ServerRolePrimary, source, nil)
	var inner error
	once := false
	_, _, err := s.mirror(t.Context(), target, spied(&spy{step: func(op, path string) error {
		if op == "rename" && !once {
			once = true
			_, _, inner = s.mirror(t.Context(), target)
		}
		return nil
	}}))
	if e, ok := errors.AsType[*Error](inner); err != nil || !ok || e.Kind != KindBusy {
		t.Errorf("%v; the other one: %v", err, inner)
	}
	wantNames(t, target, "a")
}

// TestMirrorKeepsWhatItCannotReplace checks that an entry stays while what replaces it cannot be
// made.
func TestMirrorKeepsWhatItCannotReplace(t *testing.T) {
	source, target := t.TempDir(), t.TempDir()
	put(t, source, "dir/file", "content")
	put(t, target, "dir", "a file")
	put(t, source, "file", "content")
	put(t, target, "file/in", "a file")
	os.Symlink("file", filepath.Join(source, "link"))
	put(t, target, "link", "a file")
	s := ServeTree(t, kwik.ServerRolePrimary, source, nil)
	result, _, err := s.mirror(t.Context(), target, spied(&spy{step: func(op, path string) error {
		if op == "mkdir" || op == "symlink" || op == "remove" && path == "file/in" {
			return syscall.ENOSPC
		}
		return nil
	}}), deleting)
	if err == nil || result.Failed == 0 || result.Deleted != 0 {
		t.Errorf("%+v, %v", result, err)
	}
	for _, name := range []string{"dir", "file/in", "link"} {
		transfertest.WantContent(t, filepath.Join(target, name), "a file")
	}
	if _, _, err := s.mirror(t.Context(), target, deleting); err != nil {
		t.Error(err)
	}
	wantTree(t, target, snapshot(t, source))
}

// TestMirrorInterruptedWhileItDeletes interrupts a mirror after its first deletion, in each
// kind of directory. The mirror returns an error, and the next one deletes the rest.
func TestMirrorInterruptedWhileItDeletes(t *testing.T) {
	for _, in := range []string{".", "gone"} {
		source, target := t.TempDir(), t.TempDir()
		transfertest.Put(t, filepath.Join(source, "a"), "a")
		os.MkdirAll(filepath.Join(target, in), 0o755)
		for i := range 100 {
			transfertest.Put(t, filepath.Join(target, in, fmt.Sprint(i)), "old")
		}
		s := ServeTree(t, kwik.ServerRolePrimary, source, nil)
		ctx, cancel := context.WithCancelCause(t.Context())
		enough := errors.New("enough")
		result, _, err := s.mirrorTo(ctx, target, func(f FileReport) {
			if f.Action == FileDeleted {
				cancel(enough)
			}
		}, deleting)
		if err != enough || result.Deleted != 1 {
			t.Errorf("in %q: %+v, %v", in, result, err)
		}
		if result, _, err := s.mirror(t.Context(), target, deleting); err != nil {
			t.Errorf("in %q, again: %+v, %v", in, result, err)
		}
		wantTree(t, target, snapshot(t, source))
	}
}

// TestMirrorDirectoryInTheWay puts a directory in the place of a file or a link. It has an
// excluded entry, so the mirror cannot remove it and reports a failure.
func TestMirrorDirectoryInTheWay(t *testing.T) {
	source, target := t.TempDir(), t.TempDir()
	transfertest.Put(t, filepath.Join(source, "file"), "content")
	if err := os.Symlink("file", filepath.Join(source, "link")); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"file", "link"} {
		os.Mkdir(filepath.Join(target, name), 0o755)
		transfertest.Put(t, filepath.Join(target, name, "keep"), "mine")
	}
	s := ServeTree(t, kwik.ServerRolePrimary, source, nil)
	result, reports, err := s.mirror(t.Context(), target, deleting,
		func(o *MirrorOptions) { o.Filter.Add(false, "keep") })
	wantKind(t, err, KindLocal, "directory")
	if result.Failed != 2 || reports.action("file") != FileFailed || reports.action("link") != FileFailed {
		t.Errorf("%+v, %+v", result, reports.files)
	}
	transfertest.WantContent(t, filepath.Join(target, "link", "keep"), "mine")
}
