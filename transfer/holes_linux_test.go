package transfer

import (
	"bytes"
	"context"
	"kwikcp/internal/rangeset"
	"kwikcp/kwik"
	"kwikcp/transfer/disk"
	"kwikcp/transfer/internal/transfertest"
	"kwikcp/transfer/internal/wire"
	transferpb "kwikcp/transfer/internal/wire/proto"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
)

// A sparse is a file with holes: random bytes at the given ranges, and holes elsewhere.
type sparse struct {
	size int64
	data []rangeset.Range
}

// imageSize is the size of image: the last group and the last block are short.
const imageSize = 12<<20 + 100

// image has data at its start, one byte in a group, data in two groups, and a hole at its end.
var image = sparse{imageSize, []rangeset.Range{
	{Start: 0, End: 10}, {Start: 3<<20 + 5000, End: 3<<20 + 5001}, {Start: 8<<20 - 1, End: 8<<20 + 1},
}}

// put writes the file, whatever was there before.
func (s sparse) put(t *testing.T, path string) {
	t.Helper()
	os.Remove(path)
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.Truncate(s.size); err != nil {
		t.Fatal(err)
	}
	random := rand.NewChaCha8([32]byte{6})
	for _, r := range s.data {
		p := make([]byte, r.Len())
		random.Read(p)
		if _, err := f.WriteAt(p, r.Start); err != nil {
			t.Fatal(err)
		}
	}
	if err := f.Sync(); err != nil { // some file systems allocate late
		t.Fatal(err)
	}
}

// diskBlocks returns the space that a file takes, in units of 512 bytes.
func diskBlocks(t *testing.T, path string) int64 {
	t.Helper()
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	return info.Sys().(*syscall.Stat_t).Blocks
}

// A countedSocket counts the bytes that a server sends.
type countedSocket struct {
	net.PacketConn
	sent *atomic.Int64
}

func (c countedSocket) WriteTo(p []byte, to net.Addr) (int, error) {
	c.sent.Add(int64(len(p)))
	return c.PacketConn.WriteTo(p, to)
}

// A holeNet is a network with a server of one directory, whose sent bytes are counted, and a target
// directory.
type holeNet struct {
	*testNet
	root, target string // a served file, and the target
	sent         atomic.Int64
}

// onHoles serves the file "file".
func onHoles(t *testing.T, file sparse, f func(w *holeNet)) {
	t.Helper()
	root, target := t.TempDir(), t.TempDir()
	onWire(t, func(n *testNet) {
		w := &holeNet{testNet: n, root: filepath.Join(root, "file"), target: filepath.Join(target, "file")}
		n.Wrap = func(c net.PacketConn) net.PacketConn { return countedSocket{c, &w.sent} }
		file.put(t, w.root)
		dir, err := disk.OpenTree(root, false)
		if err != nil {
			t.Fatal(err)
		}
		n.serve(dir)
		f(w)
	})
}

// fetch fetches the file, and checks that what is there is the served file and that all its bytes
// are accounted for.
func (w *holeNet) fetch(change ...func(*GetOptions)) Result {
	w.T.Helper()
	o := GetOptions{URL: serverFile, TLS: w.TLS(), Target: w.target, KWIK: w.Client()}
	for _, f := range change {
		f(&o)
	}
	w.sent.Store(0)
	r, err := getWhole(w.T, w.Ctx, o, nil)
	if err != nil {
		w.T.Fatal(err)
	}
	fetched := int64(0)
	for _, s := range r.Servers {
		fetched += s.Bytes
	}
	if sum := fetched + r.Holes + r.Resumed; o.Range == nil && sum != r.Bytes {
		w.T.Errorf("%d fetched, %d in holes and %d kept are not %d bytes", fetched, r.Holes, r.Resumed, r.Bytes)
	}
	return r
}

// wantSameSpace fails the test unless the target takes as much space as the source.
func (w *holeNet) wantSameSpace() {
	w.T.Helper()
	if got, want := diskBlocks(w.T, w.target), diskBlocks(w.T, w.root); got != want {
		w.T.Errorf("the file takes %d blocks, its source %d", got, want)
	}
}

// wantSent fails the test if the server sent more than n bytes.
func (w *holeNet) wantSent(n int64) {
	w.T.Helper()
	if sent := w.sent.Load(); sent > n {
		w.T.Errorf("the server sent %d bytes, want at most %d", sent, n)
	}
}

// TestSparseFileStaysSparse fetches a file with holes from a server that has not hashed it yet, and
// then from one that has.
func TestSparseFileStaysSparse(t *testing.T) {
	onHoles(t, image, func(w *holeNet) {
		for range 2 {
			os.Remove(w.target)
			r := w.fetch()
			w.wantSameSpace()
			w.wantSent(400 << 10) // four groups, and the tree
			if want := int64(imageSize - 4*65536); r.Holes != want {
				t.Errorf("%d bytes were in holes, want %d", r.Holes, want)
			}
		}
	})
}

func TestFileOfOneHole(t *testing.T) {
	for _, size := range []int64{1, 4096, 65536, 65537, 5 << 20} {
		onHoles(t, sparse{size: size}, func(w *holeNet) {
			r := w.fetch()
			w.wantSameSpace()
			w.wantSent(30 << 10)
			if r.Holes != size {
				t.Errorf("%d of %d bytes were in holes", r.Holes, size)
			}
		})
	}
}

// TestSparseFileToOutput checks that the output gets the zeros of holes, which are not fetched.
func TestSparseFileToOutput(t *testing.T) {
	for _, file := range []sparse{image, {size: 3 << 20}} {
		onHoles(t, file, func(w *holeNet) {
			want, err := os.ReadFile(w.root)
			if err != nil {
				t.Fatal(err)
			}
			var out bytes.Buffer
			w.fetch(func(o *GetOptions) { o.Output = &out })
			w.wantSent(400 << 10)
			if !bytes.Equal(out.Bytes(), want) {
				t.Errorf("the output has %d bytes, want %d", out.Len(), len(want))
			}
		})
	}
}

// TestNoSparse checks that all bytes are fetched and written if no holes are wanted.
func TestNoSparse(t *testing.T) {
	onHoles(t, sparse{5 << 20, []rangeset.Range{{Start: 1 << 20, End: 1<<20 + 1}}}, func(w *holeNet) {
		r := w.fetch(func(o *GetOptions) { o.NoSparse = true })
		if blocks := diskBlocks(t, w.target); r.Holes != 0 || blocks < 5<<20/512 || w.sent.Load() < 5<<20 {
			t.Errorf("%d bytes in holes, %d blocks, %d bytes sent", r.Holes, blocks, w.sent.Load())
		}
	})
}

// TestOldCopyWithOtherHoles replaces copies that have data where the source has holes, and the
// reverse, with and without the use of their blocks.
func TestOldCopyWithOtherHoles(t *testing.T) {
	file := sparse{9<<20 + 77, []rangeset.Range{
		{Start: 2 << 20, End: 3 << 20}, {Start: 5<<20 + 4096, End: 5<<20 + 8192},
	}}
	zeros := func(path string) { transfertest.Put(t, path, strings.Repeat("\x00", 9<<20+77)) }
	for name, old := range map[string]func(path string){
		"data in holes": func(path string) {
			data := []rangeset.Range{{Start: 0, End: 2 << 20}, {Start: 4 << 20, End: 9<<20 + 77}}
			sparse{9<<20 + 77, data}.put(t, path)
		},
		"holes in data":  func(path string) { sparse{size: 9<<20 + 77}.put(t, path) },
		"longer, sparse": func(path string) { sparse{size: 30 << 20}.put(t, path) },
		"shorter": func(path string) {
			sparse{1 << 20, []rangeset.Range{{Start: 0, End: 1 << 20}}}.put(t, path)
		},
		"written zeros": zeros,
	} {
		for _, reuse := range []bool{false, true} {
			t.Run(name, func(t *testing.T) {
				onHoles(t, file, func(w *holeNet) {
					old(w.target)
					w.fetch(func(o *GetOptions) { o.Reuse = reuse })
					w.wantSameSpace()
				})
			})
		}
	}
}

// TestRangeOfSparseFile checks that zeros of holes are written to the output and to the
// file of a range.
func TestRangeOfSparseFile(t *testing.T) {
	onHoles(t, image, func(w *holeNet) {
		whole, err := os.ReadFile(w.root)
		if err != nil {
			t.Fatal(err)
		}
		w.fetch()
		for _, part := range []ByteRange{
			{0, 100}, {1 << 20, 9 << 20}, {imageSize - 5<<20, imageSize - 1}, {-1, 3 << 20}, {7, 8<<20 + 1},
		} {
			os.Remove(w.target)
			r := wire.ByteRange(part).Of(imageSize)
			want := whole[r.Start:r.End]
			result := w.fetch(func(o *GetOptions) { o.Range = &part })
			w.wantSent(300 << 10)
			got, err := os.ReadFile(w.target)
			if err != nil || !bytes.Equal(got, want) || result.Bytes != r.Len() {
				t.Errorf("%v: %d bytes, want %d, error %v", part, len(got), len(want), err)
			}
			var out bytes.Buffer
			w.fetch(func(o *GetOptions) { o.Range, o.Output = &part, &out })
			if !bytes.Equal(out.Bytes(), want) {
				t.Errorf("%v: the output has %d bytes, want %d", part, out.Len(), len(want))
			}
		}
	})
}

// TestAttackHolesWhereThereIsData has a server that announces holes where its file has data, with
// and without a root in the manifest. That costs time and never a wrong byte.
func TestAttackHolesWhereThereIsData(t *testing.T) {
	for _, cold := range []bool{false, true} {
		t.Run(map[bool]string{false: "known", true: "cold"}[cold], func(t *testing.T) {
			target := filepath.Join(t.TempDir(), "file")
			onWire(t, func(w *testNet) {
				lie := wire.AppendHoles(nil, []rangeset.Range{{Start: 0, End: int64(len(theFile))}})
				w.hostile(func(context.Context, kwik.ContentRequest) (kwik.Content, error) {
					return bytesContent{bytes.NewReader(theFile)}, nil
				}, func(p *peer) {
					m, cvs := honest()
					m.Holes, m.MoreHoles = lie, true
					p.offer(m, int64(len(theFile)))
					root := m.Root
					if cold {
						m.Root = nil
					}
					p.Manifest(m)
					p.Tree(cvs)
					if cold {
						p.Reply(&transferpb.Reply{Reply: &transferpb.Reply_Root{Root: &transferpb.Root{Root: root}}})
					}
					p.Stream.Close()
				})
				o := GetOptions{URL: serverFile, TLS: w.TLS(), Target: target, KWIK: w.Client()}
				r, err := getWhole(t, w.Ctx, o, nil)
				if err != nil || r.Holes != 0 {
					t.Errorf("%d bytes in holes, error %v", r.Holes, err)
				}
				transfertest.WantContent(t, target, string(theFile))
			})
		})
	}
}
