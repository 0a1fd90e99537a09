package serve

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"kwikcp/kwik"
	"kwikcp/transfer/disk"
	"kwikcp/transfer/internal/transfertest"
	"kwikcp/transfer/internal/wire"
	"kwikcp/transfer/source"
	"log/slog"
	"path/filepath"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	transferpb "kwikcp/transfer/internal/wire/proto"
)

// TestFarBatch lets a primary and a secondary of roots at 30 ms serve a batch of 300 files of 16
// KiB. One after the other takes 9 s.
func TestFarBatch(t *testing.T) {
	transfertest.OnNet(t, func(w *transfertest.Net) {
		root := newFarRoot(300, 16<<10)
		s := NewServer(root, w.Logger())
		w.Serve(s)
		session := w.Dial()
		defer session.CloseWithError(0, "")
		start := time.Now()
		request := root.batchOn(w, s, session)
		if took := time.Since(start); took > time.Second {
			w.T.Errorf("the batch is described after %v", took)
		}
		copies := newFarRoot(300, 16<<10)
		secondary := NewServer(copies, w.Logger())
		defer secondary.Close()
		d, _ := parseBatchDescriptor(request.Descriptor)
		for _, x := range []struct {
			s   *Server
			r   *farRoot
			why purpose
		}{{s, root, primaryServes}, {secondary, copies, secondaryServes}} {
			start := time.Now()
			c, err := x.s.openBatchContent(w.Ctx, d, request, x.why)
			if err != nil {
				w.T.Fatal(err)
			}
			if n := len(c.(kwik.PartialContent).Missing()); n > 0 {
				w.T.Errorf("%v: %d ranges are missing", x.why, n)
			}
			if err := x.r.read(c, request.Size); err != nil {
				w.T.Errorf("%v: %v", x.why, err)
			}
			c.Close()
			took := time.Since(start)
			w.T.Logf("%v: %v, at most %d requests at once", x.why, took, x.r.most)
			if took > 1500*time.Millisecond || x.r.most > farParallel+1 {
				w.T.Errorf("%v: %v, %d requests at once", x.why, took, x.r.most)
			}
			for name := range x.r.files {
				most := 1
				if x.why == primaryServes {
					most = 2 // it hashes it
				}
				if x.r.opens[name] > most || x.r.ahead[name] == 0 {
					w.T.Errorf("%v: %s was opened %d times, %d bytes ahead",
						x.why, name, x.r.opens[name], x.r.ahead[name])
				}
			}
			if x.r.open != 0 {
				w.T.Errorf("%v: %d objects are open", x.why, x.r.open)
			}
		}
	})
}

// TestFarBatchOfReleasedRanges announces ranges that are not read. Those that are read arrive, and
// the memory is bounded.
func TestFarBatchOfReleasedRanges(t *testing.T) {
	transfertest.OnNet(t, func(w *transfertest.Net) {
		root := newFarRoot(300, 16<<10)
		s := NewServer(root, w.Logger())
		w.Serve(s)
		session := w.Dial()
		defer session.CloseWithError(0, "")
		request := root.batchOn(w, s, session)
		d, _ := parseBatchDescriptor(request.Descriptor)
		content, err := s.openBatchContent(w.Ctx, d, request, primaryServes)
		if err != nil {
			w.T.Fatal(err)
		}
		c := content.(*batchContent)
		for range 1000 {
			c.Prefetch(0, request.Size)
		}
		if len(c.ahead.wanted) > maxAnnounced || len(c.ahead.begun) > farParallel {
			w.T.Errorf("%d ranges and %d files", len(c.ahead.wanted), len(c.ahead.begun))
		}
		p := make([]byte, 16<<10)
		for i := 290; i >= 0; i -= 29 { // no order of grants
			want := root.files[fmt.Sprintf("%08d", i)]
			if _, err := c.ReadAt(p, int64(i)*int64(len(p))); err != nil || !bytes.Equal(p, want) {
				w.T.Errorf("file %d: %v", i, err)
			}
		}
		if len(c.ahead.begun) > farParallel {
			w.T.Errorf("%d files are begun", len(c.ahead.begun))
		}
		c.Close()
		if root.open != 0 {
			w.T.Errorf("%d objects are open", root.open)
		}
	})
}

// TestFarSecondary serves copies whose times are rounded, without hashing a byte. It does not know
// whether they are right, whatever the primary asks.
func TestFarSecondary(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		root := newFarRoot(1, 5<<20)
		const name = "00000000"
		content := root.files[name]
		s := NewServer(root, slog.New(slog.DiscardHandler))
		defer s.Close()
		request := wantedAt(name, content, time.Unix(1e9, 123456789))
		start := time.Now()
		c, err := s.openFile(t.Context(), request, secondaryServes)
		if err != nil {
			t.Fatal(err)
		}
		if took := time.Since(start); took > 2*root.delay {
			t.Errorf("opened after %v", took)
		}
		if err := root.read(c, int64(len(content))); err != nil {
			t.Error(err)
		}
		c.Close()
		if root.ahead[name] != int64(len(content)) {
			t.Errorf("%d bytes ahead", root.ahead[name])
		}
		if _, err := s.openFile(t.Context(), request, secondaryVerifies); !errors.Is(err, kwik.ErrServerBusy) {
			t.Errorf("a challenge: %v", err)
		}
		files := wire.AppendFile(nil, wire.BatchFile{}, wire.BatchFile{Path: name, Size: int64(len(content))})
		_, err = s.openBatchContent(t.Context(), batchDescriptor{files: files}, request, secondaryVerifies)
		if !errors.Is(err, kwik.ErrServerBusy) {
			t.Errorf("a challenge of a batch: %v", err)
		}
		if root.opens[name] != 1 {
			t.Errorf("opened %d times", root.opens[name])
		}
		longer := wantedAt(name, append(content, 0), time.Unix(1e9, 0))
		if _, err := s.openFile(t.Context(), longer, secondaryServes); !errors.Is(err, errNoContent) {
			t.Errorf("a copy of another size: %v", err)
		}
		synctest.Wait()
		if root.open != 0 {
			t.Errorf("%d objects are open", root.open)
		}
	})
}

// TestFarErrors gives each error of a store its meaning: clients try another server, or again.
func TestFarErrors(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		root := newFarRoot(1, 100)
		const name = "00000000"
		content := root.files[name]
		s := NewServer(root, slog.New(slog.DiscardHandler))
		defer s.Close()
		gone := &source.Unavailable{Root: "far", Err: syscall.ECONNREFUSED}
		files := wire.AppendFile(nil, wire.BatchFile{}, wire.BatchFile{Path: name, Size: 100})
		for _, x := range []struct {
			open, read error
			want       error
			message    string
		}{
			{syscall.ECONNREFUSED, nil, kwik.ErrServerBusy, messageUnavailable},
			{fs.ErrPermission, nil, kwik.ErrServerBusy, messageUnavailable}, // wrapped in an Unavailable
			{nil, gone, kwik.ErrServerBusy, messageUnavailable},
			{nil, fmt.Errorf("GET: %w", gone), kwik.ErrServerBusy, messageUnavailable},
			{nil, disk.ErrChanged, kwik.ErrContentChanged, errFileChanged.Message},
			{nil, &fs.PathError{Op: "read", Err: disk.ErrChanged}, kwik.ErrContentChanged, errFileChanged.Message},
			{nil, errors.New("nonsense"), kwik.ErrContentUnavailable, errContentFailed.Message},
		} {
			root.fail, root.inRead = x.open, x.read
			for kind, open := range map[string]func() (kwik.Content, error){
				"file": func() (kwik.Content, error) {
					return s.openFile(t.Context(), wantedAt(name, content, time.Unix(1e9, 0)), secondaryServes)
				},
				"batch": func() (kwik.Content, error) {
					r := kwik.ContentRequest{Size: 100}
					return s.openBatchContent(t.Context(), batchDescriptor{files: files}, r, secondaryServes)
				},
			} {
				c, err := open()
				if err == nil {
					if p, ok := c.(kwik.PartialContent); ok && len(p.Missing()) > 0 {
						err = p.Missing()[0].Err
					} else {
						_, err = c.ReadAt(make([]byte, 100), 0)
					}
					c.Close()
				}
				e, ok := errors.AsType[*kwik.Error](err)
				if !errors.Is(err, x.want) || !ok || e.Message != x.message {
					t.Errorf("%s, open %v, read %v: %v", kind, x.open, x.read, err)
				}
			}
		}
		root.fail, root.inRead = nil, nil
	})
}

// TestFarReadEnds ends a read that gets no answer when its client leaves, and one that hashes when
// the server is closed.
func TestFarReadEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		root := newFarRoot(1, 2<<20)
		root.block = true
		const name = "00000000"
		s := NewServer(root, slog.New(slog.DiscardHandler))
		files := wire.AppendFile(nil, wire.BatchFile{}, wire.BatchFile{Path: name, Size: 2 << 20})
		for kind, open := range map[string]func(context.Context) (kwik.Content, error){
			"file": func(ctx context.Context) (kwik.Content, error) {
				return s.openFile(ctx, wantedAt(name, root.files[name], time.Unix(1e9, 0)), secondaryServes)
			},
			"batch": func(ctx context.Context) (kwik.Content, error) {
				r := kwik.ContentRequest{Size: 2 << 20}
				return s.openBatchContent(ctx, batchDescriptor{files: files}, r, secondaryServes)
			},
		} {
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			c, err := open(ctx)
			if err != nil {
				t.Fatal(kind, err)
			}
			if n, err := c.ReadAt(make([]byte, 1000), 0); err == nil {
				t.Errorf("%s: %d bytes", kind, n)
			}
			c.Close()
			cancel()
		}
		claim := s.claim(client{}, name, (&farObject{content: root.files[name]}).Version())
		time.Sleep(time.Minute)
		s.Close()
		if err := claim.failure(); !errors.Is(err, context.Canceled) || root.open != 0 {
			t.Errorf("hashing ends with %v, %d objects are open", err, root.open)
		}
	})
}

// TestFarHashing fetches ahead of hashing by some blocks, in steps, and the whole file in the end.
func TestFarHashing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		root := newFarRoot(0, 0)
		content := make([]byte, 40<<20+5)
		root.files["f"] = content
		s := NewServer(root, slog.New(slog.DiscardHandler))
		defer s.Close()
		far := &farObject{root: root, name: "f", content: content, closed: make(chan struct{})}
		r := fetchAhead(far, 0, int64(len(content)))
		p := make([]byte, 1<<20)
		calls, last := 0, int64(0)
		for off := int64(0); off < int64(len(content)); off += int64(len(p)) {
			n := min(int64(len(p)), int64(len(content))-off)
			if _, err := r.ReadAt(p[:n], off); err != nil {
				t.Fatal(err)
			}
			ahead := root.ahead["f"]
			least, most := off+hashAhead-hashStep, off+n+hashAhead
			if size := int64(len(content)); ahead < min(least, size) || ahead > min(most, size) {
				t.Errorf("at %d: %d bytes were requested", off, ahead)
			}
			if ahead != last {
				calls, last = calls+1, ahead
			}
		}
		if calls > len(content)/hashStep+2 {
			t.Errorf("%d calls", calls)
		}
		tree, err := s.hash(t.Context(), client{}, "f", far.Version())
		if err != nil || tree.Size() != int64(len(content)) {
			t.Errorf("%v", err)
		}
	})
}

// TestFarRootIsNotSwept makes no request for the records of the tree store, and for scrubbing.
func TestFarRootIsNotSwept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		root := newFarRoot(1, 100)
		store := newStore(t, filepath.Join(t.TempDir(), "trees.db"))
		version := disk.Version{Size: minStored, MTime: 1, Tag: [16]byte{9}}
		if err := store.put("gone", version, randomTree(t, minStored, 1), later); err != nil {
			t.Fatal(err)
		}
		s := NewServer(root, slog.New(slog.DiscardHandler))
		s.KeepTrees(store)
		s.Scrub(time.Second, ScrubRate)
		time.Sleep(time.Minute)
		s.Close()
		if root.stats+len(root.opens) > 0 || store.Len() != 1 {
			t.Errorf("%d requests, %d records", root.stats, store.Len())
		}
	})
}

// TestFarNamesAreHidden asks once for a name, however deep, and gives hidden ones the error of
// missing ones.
func TestFarNamesAreHidden(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		root := newFarRoot(0, 0)
		for _, name := range []string{"a/b/c/shown", "a/private/x", "a/.kwikcp-x.part", "secret"} {
			root.files[name] = []byte("content")
		}
		visible := newVisible(root, &visibility{excluded: func(path string, isDir bool) bool {
			return path == "a/private" && isDir || path == "secret"
		}})
		for name, isShown := range map[string]bool{
			"a/b/c/shown": true, "a/private/x": false, "a/.kwikcp-x.part": false, "secret": false, "a/missing": false,
		} {
			for op, ask := range map[string]func() error{
				"open": func() error {
					f, err := visible.Open(t.Context(), name)
					if err == nil {
						f.Close()
					}
					return err
				},
				"stat":  func() error { _, err := visible.Stat(t.Context(), name); return err },
				"lstat": func() error { _, err := visible.Lstat(t.Context(), name); return err },
			} {
				start := time.Now()
				err := ask()
				if isShown != (err == nil) || !isShown && !errors.Is(err, fs.ErrNotExist) {
					t.Errorf("%s %s: %v", op, name, err)
				}
				if took := time.Since(start); took != root.delay {
					t.Errorf("%s %s took %v", op, name, took)
				}
			}
		}
		if root.open != 0 {
			t.Errorf("%d objects are open", root.open)
		}
	})
}

// TestFarRootIsSilent tells the client that the server is busy before the client gives up.
func TestFarRootIsSilent(t *testing.T) {
	transfertest.OnNet(t, func(w *transfertest.Net) {
		root := newFarRoot(1, 100)
		root.delay = time.Hour
		s := NewServer(root, w.Logger())
		w.Serve(s)
		session := w.Dial()
		defer session.CloseWithError(0, "")
		start := time.Now()
		replies, err := w.Ask(session, transfertest.Request(wire.ProtocolVersion, "00000000"), true)
		f := failure(w.T, replies, err)
		if f.GetCode() != transferpb.Failure_BUSY || time.Since(start) > requestTimeout {
			w.T.Errorf("%v after %v", f, time.Since(start))
		}
	})
}
