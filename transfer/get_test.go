package transfer

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"kwikcp/integrity"
	"kwikcp/internal/trust"
	"kwikcp/kwik"
	"kwikcp/transfer/internal/transfertest"
	"kwikcp/transfer/internal/wire"
	"math/rand/v2"
	"path/filepath"
	"testing"
	"time"

	"github.com/zeebo/blake3"

	transferpb "kwikcp/transfer/internal/wire/proto"
)

// theFile has four groups, the last one short.
var theFile = func() []byte {
	b := make([]byte, 3*65536+1234)
	rand.NewChaCha8([32]byte{9}).Read(b)
	return b
}()

// honest returns the right manifest and chaining values of theFile.
func honest() (*transferpb.Manifest, []byte) {
	tree, err := integrity.Build(context.Background(), bytes.NewReader(theFile), int64(len(theFile)),
		integrity.DefaultGroupSize, nil)
	if err != nil {
		panic(err)
	}
	root := tree.Root()
	return &transferpb.Manifest{Size: uint64(len(theFile)), Root: root[:],
		Group: uint32(tree.GroupSize())}, bytes.Clone(tree.CVs())
}

// bytesContent is kwik.Content in memory.
type bytesContent struct{ *bytes.Reader }

func (bytesContent) Close() error { return nil }

func openTheFile(context.Context, kwik.ContentRequest) (kwik.Content, error) {
	return bytesContent{bytes.NewReader(theFile)}, nil
}

// offer opens an aggregate stream and says so in the manifest.
func (p *peer) offer(m *transferpb.Manifest, size int64) *kwik.AggregateStream {
	o, err := p.OpenAggregateStream(kwik.AggregateStreamSpec{Size: size, Alignment: 65536, Descriptor: []byte("d")})
	if err != nil {
		p.Error(err)
		return nil
	}
	m.KwikStreamId = uint64(o.StreamID())
	return o
}

func TestGetInOrder(t *testing.T) {
	onWire(t, func(w *testNet) {
		w.hostile(openTheFile, func(p *peer) {
			m, cvs := honest()
			p.offer(m, int64(len(theFile)))
			p.Manifest(m)
			for ; len(cvs) > 0; cvs = cvs[32:] { // a tree may be split between any two values
				p.Tree(cvs[:32])
			}
			p.Stream.Close()
		})
		got, _, err := w.get()
		if err != nil || !bytes.Equal(got, theFile) {
			t.Errorf("got %d bytes, %v", len(got), err)
		}
	})
}

// TestGetFromHostileServers: for every reply, the client ends with the right kind of error, within
// a bound of time, and writes only verified bytes.
func TestGetFromHostileServers(t *testing.T) {
	soon, silence := time.Second, 11*time.Second
	send := func(change func(m *transferpb.Manifest, cvs []byte) []byte) script {
		return func(p *peer) {
			m, cvs := honest()
			p.offer(m, int64(len(theFile)))
			cvs = change(m, cvs)
			p.Manifest(m)
			if len(cvs) > 0 {
				p.Tree(cvs)
			}
			p.Stream.Close()
		}
	}
	only := func(change func(m *transferpb.Manifest)) script {
		return send(func(m *transferpb.Manifest, _ []byte) []byte { change(m); return nil })
	}
	for name, x := range map[string]struct {
		act    script
		kind   Kind
		says   string
		within time.Duration
	}{
		"another root than its tree": {send(func(m *transferpb.Manifest, cvs []byte) []byte {
			m.Root[5]++
			return cvs
		}), KindIntegrity, "", soon},
		"a chaining value is wrong": {send(func(_ *transferpb.Manifest, cvs []byte) []byte { cvs[40]++; return cvs }),
			KindIntegrity, "", soon},
		"two chaining values change places": {send(func(_ *transferpb.Manifest, cvs []byte) []byte {
			return append(append(bytes.Clone(cvs[32:64]), cvs[:32]...), cvs[64:]...)
		}), KindIntegrity, "", soon},
		"the tree is short": {send(func(_ *transferpb.Manifest, cvs []byte) []byte { return cvs[:96] }),
			KindNetwork, "unexpected EOF", soon},
		"the tree is long": {send(func(_ *transferpb.Manifest, cvs []byte) []byte {
			return append(cvs, make([]byte, 32)...)
		}), KindOther, "does not fit", soon},
		"the tree is of no whole values": {send(func(_ *transferpb.Manifest, cvs []byte) []byte {
			return append(cvs, 0)
		}), KindOther, "does not fit", soon},
		"the tree has an empty part": {func(p *peer) { m, _ := honest(); p.Manifest(m); p.Tree(nil) }, KindOther,
			"does not fit", soon},
		"no tree comes": {func(p *peer) { m, _ := honest(); p.Manifest(m) }, KindNetwork,
			"no answer in time", silence},
		"the tree gives way to a failure": {func(p *peer) {
			m, cvs := honest()
			p.Manifest(m)
			p.Tree(cvs[:32])
			p.Reply(&transferpb.Reply{Reply: &transferpb.Reply_Failure{Failure: &transferpb.Failure{
				Code: transferpb.Failure_CHANGED, Message: "changed, it says",
			}}})
		}, KindChanged, "changed, it says", soon},
		"size of 2^63": {only(func(m *transferpb.Manifest) { m.Size = 1 << 63 }), KindOther, "no sense",
			soon},
		"size of 2^64-1": {only(func(m *transferpb.Manifest) { m.Size = 1<<64 - 1 }), KindOther,
			"no sense", soon},
		"group of 2^11 chunks": {only(func(m *transferpb.Manifest) { m.Group = 11 }), KindOther, "no sense",
			soon},
		"group of 2^262 chunks": {only(func(m *transferpb.Manifest) { m.Group = 262 }), KindOther, "no sense",
			soon},
		"root of 31 bytes": {only(func(m *transferpb.Manifest) { m.Root = m.Root[:31] }), KindOther,
			"no sense", soon},
		"no root": {only(func(m *transferpb.Manifest) { m.Root = nil }), KindNetwork,
			"unexpected EOF", soon},
		"a part of a value": {send(func(_ *transferpb.Manifest, cvs []byte) []byte { return cvs[:33] }),
			KindOther, "does not fit", soon},
		"empty, but with another root": {only(func(m *transferpb.Manifest) { m.Size = 0 }), KindIntegrity, "", soon},
		"a stream of another size": {func(p *peer) {
			m, cvs := honest()
			p.offer(m, int64(len(theFile))+1)
			p.Manifest(m)
			p.Tree(cvs)
		}, KindOther, "the stream has", soon},
		"a stream that is never offered": {func(p *peer) {
			m, cvs := honest()
			m.KwikStreamId = 1<<62 + 7
			p.Manifest(m)
			p.Tree(cvs)
		}, KindNetwork, "no answer in time", silence},
		"no answer": {func(p *peer) {}, KindNetwork, "no answer in time", silence},
		"garbage": {func(p *peer) { p.Stream.Write([]byte("\x04\xff\xff\xff\xff")) }, KindOther, "no sense",
			soon},
		"a frame of 2^40": {func(p *peer) { p.Stream.Write([]byte{0x80, 0x80, 0x80, 0x80, 0x80, 0x20}) }, KindOther,
			"no sense", soon},
		"a length for ever": {func(p *peer) { p.Stream.Write(bytes.Repeat([]byte{0xff}, 100)) }, KindOther, "no sense",
			soon},
		"an early end":      {func(p *peer) { p.Stream.Close() }, KindNetwork, "unexpected EOF", soon},
		"a reset":           {func(p *peer) { p.Stream.CancelWrite(7) }, KindNetwork, "", soon},
		"a hang-up":         {func(p *peer) { p.CloseWithError(0, "") }, KindNetwork, "", soon},
		"a tree for answer": {func(p *peer) { p.Tree(make([]byte, 32)) }, KindOther, "unexpected answer", soon},
		"answers of a later version, then silence": {func(p *peer) { p.Reply(&transferpb.Reply{}) }, KindNetwork,
			"no answer in time", silence},
		"hashing, then silence": {func(p *peer) {
			p.Reply(&transferpb.Reply{Reply: &transferpb.Reply_Hashing{Hashing: &transferpb.Hashing{
				Bytes: 1<<64 - 1, Total: 1,
			}}})
		}, KindNetwork, "no answer in time", silence},
	} {
		t.Run(name, func(t *testing.T) {
			onWire(t, func(w *testNet) {
				w.hostile(openTheFile, x.act)
				got, took, err := w.get()
				wantKind(w.T, err, x.kind, x.says)
				if took > x.within {
					t.Errorf("it took %v, want at most %v", took, x.within)
				}
				if len(got) > 0 {
					t.Errorf("%d bytes were passed on", len(got))
				}
			})
		})
	}
}

// TestGetBoundsTheTree checks the memory of a client whose server sends an endless tree. A
// manifest may claim any size, and the client must not allocate for it.
func TestGetBoundsTheTree(t *testing.T) {
	for _, size := range []uint64{1<<63 - 1, 1 << 62, (integrity.MaxGroups + 1) << 10} {
		onWire(t, func(w *testNet) {
			w.hostile(openTheFile, func(p *peer) {
				m, _ := honest()
				m.Size, m.Group = size, 0
				p.Manifest(m)
				for range 200 { // would go on for ever
					p.Tree(make([]byte, wire.TreePart))
				}
			})
			_, took, err := w.get()
			wantKind(w.T, err, KindOther, "no sense")
			if took > time.Second {
				t.Errorf("it took %v to refuse %d bytes in groups of 1 KiB", took, size)
			}
		})
	}
}

func TestGetKnowsFailures(t *testing.T) {
	for code, kind := range map[transferpb.Failure_Code]Kind{
		transferpb.Failure_OTHER:       KindOther,
		transferpb.Failure_NOT_FOUND:   KindNotFound,
		transferpb.Failure_NOT_A_FILE:  KindNotFound,
		transferpb.Failure_CHANGED:     KindChanged,
		transferpb.Failure_BAD_REQUEST: KindOther,
		transferpb.Failure_BUSY:        KindNetwork,
		99:                             KindOther,
	} {
		onWire(t, func(w *testNet) {
			w.hostile(openTheFile, func(p *peer) {
				p.Reply(&transferpb.Reply{Reply: &transferpb.Reply_Failure{Failure: &transferpb.Failure{
					Code: code, Message: "in its own words",
				}}})
				p.Stream.Close()
			})
			_, _, err := w.get()
			wantKind(w.T, err, kind, "in its own words")
			if e, ok := errors.AsType[*RemoteError](err); !ok || e.Path != "file" {
				t.Errorf("%v: no RemoteError in %v", code, err)
			}
		})
	}
}

// TestGetHoldsTheServerToTheHash checks that a wrong root ends the transfer before the client
// requests content.
func TestGetHoldsTheServerToTheHash(t *testing.T) {
	root := integrity.Root(blake3.Sum256(theFile))
	for _, wrong := range []bool{false, true} {
		onWire(t, func(w *testNet) {
			w.hostile(openTheFile, func(p *peer) {
				m, cvs := honest()
				p.offer(m, int64(len(theFile)))
				p.Manifest(m)
				p.Tree(cvs)
			})
			expected := root
			if wrong {
				expected[31]++
			}
			got, _, err := w.get(func(o *GetOptions) { o.URL.Root = &expected })
			switch {
			case wrong:
				wantKind(w.T, err, KindIntegrity, "not the expected "+expected.String())
				if len(got) > 0 {
					t.Error("bytes were passed on")
				}
			case err != nil || !bytes.Equal(got, theFile):
				t.Errorf("got %d bytes, %v", len(got), err)
			}
		})
	}
}

// TestGetFromBadContent: the manifest is right, but no server has the bytes.
func TestGetFromBadContent(t *testing.T) {
	for name, x := range map[string]struct {
		open kwik.OpenContentFunc
		kind Kind
	}{
		"wrong bytes": {func(context.Context, kwik.ContentRequest) (kwik.Content, error) {
			return bytesContent{bytes.NewReader(make([]byte, len(theFile)))}, nil
		}, KindIntegrity},
		"changed": {func(context.Context, kwik.ContentRequest) (kwik.Content, error) {
			return nil, kwik.ErrContentChanged
		}, KindChanged},
		"gone": {func(context.Context, kwik.ContentRequest) (kwik.Content, error) {
			return nil, errors.New("no such file")
		}, KindNetwork},
		"short": {func(context.Context, kwik.ContentRequest) (kwik.Content, error) {
			return bytesContent{bytes.NewReader(theFile[:100_000])}, nil
		}, KindNetwork},
	} {
		t.Run(name, func(t *testing.T) {
			onWire(t, func(w *testNet) {
				w.hostile(x.open, func(p *peer) {
					m, cvs := honest()
					p.offer(m, int64(len(theFile)))
					p.Manifest(m)
					p.Tree(cvs)
				})
				got, took, err := w.get()
				wantKind(w.T, err, x.kind, `fetch "file"`)
				if !bytes.HasPrefix(theFile, got) || took > time.Second {
					t.Errorf("%d bytes after %v", len(got), took)
				}
			})
		})
	}
}

func TestGetThatCannotConnect(t *testing.T) {
	for name, x := range map[string]struct {
		prepare func(w *testNet)
		change  func(o *GetOptions)
		kind    Kind
		says    string
	}{
		"nobody there": {func(*testNet) {}, func(*GetOptions) {}, KindNetwork,
			"connect to 10.0.0.1:4433 over UDP: no answer in time"},
		"another key": {func(w *testNet) { w.hostile(nil, func(*peer) {}) }, func(o *GetOptions) {
			o.TLS = trust.PinnedClientConfig(nil, trust.Pin{1})
		}, KindRefused, "not AQAAAAAA"},
		"a certificate of nobody": {func(w *testNet) { w.hostile(nil, func(*peer) {}) },
			func(o *GetOptions) { o.TLS = nil }, KindRefused, "certificate"},
		"a secondary": {func(w *testNet) { w.Start(&kwik.ServerConfig{Role: kwik.ServerRoleSecondary}) },
			func(*GetOptions) {}, KindOther, "secondary"},
	} {
		t.Run(name, func(t *testing.T) {
			onWire(t, func(w *testNet) {
				x.prepare(w)
				_, took, err := w.get(x.change)
				wantKind(w.T, err, x.kind, x.says)
				if took > DefaultConnectTimeout+time.Second {
					t.Errorf("it took %v", took)
				}
			})
		})
	}
}

// TestGetThatIsCancelled cancels a transfer at each stage. Get returns at once, with the
// caller's reason.
func TestGetThatIsCancelled(t *testing.T) {
	reason := errors.New("enough")
	for name, act := range map[string]script{
		"while it waits for an answer": func(*peer) {},
		"while it waits for the tree":  func(p *peer) { m, _ := honest(); p.Manifest(m) },
		"while it waits for the content": func(p *peer) {
			m, cvs := honest()
			p.offer(m, int64(len(theFile)))
			p.Manifest(m)
			p.Tree(cvs)
		},
	} {
		for _, inOrder := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s, in order %t", name, inOrder), func(t *testing.T) {
				target := transfertest.Put(t, filepath.Join(t.TempDir(), "out"), "before")
				onWire(t, func(w *testNet) {
					w.hostile(func(ctx context.Context, _ kwik.ContentRequest) (kwik.Content, error) {
						<-ctx.Done()
						return nil, ctx.Err()
					}, act)
					ctx, cancel := context.WithCancelCause(w.Ctx)
					time.AfterFunc(3*time.Second, func() { cancel(reason) })
					_, took, err := w.getContext(ctx, func(o *GetOptions) {
						if !inOrder {
							o.Output, o.Target = nil, target
						}
					})
					if err != reason || took > 3500*time.Millisecond {
						t.Errorf("%v after %v", err, took)
					}
				})
				wantNames(t, filepath.Dir(target), "out")
				transfertest.WantContent(t, target, "before")
			})
		}
	}
}

// TestGetWithABrokenOutput checks that a transfer ends with the error of its output.
func TestGetWithABrokenOutput(t *testing.T) {
	onWire(t, func(w *testNet) {
		w.hostile(openTheFile, func(p *peer) {
			m, cvs := honest()
			p.offer(m, int64(len(theFile)))
			p.Manifest(m)
			p.Tree(cvs)
		})
		broken := errors.New("broken pipe")
		_, took, err := w.get(func(o *GetOptions) { o.Output = brokenWriter{broken} })
		wantKind(w.T, err, KindLocal, "write the output: broken pipe")
		if !errors.Is(err, broken) || took > time.Second {
			t.Errorf("%v after %v", err, took)
		}
	})
}

type brokenWriter struct{ err error }

func (w brokenWriter) Write([]byte) (int, error) { return 0, w.err }

// TestGetLooksAtTheTargetFirst checks that an unwritable target causes an error before any
// packet is sent.
func TestGetLooksAtTheTargetFirst(t *testing.T) {
	o := GetOptions{Target: t.TempDir(), Dial: nil, URL: URL{Host: "192.0.2.1:1"}}
	_, err := getWhole(t, t.Context(), o, NoReport{})
	wantKind(t, err, KindLocal, "it is a directory")
}

// TestChangedMessage checks that the message of a file that changed names no stream. A secondary
// with another version is not the cause of a loss.
func TestChangedMessage(t *testing.T) {
	changed := &kwik.Error{Code: kwik.ErrContentChanged, Remote: true}
	for _, isPrimary := range []bool{true, false} {
		failed := &Error{Op: "fetch", Err: &kwik.Error{Code: kwik.ErrAggregationTimeout, Err: errors.Join(changed)}}
		lostSources(failed, []kwik.SourceStats{
			{Server: "a", Primary: isPrimary, Gone: changed}, {Server: "b", Primary: !isPrimary, Gone: errors.New("gone")},
		})
		if isNamed := failed.Error() == "fetch: the file changed on the server"; isNamed != isPrimary {
			t.Errorf("changed at the primary: %t: %v", isPrimary, failed)
		}
		if !errors.Is(failed, kwik.ErrContentChanged) {
			t.Error("the cause is lost")
		}
	}
}

// TestKindOfLoss checks that only the primary decides that the file changed. A secondary with
// another version may have an old one, or lie.
func TestKindOfLoss(t *testing.T) {
	lost, changed := errors.New("gone"), &kwik.Error{Code: kwik.ErrContentChanged, Remote: true}
	lied, refused := &integrity.GroupError{}, &kwik.Error{Code: kwik.ErrAccessRefused, Remote: true}
	for _, c := range []struct {
		primary, secondary error
		want               Kind
	}{
		{lost, lost, KindNetwork}, {lost, changed, KindNetwork}, {changed, lost, KindChanged},
		{changed, changed, KindChanged},
		{lied, lost, KindNetwork}, {lied, lied, KindIntegrity},
		{refused, lost, KindRefused}, {lost, refused, KindNetwork},
	} {
		got := kindOfLoss([]kwik.SourceStats{{Server: "primary", Primary: true, Gone: c.primary},
			{Server: "s1", Gone: c.secondary}})
		if got != c.want {
			t.Errorf("%v, %v: %v, want %v", c.primary, c.secondary, got, c.want)
		}
	}
}
