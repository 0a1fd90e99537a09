package transfer

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/zeebo/blake3"

	"kwikcp/integrity"
	"kwikcp/kwik"
	transferpb "kwikcp/transfer/proto"
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
	for _, size := range []int64{0, 1, 65535, 65536, 65537, 3*65536 + 9, 126 << 20} { // the last has a tree of two messages
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			root := t.TempDir()
			content := bytes.Repeat([]byte("0123456789abcdef"), int(size/16)+1)[:size]
			if err := os.WriteFile(filepath.Join(root, "file"), content, 0o751); err != nil {
				t.Fatal(err)
			}
			if err := os.Chtimes(filepath.Join(root, "file"), someTime, someTime); err != nil {
				t.Fatal(err)
			}
			d, err := OpenDir(root)
			if err != nil {
				t.Fatal(err)
			}
			defer d.Close()
			onWire(t, func(w *wire) {
				w.serve(d)
				c := w.dial()
				defer c.CloseWithError(0, "")
				replies, err := w.ask(c, request(1, "file"), true)
				var cvs []byte
				var m *transferpb.Manifest
				for _, r := range replies {
					if r.GetManifest() != nil {
						m = r.GetManifest()
					}
					cvs = append(cvs, r.GetTree().GetChainingValues()...)
				}
				if err != nil || m == nil {
					w.t.Fatalf("%v, %v", replies, err)
				}
				want := integrity.Root(blake3.Sum256(content))
				if m.GetSize() != uint64(size) || integrity.Root(m.GetRoot()) != want || m.GetMtimeNs() != someTime.UnixNano() || m.GetMode() != uint32(0o751&^umask) {
					w.t.Errorf("manifest %v", m)
				}
				if _, err := integrity.FromCVs(size, integrity.GroupSize(m.GetGroup()), cvs, want); err != nil {
					w.t.Errorf("the tree: %v", err)
				}
				if (m.GetKwikStreamId() == 0) != (size == 0) {
					w.t.Errorf("stream %#x for %d bytes", m.GetKwikStreamId(), size)
				}
			})
		})
	}
}

// A client cannot tell what is missing from what is forbidden or outside.
func TestServerGivesOneAnswerForWhatItDoesNotServe(t *testing.T) {
	root, d := servedTree(t)
	put(t, filepath.Join(root, "unreadable"), "")
	paths := []string{
		"missing", "sub/missing", "missing/x", "dangling", "loop", "outside", "sub/outside", "absolute", "absoluteinside", "updir/secret",
		"", ".", "..", "/", "//", "/file", "file/", "./file", "sub/../file", "../secret", "../../../../etc/passwd", "/etc/passwd",
		"sub//deeper/file", `sub\deeper\file`, "file\x00", "file\x00.txt", "\x00", "%2e%2e/secret", "file/x", strings.Repeat("n", 256),
		strings.Repeat("a/", 2048), strings.Repeat("p", 4097), strings.Repeat("../", 5000) + "etc/passwd",
	}
	onWire(t, func(w *wire) {
		w.serve(d)
		c := w.dial()
		defer c.CloseWithError(0, "")
		for _, path := range paths {
			replies, err := w.ask(c, request(1, path), true)
			f := failure(w.t, replies, err)
			if f.GetCode() != transferpb.Failure_NOT_FOUND || f.GetMessage() != "no such file on the server" {
				w.t.Errorf("%.60q: %v", path, f)
			}
		}
		for _, path := range []string{"fifo", "sub", "dirlink"} {
			replies, err := w.ask(c, request(1, path), true)
			if f := failure(w.t, replies, err); f.GetCode() != transferpb.Failure_NOT_A_FILE {
				w.t.Errorf("%q: %v", path, f)
			}
		}
		for _, version := range []uint32{0, 2, 1 << 31} {
			replies, err := w.ask(c, request(version, "file"), true)
			if f := failure(w.t, replies, err); f.GetCode() != transferpb.Failure_BAD_REQUEST {
				w.t.Errorf("version %d: %v", version, f)
			}
		}
		if replies, err := w.ask(c, request(1, "file"), true); err != nil || len(replies) != 1 || replies[0].GetManifest() == nil {
			w.t.Errorf("after all that the file is not served: %v, %v", replies, err)
		}
	})
}

// Whoever opens a stream has ten seconds to say what for.
func TestServerDropsWhatIsNoRequest(t *testing.T) {
	_, d := servedTree(t)
	for name, x := range map[string]struct {
		raw    []byte
		fin    bool
		within time.Duration
	}{
		"a byte, then silence":       {[]byte{5}, false, 11 * time.Second},
		"half a request":             {request(1, "file")[:4], false, 11 * time.Second},
		"half a request and the end": {request(1, "file")[:4], true, time.Second},
		"a request of 64 KiB + 1":    {append([]byte{0x81, 0x80, 0x04}, make([]byte, 100)...), false, time.Second},
		"a request of 2^63":          {append(bytes.Repeat([]byte{0xff}, 8), 0x7f), false, time.Second},
		"an endless length":          {bytes.Repeat([]byte{0xff}, 50), false, time.Second},
		"garbage":                    {[]byte("\x04\xff\xff\xff\xff"), true, time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			onWire(t, func(w *wire) {
				w.serve(d)
				c := w.dial()
				defer c.CloseWithError(0, "")
				start := time.Now()
				replies, err := w.ask(c, x.raw, x.fin)
				if !isReset(err) || len(replies) > 0 {
					w.t.Errorf("answered %v, %v", replies, err)
				}
				if took := time.Since(start); took > x.within {
					w.t.Errorf("it took %v", took)
				}
				if replies, err := w.ask(c, request(1, "file"), true); err != nil || len(replies) != 1 {
					w.t.Errorf("the session is of no use any more: %v, %v", replies, err)
				}
			})
		})
	}
}

// isReset reports whether the server reset a stream as breaking the protocol.
func isReset(err error) bool { return errors.Is(err, kwik.ErrMetadataProtocolViolation) }

// What follows a request is not read, and does no harm.
func TestServerReadsOneRequest(t *testing.T) {
	_, d := servedTree(t)
	onWire(t, func(w *wire) {
		w.serve(d)
		c := w.dial()
		defer c.CloseWithError(0, "")
		replies, err := w.ask(c, append(request(1, "file"), bytes.Repeat(request(1, "sub/deeper/file"), 3)...), false)
		if err != nil || len(replies) != 1 || replies[0].GetManifest().GetSize() != 7 {
			w.t.Errorf("answered %v, %v", replies, err)
		}
	})
}

// A client that waits hears something at least once a second.
func TestServerSaysThatItIsHashing(t *testing.T) {
	root, d := servedTree(t)
	if err := os.Truncate(put(t, filepath.Join(root, "big"), ""), 20<<20); err != nil {
		t.Fatal(err)
	}
	onWire(t, func(w *wire) {
		w.serve(slowDir{d, 700 * time.Millisecond})
		var heard hashingLog
		start := time.Now()
		o := GetOptions{URL: URL{Host: serverAddr.String(), Path: "big"}, TLS: w.tls(), Output: brokenWriter{errors.New("enough")}, KWIK: w.client()}
		_, err := getWhole(w.t, w.ctx, o, &heard)
		wantKind(w.t, err, KindLocal, "enough")
		if len(heard.at) < 4 {
			w.t.Fatalf("heard %d times", len(heard.at))
		}
		last, bytes := start, int64(0)
		for i, at := range heard.at {
			if at.Sub(last) > time.Second {
				w.t.Errorf("heard nothing for %v", at.Sub(last))
			}
			if heard.bytes[i] < bytes || heard.bytes[i] > 20<<20 || heard.total != 20<<20 {
				w.t.Errorf("%d after %d of %d", heard.bytes[i], bytes, heard.total)
			}
			last, bytes = at, heard.bytes[i]
		}
	})
}

type hashingLog struct {
	NoReport
	at    []time.Time
	bytes []int64
	total int64
}

func (h *hashingLog) Hashing(bytes, total int64) {
	h.at, h.bytes, h.total = append(h.at, time.Now()), append(h.bytes, bytes), total
}

// The bubble of onWire fails the test if anything of the server waits for a client that is gone.
func TestServerOutlivesClientsThatLeave(t *testing.T) {
	root, d := servedTree(t)
	if err := os.Truncate(put(t, filepath.Join(root, "big"), ""), 20<<20); err != nil {
		t.Fatal(err)
	}
	onWire(t, func(w *wire) {
		s := w.serve(slowDir{d, time.Second})
		for i := range 3 {
			c := w.dial()
			stream, err := c.OpenStreamSync(w.ctx)
			if err != nil {
				w.t.Fatal(err)
			}
			stream.Write(request(1, "big"))
			time.Sleep(time.Duration(i) * time.Second)
			c.CloseWithError(0, "")
		}
		time.Sleep(time.Minute)
		if s.index.entry("big").known() == nil {
			w.t.Error("what was hashed for a client that left is lost for the next one")
		}
	})
}

// A server that is closed while it hashes ends at once, and so does the client that waits.
func TestServerClosesWhileItHashes(t *testing.T) {
	root, d := servedTree(t)
	if err := os.Truncate(put(t, filepath.Join(root, "big"), ""), 512<<20); err != nil {
		t.Fatal(err)
	}
	onWire(t, func(w *wire) {
		w.serve(slowDir{d, time.Second})
		time.AfterFunc(5*time.Second, func() { w.listen.Close() })
		_, took, err := w.get(func(o *GetOptions) { o.URL.Path = "big" })
		wantKind(w.t, err, KindNetwork, `ask 10.0.0.1:4433 for "big"`)
		if took > 7*time.Second {
			w.t.Errorf("the client noticed after %v", took)
		}
	})
}

// What a client sends never reaches the log raw.
func TestServerLogsNamesQuoted(t *testing.T) {
	_, d := servedTree(t)
	onWire(t, func(w *wire) {
		w.serve(d)
		c := w.dial()
		defer c.CloseWithError(0, "")
		w.ask(c, request(1, "x\x1b[2J\n level=ERROR msg=forged"), true)
		time.Sleep(time.Second)
		synctest.Wait()
		if log := w.log.String(); strings.Contains(log, "\x1b") || strings.Contains(log, "\n level=ERROR") {
			w.t.Errorf("the log is forged: %q", log)
		}
	})
}
