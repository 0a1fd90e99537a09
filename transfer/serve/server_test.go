package serve

import (
	"bytes"
	"errors"
	"fmt"
	"kwikcp/integrity"
	"kwikcp/kwik"
	"kwikcp/transfer/disk"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/zeebo/blake3"

	"kwikcp/transfer/internal/transfertest"
	transferpb "kwikcp/transfer/internal/wire/proto"
)

// failure returns the one Failure that an answer consists of.
func failure(t *testing.T, replies []*transferpb.Reply, err error) *transferpb.Failure {
	t.Helper()
	if err != nil || len(replies) != 1 || replies[0].GetFailure() == nil {
		t.Fatalf("the answer is %v, %v, want one Failure", replies, err)
	}
	return replies[0].GetFailure()
}

func TestServerAnswers(t *testing.T) {
	// The last has a tree of two messages.
	for _, size := range []int64{0, 1, 65535, 65536, 65537, 3*65536 + 9, 126 << 20} {
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			root := t.TempDir()
			content := bytes.Repeat([]byte("0123456789abcdef"), int(size/16)+1)[:size]
			if err := os.WriteFile(filepath.Join(root, "file"), content, 0o751); err != nil {
				t.Fatal(err)
			}
			if err := os.Chtimes(filepath.Join(root, "file"), transfertest.SomeTime,
				transfertest.SomeTime); err != nil {
				t.Fatal(err)
			}
			d, err := disk.OpenTree(root, false)
			if err != nil {
				t.Fatal(err)
			}
			defer d.Close()
			transfertest.OnNet(t, func(w *transfertest.Net) {
				serveOn(w, d)
				c := w.Dial()
				defer c.CloseWithError(0, "")
				replies, err := w.Ask(c, transfertest.Request(1, "file"), true)
				var cvs []byte
				var m *transferpb.Manifest
				for _, r := range replies {
					if r.GetManifest() != nil {
						m = r.GetManifest()
					}
					cvs = append(cvs, r.GetTree().GetChainingValues()...)
				}
				if err != nil || m == nil {
					w.T.Fatalf("%v, %v", replies, err)
				}
				want := integrity.Root(blake3.Sum256(content))
				if m.GetSize() != uint64(size) || integrity.Root(m.GetRoot()) != want {
					w.T.Errorf("manifest %v, want %d bytes and root %v", m, size, want)
				}
				if m.GetMtimeNs() != transfertest.SomeTime.UnixNano() || m.GetMode() != uint32(0o751&^disk.Umask) {
					w.T.Errorf("manifest %v has another time or mode than the file", m)
				}
				if _, err := integrity.FromCVs(size, integrity.GroupSize(m.GetGroup()), cvs, want); err != nil {
					w.T.Errorf("the tree: %v", err)
				}
				if (m.GetKwikStreamId() == 0) != (size == 0) {
					w.T.Errorf("stream %#x for %d bytes", m.GetKwikStreamId(), size)
				}
			})
		})
	}
}

// TestServerSendsOneFailureForFilesItDoesNotServe checks that a client cannot tell whether a
// file is missing, forbidden or outside the served directory.
func TestServerSendsOneFailureForFilesItDoesNotServe(t *testing.T) {
	root, d := transfertest.OpenTreeWithTraps(t)
	transfertest.Put(t, filepath.Join(root, "unreadable"), "")
	paths := []string{
		"missing", "sub/missing", "missing/x", "dangling", "loop", "outside", "sub/outside", "absolute",
		"absoluteinside", "updir/secret",
		"", ".", "..", "/", "//", "/file", "file/", "./file", "sub/../file", "../secret", "../../../../etc/passwd",
		"/etc/passwd",
		"sub//deeper/file", `sub\deeper\file`, "file\x00", "file\x00.txt", "\x00", "%2e%2e/secret", "file/x",
		strings.Repeat("n", 256),
		strings.Repeat("a/", 2048), strings.Repeat("p", 4097), strings.Repeat("../", 5000) + "etc/passwd",
	}
	transfertest.OnNet(t, func(w *transfertest.Net) {
		serveOn(w, d)
		c := w.Dial()
		defer c.CloseWithError(0, "")
		for _, path := range paths {
			replies, err := w.Ask(c, transfertest.Request(1, path), true)
			f := failure(w.T, replies, err)
			if f.GetCode() != transferpb.Failure_NOT_FOUND || f.GetMessage() != "no such file on the server" {
				w.T.Errorf("%.60q: %v", path, f)
			}
		}
		for _, path := range []string{"fifo", "sub", "dirlink"} {
			replies, err := w.Ask(c, transfertest.Request(1, path), true)
			if f := failure(w.T, replies, err); f.GetCode() != transferpb.Failure_NOT_A_FILE {
				w.T.Errorf("%q: %v", path, f)
			}
		}
		for _, version := range []uint32{0, 2, 1 << 31} {
			replies, err := w.Ask(c, transfertest.Request(version, "file"), true)
			if f := failure(w.T, replies, err); f.GetCode() != transferpb.Failure_BAD_REQUEST {
				w.T.Errorf("version %d: %v", version, f)
			}
		}
		replies, err := w.Ask(c, transfertest.Request(1, "file"), true)
		if err != nil || len(replies) != 1 || replies[0].GetManifest() == nil {
			w.T.Errorf("the file is not served after these requests: %v, %v", replies, err)
		}
	})
}

// TestServerResetsMalformedRequests also checks that a client that opens a stream must send its
// request within ten seconds.
func TestServerResetsMalformedRequests(t *testing.T) {
	_, d := transfertest.OpenTreeWithTraps(t)
	for name, x := range map[string]struct {
		raw    []byte
		fin    bool
		within time.Duration
	}{
		"a byte, then silence":       {[]byte{5}, false, 11 * time.Second},
		"half a request":             {transfertest.Request(1, "file")[:4], false, 11 * time.Second},
		"half a request and the end": {transfertest.Request(1, "file")[:4], true, time.Second},
		"a request of 64 KiB + 1":    {append([]byte{0x81, 0x80, 0x04}, make([]byte, 100)...), false, time.Second},
		"a request of 2^63":          {append(bytes.Repeat([]byte{0xff}, 8), 0x7f), false, time.Second},
		"an endless length":          {bytes.Repeat([]byte{0xff}, 50), false, time.Second},
		"garbage":                    {[]byte("\x04\xff\xff\xff\xff"), true, time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			transfertest.OnNet(t, func(w *transfertest.Net) {
				serveOn(w, d)
				c := w.Dial()
				defer c.CloseWithError(0, "")
				start := time.Now()
				replies, err := w.Ask(c, x.raw, x.fin)
				if !isReset(err) || len(replies) > 0 {
					w.T.Errorf("answered %v, %v", replies, err)
				}
				if took := time.Since(start); took > x.within {
					w.T.Errorf("it took %v", took)
				}
				if replies, err := w.Ask(c, transfertest.Request(1, "file"), true); err != nil || len(replies) != 1 {
					w.T.Errorf("the next request of the session fails: %v, %v", replies, err)
				}
			})
		})
	}
}

// isReset reports whether the server reset a stream as breaking the protocol.
func isReset(err error) bool { return errors.Is(err, kwik.ErrMetadataProtocolViolation) }

// TestServerReadsOneRequest checks that the server ignores bytes after a request.
func TestServerReadsOneRequest(t *testing.T) {
	_, d := transfertest.OpenTreeWithTraps(t)
	transfertest.OnNet(t, func(w *transfertest.Net) {
		serveOn(w, d)
		c := w.Dial()
		defer c.CloseWithError(0, "")
		more := bytes.Repeat(transfertest.Request(1, "sub/deeper/file"), 3)
		replies, err := w.Ask(c, append(transfertest.Request(1, "file"), more...), false)
		if err != nil || len(replies) != 1 || replies[0].GetManifest().GetSize() != 7 {
			w.T.Errorf("answered %v, %v", replies, err)
		}
	})
}

// TestServerOutlivesClientsThatLeave lets clients leave while a file is hashed for them. Hashing
// pauses, and continues there for the next client. The bubble of OnNet fails the test if a
// goroutine of the server waits for a client that is gone.
func TestServerOutlivesClientsThatLeave(t *testing.T) {
	root, d := transfertest.OpenTreeWithTraps(t)
	if err := os.Truncate(transfertest.Put(t, filepath.Join(root, "big"), ""), 20<<20); err != nil {
		t.Fatal(err)
	}
	transfertest.OnNet(t, func(w *transfertest.Net) {
		s := serveOn(w, transfertest.SlowDir{TreeDir: d, Delay: time.Second})
		hashed := func() int64 { return s.index.entry("big").partial.hashed() }
		for range 3 {
			c := w.Dial()
			stream, err := c.OpenStreamSync(w.Ctx)
			if err != nil {
				w.T.Fatal(err)
			}
			stream.Write(transfertest.Request(1, "big"))
			time.Sleep(2500 * time.Millisecond)
			c.CloseWithError(0, "")
			time.Sleep(time.Second)
		}
		left := hashed()
		time.Sleep(time.Minute)
		if after := hashed(); left == 0 || after != left || s.index.entry("big").finished() {
			w.T.Errorf("%d bytes were hashed when the clients left, %d a minute later", left, after)
		}
		c := w.Dial()
		defer c.CloseWithError(0, "")
		start := time.Now()
		replies, err := w.Ask(c, transfertest.Request(1, "big"), true)
		if err != nil || s.index.entry("big").finishedTree() == nil {
			w.T.Errorf("the next client got %d replies, %v", len(replies), err)
		}
		if most := time.Duration(20-left>>20+1) * time.Second; time.Since(start) > most {
			w.T.Errorf("it took %v, want at most %v", time.Since(start), most)
		}
	})
}

// TestServerLogsNamesQuoted checks that the log quotes text of a client.
func TestServerLogsNamesQuoted(t *testing.T) {
	_, d := transfertest.OpenTreeWithTraps(t)
	transfertest.OnNet(t, func(w *transfertest.Net) {
		serveOn(w, d)
		c := w.Dial()
		defer c.CloseWithError(0, "")
		w.Ask(c, transfertest.Request(1, "x\x1b[2J\n level=ERROR msg=forged"), true)
		time.Sleep(time.Second)
		synctest.Wait()
		if log := w.Log.String(); strings.Contains(log, "\x1b") || strings.Contains(log, "\n level=ERROR") {
			w.T.Errorf("the log is forged: %q", log)
		}
	})
}

// Errors of opening a file that the server does not serve are file errors. The client is not told
// that the server failed.
func TestErrorsOfFiles(t *testing.T) {
	_, d := transfertest.OpenTreeWithTraps(t)
	for _, name := range []string{
		"missing", "sub", "fifo", "dangling", "loop", "outside", "sub/outside", "absolute", "absoluteinside",
		"updir/secret", "updir",
		"../secret", "sub/../../secret", "/etc/hostname", "", "nul\x00", "file/x", strings.Repeat("n", 256),
	} {
		f, err := d.Open(name)
		if err == nil {
			f.Close()
			t.Errorf("%q was opened", name)
		} else if isServersFault(err) {
			t.Errorf("Open(%q): a client would be told that %v is the server's failure", name, err)
		}
	}
}
