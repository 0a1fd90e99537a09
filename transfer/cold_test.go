package transfer

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"kwikcp/integrity"
	"kwikcp/internal/rangeset"
	"kwikcp/kwik"
	transferpb "kwikcp/transfer/proto"
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

// A cold wire is a server that hashes theFile while a client fetches it.
type coldWire struct {
	*wire
	target string
	mu     sync.Mutex
	seen   rangeset.Set // of theFile, that was asked for
}

func inCold(t *testing.T, act func(w *coldWire, p *peer), f func(w *coldWire)) {
	target := filepath.Join(t.TempDir(), "file")
	onWire(t, func(w *wire) {
		c := &coldWire{wire: w, target: target}
		w.hostile(func(context.Context, kwik.ContentRequest) (kwik.Content, error) {
			return asked{bytesContent{bytes.NewReader(theFile)}, &c.mu, &c.seen}, nil
		}, func(p *peer) { act(c, p) })
		f(c)
	})
}

func (w *coldWire) fetch(change ...func(*GetOptions)) (Result, error) {
	o := GetOptions{URL: URL{Host: serverAddr.String(), Path: "file"}, TLS: w.tls(), Target: w.target, KWIK: w.client()}
	for _, f := range change {
		f(&o)
	}
	return Get(w.ctx, o, NoReport{})
}

// wantAsked fails the test unless exactly the first n bytes have been asked for.
func (w *coldWire) wantAsked(n int64) {
	w.t.Helper()
	time.Sleep(5 * time.Second)
	w.mu.Lock()
	defer w.mu.Unlock()
	if want := rangeset.Of(rangeset.Range{End: n}); w.seen.String() != want.String() {
		w.t.Errorf("%v was asked for, want %v", &w.seen, &want)
	}
}

// offerCold sends a manifest without a root.
func (p *peer) offerCold() (cvs, root []byte) {
	m, cvs := honest()
	p.offer(m, int64(len(theFile)))
	root, m.Root = m.Root, nil
	p.manifest(m)
	return cvs, root
}

func (p *peer) root(root []byte) {
	p.reply(&transferpb.Reply{Reply: &transferpb.Reply_Root{Root: &transferpb.Root{Root: root}}})
}

func (p *peer) hashing(n int) {
	p.reply(&transferpb.Reply{Reply: &transferpb.Reply_Hashing{Hashing: &transferpb.Hashing{Bytes: uint64(n), Total: uint64(len(theFile))}}})
}

// What can be proved is fetched, and nothing else, while the server hashes; the file is put in place when its root is known.
func TestColdStart(t *testing.T) {
	inCold(t, func(w *coldWire, p *peer) {
		cvs, root := p.offerCold()
		w.wantAsked(0)
		p.hashing(1)
		w.wantAsked(0)
		p.tree(cvs[:32])
		w.wantAsked(65536)
		p.hashing(70_000)
		p.tree(cvs[32:96])
		w.wantAsked(3 * 65536)
		p.tree(cvs[96:])
		w.wantAsked(int64(len(theFile)))
		if _, err := os.Stat(w.target); !errors.Is(err, os.ErrNotExist) {
			w.t.Errorf("in place before its root is known: %v", err)
		}
		p.root(root)
		p.stream.Close()
	}, func(w *coldWire) {
		r, err := w.fetch()
		if err != nil {
			w.t.Fatal(err)
		}
		if r.Root == (integrity.Root{}) || r.Bytes != int64(len(theFile)) || r.Wasted != 0 || r.Resumed != 0 {
			w.t.Errorf("%+v", r)
		}
		wantContent(w.t, w.target, string(theFile))
	})
}

// Whatever the server says about the rest of the tree after bytes have come, the final name stays absent, and what was left is proved before
// it counts.
func TestColdStartThatFails(t *testing.T) {
	for name, x := range map[string]struct {
		act  func(p *peer, cvs, root []byte)
		kind Kind
	}{
		"it changed":             {func(p *peer, _, _ []byte) { p.failure(transferpb.Failure_CHANGED) }, KindChanged},
		"another root":           {func(p *peer, cvs, root []byte) { p.tree(cvs[64:]); root[0]++; p.root(root) }, KindIntegrity},
		"a value is wrong":       {func(p *peer, cvs, root []byte) { cvs[127]++; p.tree(cvs[64:]); p.root(root) }, KindIntegrity},
		"too many values":        {func(p *peer, cvs, _ []byte) { p.tree(cvs) }, KindOther},
		"root too early":         {func(p *peer, _, root []byte) { p.root(root); p.stream.Close() }, KindNetwork},
		"no root":                {func(p *peer, cvs, _ []byte) { p.tree(cvs[64:]); p.stream.Close() }, KindNetwork},
		"root of another length": {func(p *peer, cvs, root []byte) { p.tree(cvs[64:]); p.root(root[:31]) }, KindOther},
		"silence":                {func(p *peer, _, _ []byte) {}, KindNetwork},
		"it dies":                {func(p *peer, _, _ []byte) { p.ServerSession.CloseWithError(0, "") }, KindNetwork},
	} {
		t.Run(name, func(t *testing.T) {
			first := true
			inCold(t, func(w *coldWire, p *peer) {
				if !first { // warm by now
					m, cvs := honest()
					p.offer(m, int64(len(theFile)))
					p.manifest(m)
					p.tree(cvs)
					p.stream.Close()
					return
				}
				first = false
				cvs, root := p.offerCold()
				p.tree(cvs[:64])
				w.wantAsked(2 * 65536)
				x.act(p, cvs, root)
			}, func(w *coldWire) {
				r, err := w.fetch()
				wantKind(w.t, err, x.kind, "")
				if _, err := os.Stat(w.target); !errors.Is(err, os.ErrNotExist) {
					w.t.Errorf("there is something at the target: %v", err)
				}
				if !r.Kept {
					w.t.Error("the part file is gone")
				}
				r, err = w.fetch()
				if err != nil || r.Resumed < 2*65536 {
					w.t.Errorf("the next one: %v, resumed %d", err, r.Resumed)
				}
				wantContent(w.t, w.target, string(theFile))
			})
		})
	}
}

// Who knows which root is wanted, reads in order, or has something here that may be of use, waits for the tree.
func TestColdStartIsNotForAll(t *testing.T) {
	for name, x := range map[string]struct {
		before func(w *coldWire)
		change func(*GetOptions)
	}{
		"a checksum": {nil, func(o *GetOptions) {
			m, _ := honest()
			root := integrity.Root(m.Root)
			o.URL.Root = &root
		}},
		"in order":    {nil, func(o *GetOptions) { o.Target, o.Output = "", new(bytes.Buffer) }},
		"a range":     {nil, func(o *GetOptions) { o.Range = &ByteRange{First: 1, Last: 70_000} }},
		"reuse":       {nil, func(o *GetOptions) { o.Reuse = true }},
		"a part file": {func(w *coldWire) { put(w.t, filepath.Join(filepath.Dir(w.target), partName("file")), "x") }, func(*GetOptions) {}},
		"of the size": {func(w *coldWire) { put(w.t, w.target, string(make([]byte, len(theFile)))) }, func(*GetOptions) {}},
		"up to date":  {func(w *coldWire) { put(w.t, w.target, string(theFile)) }, func(*GetOptions) {}},
	} {
		t.Run(name, func(t *testing.T) {
			inCold(t, func(w *coldWire, p *peer) {
				cvs, root := p.offerCold()
				p.tree(cvs)
				w.wantAsked(0)
				p.root(root)
				p.stream.Close()
			}, func(w *coldWire) {
				if x.before != nil {
					x.before(w)
				}
				if _, err := w.fetch(x.change); err != nil {
					w.t.Error(err)
				}
			})
		})
	}
}

// hashedSlowly is a Dir whose files take a while to read in the blocks that are hashed at once, and which counts these.
type hashedSlowly struct {
	Dir
	blocks *atomic.Int64
}

func (d hashedSlowly) Open(name string) (File, error) {
	f, err := d.Dir.Open(name)
	if err != nil {
		return nil, err
	}
	return hashedFile{f, d.blocks}, nil
}

type hashedFile struct {
	File
	blocks *atomic.Int64
}

func (f hashedFile) ReadAt(p []byte, off int64) (int, error) {
	if len(p) == 1<<20 {
		f.blocks.Add(1)
		time.Sleep(time.Second)
	}
	return f.File.ReadAt(p, off)
}

// earlyBytes notes what came before the root was known.
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

// Our own server begins before it has hashed a file, hashes it once for all who ask, and says how far it is, here and in its log.
func TestServerStartsCold(t *testing.T) {
	root, d := servedTree(t)
	content := make([]byte, 64<<20)
	for i := range content {
		content[i] = byte(i * i >> 7)
	}
	put(t, filepath.Join(root, "big"), string(content))
	targets := []string{filepath.Join(t.TempDir(), "a"), filepath.Join(t.TempDir(), "b")}
	onWire(t, func(w *wire) {
		var blocks atomic.Int64
		w.serve(hashedSlowly{d, &blocks})
		var wg sync.WaitGroup
		for _, target := range targets {
			wg.Go(func() {
				early := &earlyBytes{}
				r, err := Get(w.ctx, GetOptions{URL: URL{Host: serverAddr.String(), Path: "big"}, TLS: w.tls(), Target: target, KWIK: w.client()}, early)
				if err != nil || r.Wasted > 0 {
					w.t.Errorf("%+v, %v", r, err)
				}
				if early.bytes < int64(len(content))/2 || early.hashing == 0 {
					w.t.Errorf("%d bytes had come before the manifest, and %d times was said how far hashing is", early.bytes, early.hashing)
				}
				wantContent(w.t, target, string(content))
			})
		}
		wg.Wait()
		if n := blocks.Load(); n != 64 {
			w.t.Errorf("%d blocks were hashed", n)
		}
		if log := w.log.String(); !strings.Contains(log, "msg=hashing path=big") || !strings.Contains(log, "msg=hashed path=big") {
			w.t.Errorf("the log says nothing of it:\n%s", log)
		}
	})
}

// What comes cold, without a root, in one attempt counts for nothing in the next: not even if the version of the attempt before is there again.
func TestColdAfterAnotherVersion(t *testing.T) {
	other := bytes.Clone(theFile) // another version of the same size
	for i := range other {
		other[i] ^= 0x5a
	}
	target := filepath.Join(t.TempDir(), "out")
	var r Result
	var err error
	onWire(t, func(w *wire) {
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
				m.KwikStreamId = 1 << 62 // the answer comes, the content does not
				p.manifest(m)
				p.tree(tree.CVs())
				time.Sleep(time.Second)
				p.ServerSession.CloseWithError(0x4b570005, "gone")
				return
			}
			p.offer(m, int64(len(whole)))
			if n == 2 { // restarted: hashes another version, and is lost before it says the root
				m.Root = nil
				p.manifest(m)
				p.tree(tree.CVs())
				time.Sleep(5 * time.Second)
				p.ServerSession.CloseWithError(0x4b570005, "gone")
				return
			}
			p.manifest(m)
			p.tree(tree.CVs())
			p.stream.Close()
		})
		r, err = getWhole(t, w.ctx, GetOptions{
			URL: URL{Host: serverAddr.String(), Path: "file"}, TLS: w.tls(), Target: target, KWIK: w.client(), Retries: 5,
		}, NoReport{})
	})
	if err != nil {
		t.Fatalf("%+v, %v", r, err)
	}
	wantContent(t, target, string(theFile))
}
