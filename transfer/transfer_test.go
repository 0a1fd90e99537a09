package transfer

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"kwikcp/integrity"
	"kwikcp/internal/trust"
	"kwikcp/kwik"
	"kwikcp/transfer/disk"
	"kwikcp/transfer/internal/transfertest"
	"kwikcp/transfer/serve"
	"kwikcp/transfer/source"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/zeebo/blake3"
)

var joinToken = []byte("a token of 16 bytes")

// A roundCall makes the servers of a test wait for one another: none delivers before all were
// asked.
type roundCall struct {
	left atomic.Int32
	all  chan struct{}
}

func newRoundCall(n int32) *roundCall {
	r := &roundCall{all: make(chan struct{})}
	r.left.Store(n)
	return r
}

func (r *roundCall) wait(ctx context.Context) {
	if r.left.Add(-1) == 0 {
		close(r.all)
	}
	select {
	case <-r.all:
	case <-ctx.Done():
	}
}

// serveOnLoopback starts a server of a directory on a real socket.
func serveOnLoopback(t *testing.T, role kwik.ServerRole, root string, call *roundCall) (*kwik.Listener, trust.Pin) {
	t.Helper()
	d, err := disk.OpenTree(root, false)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := trust.NewIdentity(time.Now())
	if err != nil {
		t.Fatal(err)
	}
	s := serve.NewServer(source.Local(d), slog.New(slog.DiscardHandler))
	l, err := kwik.ListenAddr("127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{cert}}, &kwik.ServerConfig{
		Role: role, JoinToken: joinToken,
		OpenContent: func(ctx context.Context, r kwik.ContentRequest) (kwik.Content, error) {
			call.wait(ctx)
			return s.OpenContent(ctx, r)
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() { s.Serve(t.Context(), l) })
	t.Cleanup(func() {
		l.Close()
		wg.Wait()
		s.Close()
		d.Close()
	})
	return l, trust.PinOf(cert.Leaf)
}

// TestFileTransferWithSecondaryStreams is a whole transfer with nothing simulated: three servers
// and a client with real sockets, and files on a real disk. Every server delivers a part of the
// one file.
func TestFileTransferWithSecondaryStreams(t *testing.T) {
	content := make([]byte, 8<<20)
	rand.NewChaCha8([32]byte{8}).Read(content)
	roots := make([]string, 3)
	for i := range roots {
		roots[i] = t.TempDir()
		if err := os.WriteFile(filepath.Join(roots[i], "file"), content, 0o640); err != nil {
			t.Fatal(err)
		}
	}
	call := newRoundCall(3)
	primary, pin := serveOnLoopback(t, kwik.ServerRolePrimary, roots[0], call)
	for _, root := range roots[1:] {
		l, _ := serveOnLoopback(t, kwik.ServerRoleSecondary, root, call)
		if _, err := l.Join(t.Context(), primary.Addr().String(), kwik.JoinConfig{Token: joinToken}); err != nil {
			t.Fatal(err)
		}
	}

	target := filepath.Join(t.TempDir(), "copy")
	var heard recordedReports
	result, err := getWhole(t, t.Context(), GetOptions{
		URL: URL{Host: primary.Addr().String(), Path: "file"}, TLS: trust.PinnedClientConfig(nil, pin), Target: target,
	}, &heard)
	if err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(target)
	if err != nil || !bytes.Equal(got, content) {
		t.Fatalf("%d bytes are in place, %v", len(got), err)
	}
	wantNames(t, filepath.Dir(target), "copy")

	root := integrity.Root(blake3.Sum256(content))
	if result.Root != root || result.Bytes != int64(len(content)) {
		t.Errorf("result %+v", result)
	}
	if result.Path != target || result.Seconds <= 0 {
		t.Errorf("%q in %v s", result.Path, result.Seconds)
	}
	if heard.manifest.Size != int64(len(content)) || heard.manifest.Root != root {
		t.Errorf("manifest %+v", heard.manifest)
	}
	if p := heard.last; p.Bytes != p.Total || p.Total != int64(len(content)) {
		t.Errorf("the last progress is %+v", p)
	}
	if len(result.Servers) != 3 {
		t.Fatalf("servers %+v", result.Servers)
	}
	sum := int64(0)
	for _, s := range result.Servers {
		if s.Bytes == 0 || s.State != ServerJoined || heard.states[s.ID] != ServerJoined {
			t.Errorf("server %+v, reported as %v", s, heard.states[s.ID])
		}
		sum += s.Bytes
	}
	if sum != result.Bytes {
		t.Errorf("the servers delivered %d of %d bytes", sum, result.Bytes)
	}
}

// recordedReports keeps what was reported last.
type recordedReports struct {
	NoReport
	manifest Manifest
	resumed  int64
	retries  []Retry
	last     Progress
	states   map[kwik.ServerID]ServerState
}

func (r *recordedReports) Manifest(m Manifest) { r.manifest = m }
func (r *recordedReports) Resume(n int64)      { r.resumed = n }
func (r *recordedReports) Retry(x Retry)       { r.retries = append(r.retries, x) }
func (r *recordedReports) Progress(p Progress) { r.last = p }
func (r *recordedReports) Server(s ServerStatus) {
	if r.states == nil {
		r.states = make(map[kwik.ServerID]ServerState)
	}
	r.states[s.ID] = s.State
}

// A meddledDir lets something happen before the n-th read of a file.
type meddledDir struct {
	disk.TreeDir
	left   atomic.Int32
	meddle func()
}

func (d *meddledDir) Open(name string) (disk.File, error) {
	f, err := d.TreeDir.Open(name)
	if err != nil {
		return nil, err
	}
	return meddledFile{f, d}, nil
}

type meddledFile struct {
	disk.File
	d *meddledDir
}

func (f meddledFile) ReadAt(p []byte, off int64) (int, error) {
	if f.d.left.Add(-1) == 0 {
		f.d.meddle()
	}
	return f.File.ReadAt(p, off)
}

// TestFileThatChangesOnTheServer changes the file before one of the reads of a transfer, while it is
// hashed or sent. The client gets the old file, the new one, or an error of KindChanged. It never gets
// a mixture.
func TestFileThatChangesOnTheServer(t *testing.T) {
	old, changed := make([]byte, 3<<20+99), make([]byte, 3<<20+99)
	rand.NewChaCha8([32]byte{1}).Read(old)
	rand.NewChaCha8([32]byte{2}).Read(changed)
	for name, change := range map[string]func(path string) error{
		"rewritten in place": func(path string) error { return os.WriteFile(path, changed, 0o644) },
		"a byte rewritten, and its time set back": func(path string) error {
			info, err := os.Stat(path)
			f, err2 := os.OpenFile(path, os.O_WRONLY, 0)
			if err2 == nil {
				_, err2 = f.WriteAt([]byte{^old[2<<20]}, 2<<20)
				f.Close()
			}
			return errors.Join(err, err2, os.Chtimes(path, info.ModTime(), info.ModTime()))
		},
		"replaced": func(path string) error {
			return errors.Join(os.WriteFile(path+".new", changed, 0o644), os.Rename(path+".new", path))
		},
		"cut short": func(path string) error { return os.Truncate(path, 1<<20) },
		"grown":     func(path string) error { return os.Truncate(path, 4<<20) },
		"removed":   os.Remove,

		// These leave the bytes that are being sent as they are.
		"appended to": func(path string) error {
			f, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND, 0)
			if err == nil {
				_, err = f.WriteString("more")
				f.Close()
			}
			return err
		},
		"renamed": func(path string) error { return os.Rename(path, path+".old") },
		"linked":  func(path string) error { return os.Link(path, path+".link") },
		"chmod":   func(path string) error { return os.Chmod(path, 0o600) },
		"touched": func(path string) error { return os.Chtimes(path, transfertest.SomeTime, transfertest.SomeTime) },
	} {
		harmless := slices.Contains([]string{"removed", "replaced", "grown", "appended to", "renamed", "linked",
			"chmod", "touched"}, name)
		t.Run(name, func(t *testing.T) {
			outcomes := make(map[string]int)
			for _, read := range []int32{1, 4, 5, 6, 11, 17} { // of 4 to hash and 13 to send
				root := t.TempDir()
				path := filepath.Join(root, "file")
				if err := os.WriteFile(path, old, 0o644); err != nil {
					t.Fatal(err)
				}
				d, err := disk.OpenTree(root, false)
				if err != nil {
					t.Fatal(err)
				}
				meddled := &meddledDir{TreeDir: d, meddle: func() {
					if err := change(path); err != nil {
						t.Error(err)
					}
				}}
				meddled.left.Store(read)
				target := transfertest.Put(t, filepath.Join(t.TempDir(), "out"), "before")
				var got []byte
				onWire(t, func(w *testNet) {
					w.serve(meddled)
					_, _, err = w.get(func(o *GetOptions) { o.Output, o.Target = nil, target })
				})
				d.Close()
				if got, _ = os.ReadFile(target); err != nil {
					transfertest.WantContent(t, target, "before")
					e, ok := errors.AsType[*Error](err)
					kindFits := ok && e.Kind == KindChanged
					if name == "removed" {
						kindFits = kindFits || ok && e.Kind == KindNotFound
					}
					if !kindFits {
						t.Errorf("before read %d: %v", read, err)
					}
					if harmless && read > 5 { // hashed, and opened to be sent
						t.Errorf("before read %d: %v, although the bytes are there", read, err)
					}
					outcomes["error"]++
				} else {
					switch {
					case bytes.Equal(got, old):
						outcomes["old"]++
					case bytes.Equal(got, changed):
						outcomes["new"]++
					default:
						t.Errorf("before read %d: the file in place is a mixture", read)
					}
				}
				if now, gone := os.ReadFile(path); gone == nil { // and the same command again gets what is there now
					d, err := disk.OpenTree(root, false)
					if err != nil {
						t.Fatal(err)
					}
					onWire(t, func(w *testNet) {
						w.serve(d)
						_, _, err = w.get(func(o *GetOptions) { o.Output, o.Target = nil, target })
					})
					d.Close()
					if got, _ := os.ReadFile(target); err != nil || !bytes.Equal(got, now) {
						t.Errorf("before read %d, and again: %d bytes of %d, %v", read, len(got), len(now), err)
					}
					wantNames(t, filepath.Dir(target), "out")
				}
			}
			t.Logf("%v", outcomes)
		})
	}
}
