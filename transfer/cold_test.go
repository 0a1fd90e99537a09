package transfer

import (
	"bytes"
	"context"
	"errors"
	"kwikcp/integrity"
	"kwikcp/internal/rangeset"
	"kwikcp/kwik"
	"kwikcp/transfer/disk"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"kwikcp/transfer/internal/transfertest"
	transferpb "kwikcp/transfer/internal/wire/proto"
)

// asked is a content that notes what is asked of it.
type asked struct {
	kwik.Content
	mu   *sync.Mutex
	seen *rangeset.Set
}

func (a asked) ReadAt(p []byte, off int64) (int, error) {
	a.mu.Lock()
	a.seen.Add(off, off+int64(len(p)))
	a.mu.Unlock()
	return a.Content.ReadAt(p, off)
}

// A coldNet is a network with a server that hashes theFile while a client fetches it.
type coldNet struct {
	*testNet
	target string
	mu     sync.Mutex
	seen   rangeset.Set // the bytes of theFile that the client requested
}

func inCold(t *testing.T, act func(w *coldNet, p *peer), f func(w *coldNet)) {
	target := filepath.Join(t.TempDir(), "file")
	onWire(t, func(w *testNet) {
		c := &coldNet{testNet: w, target: target}
		w.hostile(func(context.Context, kwik.ContentRequest) (kwik.Content, error) {
			return asked{bytesContent{bytes.NewReader(theFile)}, &c.mu, &c.seen}, nil
		}, func(p *peer) { act(c, p) })
		f(c)
	})
}

func (w *coldNet) fetch(change ...func(*GetOptions)) (Result, error) {
	o := GetOptions{URL: URL{Host: transfertest.ServerAddr.String(), Path: "file"}, TLS: w.TLS(), Target: w.target,
		KWIK: w.Client()}
	for _, f := range change {
		f(&o)
	}
	return Get(w.Ctx, o, NoReport{})
}

// wantAsked fails the test unless the client requested exactly the first n bytes.
func (w *coldNet) wantAsked(n int64) {
	w.T.Helper()
	time.Sleep(5 * time.Second)
	w.mu.Lock()
	defer w.mu.Unlock()
	if want := rangeset.Of(rangeset.Range{End: n}); w.seen.String() != want.String() {
		w.T.Errorf("the client requested %v, want %v", &w.seen, &want)
	}
}

// offerCold sends a manifest without a root.
func (p *peer) offerCold() (cvs, root []byte) {
	m, cvs := honest()
	p.offer(m, int64(len(theFile)))
	root, m.Root = m.Root, nil
	p.Manifest(m)
	return cvs, root
}

func (p *peer) root(root []byte) {
	p.Reply(&transferpb.Reply{Reply: &transferpb.Reply_Root{Root: &transferpb.Root{Root: root}}})
}

func (p *peer) hashing(n int) {
	p.Reply(&transferpb.Reply{Reply: &transferpb.Reply_Hashing{Hashing: &transferpb.Hashing{
		Bytes: uint64(n), Total: uint64(len(theFile)),
	}}})
}

// TestColdStart checks that the client fetches verifiable bytes, and no others, while the
// server hashes. The client renames the file into place when it knows the root.
func TestColdStart(t *testing.T) {
	inCold(t, func(w *coldNet, p *peer) {
		cvs, root := p.offerCold()
		w.wantAsked(0)
		p.hashing(1)
		w.wantAsked(0)
		p.Tree(cvs[:32])
		w.wantAsked(65536)
		p.hashing(70_000)
		p.Tree(cvs[32:96])
		w.wantAsked(3 * 65536)
		p.Tree(cvs[96:])
		w.wantAsked(int64(len(theFile)))
		if _, err := os.Stat(w.target); !errors.Is(err, os.ErrNotExist) {
			w.T.Errorf("in place before its root is known: %v", err)
		}
		p.root(root)
		p.Stream.Close()
	}, func(w *coldNet) {
		r, err := w.fetch()
		if err != nil {
			w.T.Fatal(err)
		}
		if r.Root == (integrity.Root{}) {
			w.T.Error("the result has no root")
		}
		wantEqual(w.T, "bytes", r.Bytes, int64(len(theFile)))
		wantEqual(w.T, "bytes wasted", r.Wasted, 0)
		wantEqual(w.T, "bytes resumed", r.Resumed, 0)
		transfertest.WantContent(w.T, w.target, string(theFile))
	})
}

// TestColdStartThatFails has the server send a wrong rest of the tree after the first bytes.
// The final name stays absent. Bytes that remain are verified before they count.
func TestColdStartThatFails(t *testing.T) {
	for name, x := range map[string]struct {
		act  func(p *peer, cvs, root []byte)
		kind Kind
	}{
		"it changed": {func(p *peer, _, _ []byte) { p.Failure(transferpb.Failure_CHANGED) }, KindChanged},
		"another root": {func(p *peer, cvs, root []byte) { p.Tree(cvs[64:]); root[0]++; p.root(root) },
			KindIntegrity},
		"a value is wrong": {func(p *peer, cvs, root []byte) { cvs[127]++; p.Tree(cvs[64:]); p.root(root) },
			KindIntegrity},
		"too many values":        {func(p *peer, cvs, _ []byte) { p.Tree(cvs) }, KindOther},
		"root too early":         {func(p *peer, _, root []byte) { p.root(root); p.Stream.Close() }, KindNetwork},
		"no root":                {func(p *peer, cvs, _ []byte) { p.Tree(cvs[64:]); p.Stream.Close() }, KindNetwork},
		"root of another length": {func(p *peer, cvs, root []byte) { p.Tree(cvs[64:]); p.root(root[:31]) }, KindOther},
		"silence":                {func(p *peer, _, _ []byte) {}, KindNetwork},
	} {
		t.Run(name, func(t *testing.T) {
			first := true
			inCold(t, func(w *coldNet, p *peer) {
				if !first { // warm by now
					m, cvs := honest()
					p.offer(m, int64(len(theFile)))
					p.Manifest(m)
					p.Tree(cvs)
					p.Stream.Close()
					return
				}
				first = false
				cvs, root := p.offerCold()
				p.Tree(cvs[:64])
				w.wantAsked(2 * 65536)
				x.act(p, cvs, root)
			}, func(w *coldNet) {
				r, err := w.fetch()
				wantKind(w.T, err, x.kind, "")
				if _, err := os.Stat(w.target); !errors.Is(err, os.ErrNotExist) {
					w.T.Errorf("there is something at the target: %v", err)
				}
				if !r.Kept {
					w.T.Error("the part file is gone")
				}
				r, err = w.fetch()
				if err != nil || r.Resumed < 2*65536 {
					w.T.Errorf("the next one: %v, resumed %d", err, r.Resumed)
				}
				transfertest.WantContent(w.T, w.target, string(theFile))
			})
		})
	}
}

// TestColdStartWithRestart checks that a get goes on after its server has closed the session.
func TestColdStartWithRestart(t *testing.T) {
	first := true
	inCold(t, func(w *coldNet, p *peer) {
		if !first { // warm by now
			m, cvs := honest()
			p.offer(m, int64(len(theFile)))
			p.Manifest(m)
			p.Tree(cvs)
			p.Stream.Close()
			return
		}
		first = false
		cvs, _ := p.offerCold()
		p.Tree(cvs[:64])
		w.wantAsked(2 * 65536)
		p.ServerSession.CloseWithError(0, "")
	}, func(w *coldNet) {
		if _, err := w.fetch(); err != nil {
			w.T.Error(err)
		}
		transfertest.WantContent(w.T, w.target, string(theFile))
	})
}

// TestColdStartIsNotForAll lists the transfers that wait for the tree: those that expect a
// root, that read in order, or that may find bytes locally.
func TestColdStartIsNotForAll(t *testing.T) {
	for name, x := range map[string]struct {
		before func(w *coldNet)
		change func(*GetOptions)
	}{
		"a checksum": {nil, func(o *GetOptions) {
			m, _ := honest()
			root := integrity.Root(m.Root)
			o.URL.Root = &root
		}},
		"in order": {nil, func(o *GetOptions) { o.Target, o.Output = "", new(bytes.Buffer) }},
		"a range":  {nil, func(o *GetOptions) { o.Range = &ByteRange{First: 1, Last: 70_000} }},
		"reuse":    {nil, func(o *GetOptions) { o.Reuse = true }},
		"a part file": {func(w *coldNet) {
			transfertest.Put(w.T, filepath.Join(filepath.Dir(w.target), partName("file")), "x")
		}, func(*GetOptions) {}},
		"of the size": {func(w *coldNet) { transfertest.Put(w.T, w.target, string(make([]byte, len(theFile)))) },
			func(*GetOptions) {}},
		"up to date": {func(w *coldNet) { transfertest.Put(w.T, w.target, string(theFile)) }, func(*GetOptions) {}},
	} {
		t.Run(name, func(t *testing.T) {
			inCold(t, func(w *coldNet, p *peer) {
				cvs, root := p.offerCold()
				p.Tree(cvs)
				w.wantAsked(0)
				p.root(root)
				p.Stream.Close()
			}, func(w *coldNet) {
				if x.before != nil {
					x.before(w)
				}
				if _, err := w.fetch(x.change); err != nil {
					w.T.Error(err)
				}
			})
		})
	}
}

// hashedSlowly is a Dir whose files take a while to read in the blocks that are hashed at once,
// and which counts these.
type hashedSlowly struct {
	disk.TreeDir
	blocks *atomic.Int64
}

func (d hashedSlowly) Open(name string) (disk.File, error) {
	f, err := d.TreeDir.Open(name)
	if err != nil {
		return nil, err
	}
	return hashedFile{f, d.blocks}, nil
}

type hashedFile struct {
	disk.File
	blocks *atomic.Int64
}

func (f hashedFile) ReadAt(p []byte, off int64) (int, error) {
	if len(p) == 1<<20 {
		f.blocks.Add(1)
		time.Sleep(time.Second)
	}
	return f.File.ReadAt(p, off)
}

// earlyBytes counts the bytes that arrive before the root is known.
type earlyBytes struct {
	NoReport
	hashing int
	late    bool
	bytes   int64
}

func (e *earlyBytes) Hashing(int64, int64) { e.hashing++ }
func (e *earlyBytes) Manifest(Manifest)    { e.late = true }
func (e *earlyBytes) Progress(p Progress) {
	if !e.late {
		e.bytes = p.Bytes
	}
}

// TestServerStartsCold checks that our server sends bytes before it has hashed a file. It
// hashes the file once for all clients. It reports its progress to them and in its log.
func TestServerStartsCold(t *testing.T) {
	root, d := transfertest.OpenTreeWithTraps(t)
	content := make([]byte, 24<<20)
	for i := range content {
		content[i] = byte(i * i >> 7)
	}
	transfertest.Put(t, filepath.Join(root, "big"), string(content))
	targets := []string{filepath.Join(t.TempDir(), "a"), filepath.Join(t.TempDir(), "b")}
	onWire(t, func(w *testNet) {
		var blocks atomic.Int64
		w.serve(hashedSlowly{d, &blocks})
		var wg sync.WaitGroup
		for _, target := range targets {
			wg.Go(func() {
				early := &earlyBytes{}
				r, err := Get(w.Ctx, GetOptions{URL: URL{Host: transfertest.ServerAddr.String(), Path: "big"},
					TLS: w.TLS(), Target: target, KWIK: w.Client()}, early)
				if err != nil || r.Wasted > 0 {
					w.T.Errorf("%+v, %v", r, err)
				}
				if early.bytes < int64(len(content))/2 || early.hashing == 0 {
					w.T.Errorf("%d bytes preceded the manifest, with %d reports of hashing", early.bytes, early.hashing)
				}
				transfertest.WantContent(w.T, target, string(content))
			})
		}
		wg.Wait()
		if n := blocks.Load(); n != 24 {
			w.T.Errorf("%d blocks were hashed", n)
		}
		if log := w.Log.String(); !strings.Contains(log, "msg=hashing path=big") ||
			!strings.Contains(log, "msg=hashed path=big") {
			w.T.Errorf("the log says nothing of it:\n%s", log)
		}
	})
}

// TestColdAfterAnotherVersion checks that bytes which one attempt received without a root do
// not count in the next. This holds even if the server has the earlier version again.
func TestColdAfterAnotherVersion(t *testing.T) {
	other := bytes.Clone(theFile) // another version of the same size
	for i := range other {
		other[i] ^= 0x5a
	}
	target := filepath.Join(t.TempDir(), "out")
	var r Result
	var err error
	onWire(t, func(w *testNet) {
		var sessions atomic.Int32
		w.hostile(func(context.Context, kwik.ContentRequest) (kwik.Content, error) {
			c := theFile
			if sessions.Load() == 2 {
				c = other
			}
			return bytesContent{bytes.NewReader(c)}, nil
		}, func(p *peer) {
			whole, n := theFile, sessions.Add(1)
			if n == 2 {
				whole = other
			}
			tree := treeOf(whole)
			root := tree.Root()
			m := &transferpb.Manifest{Size: uint64(len(whole)), Root: root[:], Group: uint32(tree.GroupSize())}
			if n == 1 {
				m.KwikStreamId = 1 << 62 // the answer arrives, the content does not
				p.Manifest(m)
				p.Tree(tree.CVs())
				time.Sleep(time.Second)
				p.ServerSession.CloseWithError(0x4b570005, "gone")
				return
			}
			p.offer(m, int64(len(whole)))
			if n == 2 { // restarted: hashes another version, and is lost before it says the root
				m.Root = nil
				p.Manifest(m)
				p.Tree(tree.CVs())
				time.Sleep(5 * time.Second)
				p.ServerSession.CloseWithError(0x4b570005, "gone")
				return
			}
			p.Manifest(m)
			p.Tree(tree.CVs())
			p.Stream.Close()
		})
		r, err = getWhole(t, w.Ctx, GetOptions{
			URL: URL{Host: transfertest.ServerAddr.String(), Path: "file"}, TLS: w.TLS(), Target: target,
			KWIK: w.Client(), Retries: 5,
		}, NoReport{})
	})
	if err != nil {
		t.Fatalf("%+v, %v", r, err)
	}
	transfertest.WantContent(t, target, string(theFile))
}
