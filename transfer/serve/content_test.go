package serve

import (
	"bytes"
	"context"
	"errors"
	"io"
	"kwikcp/kwik"
	"kwikcp/transfer/disk"
	"kwikcp/transfer/internal/transfertest"
	"kwikcp/transfer/source"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/zeebo/blake3"
	"google.golang.org/protobuf/proto"

	transferpb "kwikcp/transfer/internal/wire/proto"
)

// newTestServer serves a fresh directory.
func newTestServer(t *testing.T) (*Server, string) {
	t.Helper()
	root := t.TempDir()
	d, err := disk.OpenTree(root, false)
	if err != nil {
		t.Fatal(err)
	}
	s := NewServer(source.Local(d), slog.New(slog.DiscardHandler))
	t.Cleanup(func() {
		s.Close()
		d.Close()
	})
	return s, root
}

// wanted returns a request for the content of a file.
func wanted(path string, content []byte) kwik.ContentRequest {
	return wantedAt(path, content, time.Time{})
}

// wantedAt is wanted for a primary's file with a modification time.
func wantedAt(path string, content []byte, mtime time.Time) kwik.ContentRequest {
	root := blake3.Sum256(content)
	d, err := proto.Marshal(&transferpb.FileDescriptor{
		Path: []byte(path), Size: uint64(len(content)), Root: root[:], MtimeNs: mtime.UnixNano(),
	})
	if err != nil {
		panic(err)
	}
	return kwik.ContentRequest{Descriptor: d, Size: int64(len(content))}
}

// hashed makes a server hash a file, as a request does.
func hashed(t *testing.T, s *Server, path string) *indexEntry {
	t.Helper()
	info, err := s.dir.Stat(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	e := s.claim(client{}, path, disk.VersionOf(info)).indexEntry
	<-e.done
	return e
}

func TestOpenContent(t *testing.T) {
	s, root := newTestServer(t)
	content := bytes.Repeat([]byte("content "), 30_000)
	if err := os.WriteFile(filepath.Join(root, "file"), content, 0o644); err != nil {
		t.Fatal(err)
	}
	c, err := s.OpenContent(t.Context(), wanted("file", content))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	got := make([]byte, len(content)-7)
	n, err := c.ReadAt(got, 7)
	if n != len(got) || (err != nil && err != io.EOF) {
		t.Fatalf("read %d of %d bytes, %v", n, len(got), err)
	}
	if !bytes.Equal(got, content[7:]) {
		t.Fatal("other bytes were read")
	}
}

func TestOpenContentRefuses(t *testing.T) {
	s, root := newTestServer(t)
	transfertest.Put(t, filepath.Join(root, "file"), "content")
	transfertest.Put(t, filepath.Join(filepath.Dir(root), "outside"), "content")
	if err := os.Symlink("../outside", filepath.Join(root, "link")); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(root, "dir"), 0o755); err != nil {
		t.Fatal(err)
	}
	content := []byte("content")
	var answers []error
	for _, path := range []string{"missing", "link", "dir", "../outside", "/etc/hostname", "", ".", "a//b", `a\b`,
		"a\x00b"} {
		c, err := s.OpenContent(t.Context(), wanted(path, content))
		if err == nil {
			t.Fatalf("%q was opened: %v", path, c)
		}
		answers = append(answers, err)
	}
	for _, err := range answers { // clients of a secondary must not learn which files exist
		if err != errNoContent {
			t.Errorf("refused with %v, want %v for all", err, errNoContent)
		}
	}
	for name, r := range map[string]kwik.ContentRequest{
		"of another size":        wanted("file", []byte("longer content")),
		"garbage":                {Descriptor: []byte("\xff\xff\xff"), Size: 7},
		"empty descriptor":       {Size: 7},
		"root of another length": {Descriptor: []byte("\x0a\x04file\x1a\x03abc"), Size: 7},
	} {
		if c, err := s.OpenContent(t.Context(), r); err == nil {
			t.Errorf("%s: opened %v", name, c)
		}
	}
}

// TestContentThatChanged checks that a change has a distinct error, so that the client does not
// ban the server.
func TestContentThatChanged(t *testing.T) {
	old, changed := []byte("old content"), []byte("new content") // of one size
	for name, change := range map[string]func(path string) error{
		"rewritten in place": func(path string) error { return os.WriteFile(path, changed, 0o644) },
		"replaced": func(path string) error {
			return errors.Join(os.WriteFile(path+".new", changed, 0o644), os.Rename(path+".new", path))
		},
		"rewritten, and its time set back": func(path string) error {
			info, err := os.Stat(path)
			return errors.Join(err, os.WriteFile(path, changed, 0o644),
				os.Chtimes(path, info.ModTime(), info.ModTime()))
		},
		"grown":  func(path string) error { return os.WriteFile(path, append(changed, "..."...), 0o644) },
		"shrunk": func(path string) error { return os.WriteFile(path, changed[:3], 0o644) },
	} {
		t.Run(name, func(t *testing.T) {
			s, root := newTestServer(t)
			path := transfertest.Put(t, filepath.Join(root, "file"), string(old))
			past := time.Now().Add(-time.Hour) // so that the change is another tick of the file system's clock
			if err := os.Chtimes(path, past, past); err != nil {
				t.Fatal(err)
			}
			hashed(t, s, "file")
			open, err := s.OpenContent(t.Context(), wanted("file", old))
			if err != nil {
				t.Fatal(err)
			}
			defer open.Close()
			if err := change(path); err != nil {
				t.Fatal(err)
			}

			if c, err := s.OpenContent(t.Context(), wanted("file", old)); !errors.Is(err, kwik.ErrContentChanged) {
				t.Errorf("opened after the change: %v, %v", c, err)
			}
			n, err := open.ReadAt(make([]byte, len(old)), 0)
			if name == "replaced" && err == nil { // the open file is still the old one, but its ctime may have changed
				if n != len(old) {
					t.Errorf("read %d bytes of the old file", n)
				}
			} else if n != 0 || !errors.Is(err, kwik.ErrContentChanged) {
				t.Errorf("read %d bytes of the changed file, %v", n, err)
			}
			// Another client requests the file, and the new content is hashed.
			hashed(t, s, "file")
			if c, err := s.OpenContent(t.Context(), wanted("file", old)); !errors.Is(err, kwik.ErrContentChanged) {
				t.Errorf("opened after the new content was hashed: %v, %v", c, err)
			}
		})
	}
}

// TestStaleCopy checks a copy of the same size with another time than the primary's file. It
// counts as stale, and the client does not ban the server.
func TestStaleCopy(t *testing.T) {
	old, now := bytes.Repeat([]byte("old "), 50_000), bytes.Repeat([]byte("new "), 50_000)
	for _, x := range []struct {
		content []byte
		mtime   time.Time
		right   bool
	}{
		{now, transfertest.SomeTime, true},
		{now, transfertest.SomeTime.Add(time.Hour), true},
		{old, transfertest.SomeTime.Add(-time.Hour), false},
	} {
		s, root := newTestServer(t)
		path := transfertest.Put(t, filepath.Join(root, "file"), string(x.content))
		if err := os.Chtimes(path, x.mtime, x.mtime); err != nil {
			t.Fatal(err)
		}
		c, err := s.openFile(t.Context(), wantedAt("file", now, transfertest.SomeTime), secondaryServes)
		if !x.right {
			if !errors.Is(err, kwik.ErrContentChanged) {
				t.Errorf("the copy of %v: %v, %v", x.mtime, c, err)
			}
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		c.Close()
	}
}

// TestStaleCopyThatIsChallenged checks that a secondary hashes its copy if the primary requests
// bytes that a client rejected. It detects another version.
func TestStaleCopyThatIsChallenged(t *testing.T) {
	old, now := bytes.Repeat([]byte("old "), 50_000), bytes.Repeat([]byte("new "), 50_000)
	s, root := newTestServer(t)
	path := transfertest.Put(t, filepath.Join(root, "file"), string(old))
	if err := os.Chtimes(path, transfertest.SomeTime, transfertest.SomeTime); err != nil {
		t.Fatal(err)
	}
	request := wantedAt("file", now, transfertest.SomeTime) // the same size and time
	if c, err := s.OpenContent(t.Context(), request); !errors.Is(err, kwik.ErrContentChanged) {
		t.Errorf("%v, %v", c, err)
	}
}

// A secondary that the primary asks for bytes may not know whether its copy is the right version.
// It is excused then, and serves no bytes that may be wrong.
func TestUnverifiedCopyIsExcused(t *testing.T) {
	s, root := newTestServer(t)
	content := []byte("content")
	path := filepath.Join(root, "file")
	if err := os.WriteFile(path, content, 0o644); err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	request := func(mtime time.Time) kwik.ContentRequest { // of a primary that has not hashed its file yet
		d, err := proto.Marshal(&transferpb.FileDescriptor{
			Path: []byte("file"), Size: uint64(len(content)), MtimeNs: mtime.UnixNano(),
		})
		if err != nil {
			t.Fatal(err)
		}
		return kwik.ContentRequest{Descriptor: d, Size: int64(len(content))}
	}
	c, err := s.OpenContent(t.Context(), request(info.ModTime()))
	if err != nil {
		t.Fatal(err)
	}
	c.Close()
	_, err = s.OpenContent(t.Context(), request(info.ModTime().Add(time.Second)))
	if !errors.Is(err, kwik.ErrServerBusy) {
		t.Errorf("a copy of another time: %v", err)
	}
	transfertest.Put(t, filepath.Join(root, "cold"), "contents")
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	setSlots := func(n int) {
		s.index.mu.Lock()
		defer s.index.mu.Unlock()
		s.index.small.slots = n
	}
	slots := s.index.small.slots
	setSlots(0)
	defer setSlots(slots)
	if _, err := s.OpenContent(ended, wanted("cold", []byte("contents"))); !errors.Is(err, kwik.ErrServerBusy) {
		t.Errorf("a copy that is not hashed yet: %v", err)
	}
}
