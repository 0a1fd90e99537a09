package transfer

import (
	"bytes"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"testing"

	"github.com/zeebo/blake3"
	"google.golang.org/protobuf/proto"

	"kwikcp/integrity"
	transferpb "kwikcp/transfer/proto"
)

func TestReadByteRangeRefuses(t *testing.T) {
	for _, m := range []*transferpb.ByteRange{
		{Start: 1, End: 1},
		{Start: 2, End: 1},
		{Start: 1, Suffix: 1},
		{End: 1, Suffix: 1},
		{Start: math.MaxInt64 + 1},
		{End: math.MaxInt64 + 1},
		{Suffix: math.MaxUint64},
	} {
		if r, err := readByteRange(m); err != errRequest {
			t.Errorf("%v is %v, %v", m, r, err)
		}
	}
}

// Every range that is accepted is encoded as itself and lies within any file.
func FuzzReadByteRange(f *testing.F) {
	for _, m := range []*transferpb.ByteRange{{}, {Start: 5}, {Start: 5, End: 6}, {Suffix: 7}, {End: math.MaxInt64}} {
		raw, err := proto.Marshal(m)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(raw, int64(1000))
	}
	f.Fuzz(func(t *testing.T, raw []byte, size int64) {
		m := &transferpb.ByteRange{}
		if proto.Unmarshal(raw, m) != nil || size < 0 {
			return
		}
		r, err := readByteRange(m)
		if err != nil {
			return
		}
		if again, err := readByteRange(r.message()); err != nil || again != r {
			t.Errorf("%v became %v: %v", r, again, err)
		}
		if of := r.Of(size); !of.Empty() && (of.Start < 0 || of.End > size) {
			t.Errorf("%v of %d is %v", r, size, of)
		}
	})
}

// rangeFile has 1,000 groups and a short one.
var rangeFile = bytes.Repeat([]byte("0123456789abcdef"), 1000*4096+3)

// A server answers a range with its proof, at most two values per level beside those of the groups.
func TestServerProvesRanges(t *testing.T) {
	root := t.TempDir()
	if err := os.WriteFile(filepath.Join(root, "file"), rangeFile, 0o600); err != nil {
		t.Fatal(err)
	}
	dir, err := OpenDir(root)
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	const group = 65536
	size := int64(len(rangeFile))
	hash := integrity.Root(blake3.Sum256(rangeFile))
	onWire(t, func(w *wire) {
		w.serve(dir)
		c := w.dial()
		defer c.CloseWithError(0, "")
		for _, x := range []struct {
			text   string
			groups int64
		}{
			{"0-0", 1}, {"65535-65536", 2}, {"32768000-33816575", 17}, {"-1", 1}, {"-65536", 2}, {"0-", 1001},
			{fmt.Sprint(size, "-"), 0},
		} {
			r, err := ParseByteRange(x.text)
			if err != nil {
				w.t.Fatal(err)
			}
			var raw bytes.Buffer
			writeMessage(&raw, &transferpb.Request{Version: 1, Path: []byte("file"), HeadStart: group, Range: r.message()})
			replies, err := w.ask(c, raw.Bytes(), true)
			if err != nil {
				w.t.Fatal(err)
			}
			var proof []byte
			var m *transferpb.Manifest
			for _, reply := range replies {
				if reply.GetTree() != nil {
					w.t.Errorf("%s: a Tree frame", x.text)
				}
				if reply.GetManifest() != nil {
					m = reply.GetManifest()
				}
				proof = append(proof, reply.GetRangeProof().GetValues()...)
			}
			if most := 32 * (x.groups + 2*10); int64(len(proof)) > most {
				w.t.Errorf("%s: a proof of %d bytes, want at most %d", x.text, len(proof), most)
			}
			want := r.Of(size)
			if want.Empty() {
				if m == nil || len(proof) > 0 {
					w.t.Errorf("%s: manifest %v, proof of %d bytes", x.text, m, len(proof))
				}
				continue
			}
			if _, err := integrity.FromRangeProof(size, integrity.GroupSize(m.GetGroup()), want.Start, want.End, proof, hash); err != nil {
				w.t.Errorf("%s: %v", x.text, err)
			}
		}
		// Our client receives that proof, and not the tree of 32,032 bytes.
		q := newInquiry(URL{Host: serverAddr.String(), Path: "file"}, w.tls(), 0, w.client(), nil, NoReport{})
		q.byteRange = &ByteRange{First: 32_768_000, Last: 33_816_575}
		if err := q.open(w.ctx); err != nil {
			w.t.Fatal(err)
		}
		defer q.close(nil)
		if most := int64(32 * (17 + 2*10)); q.rangeTree == nil || q.tree != nil || q.proofBytes > most {
			w.t.Errorf("the client received %d bytes of tree, want at most %d", q.proofBytes, most)
		}
		var raw bytes.Buffer
		writeMessage(&raw, &transferpb.Request{Version: 1, Path: []byte("file"), Range: &transferpb.ByteRange{Start: 2, End: 1}})
		replies, err := w.ask(c, raw.Bytes(), true)
		if f := failure(w.t, replies, err); f.GetCode() != transferpb.Failure_BAD_REQUEST {
			w.t.Errorf("an impossible range: %v", f)
		}
	})
}

func (p *peer) rangeProof(values []byte) {
	p.reply(&transferpb.Reply{Reply: &transferpb.Reply_RangeProof{RangeProof: &transferpb.RangeProof{Values: values}}})
}

// The client takes the proof of its range or the whole tree, and nothing else.
func TestGetRangeFromOtherServers(t *testing.T) {
	tree, err := integrity.Build(t.Context(), bytes.NewReader(theFile), int64(len(theFile)), integrity.DefaultGroupSize, nil)
	if err != nil {
		t.Fatal(err)
	}
	prove := func(start, end int64) []byte {
		proof, err := tree.ProveRange(start, end)
		if err != nil {
			t.Fatal(err)
		}
		return proof
	}
	right := prove(70_000, 70_010)
	wrong := bytes.Clone(right)
	wrong[3]++
	shrunk := uint64(tree.Size() - 1)
	for name, x := range map[string]struct {
		size uint64 // claimed; 0 for the true one
		text string // range
		act  func(p *peer)
		kind Kind // with an empty says 0 means success
		says string
	}{
		"proof":               {0, "70000-70009", func(p *peer) { p.rangeProof(right) }, 0, ""},
		"proof in pieces":     {0, "70000-70009", func(p *peer) { p.rangeProof(right[:32]); p.rangeProof(right[32:]) }, 0, ""},
		"an older server":     {0, "70000-70009", func(p *peer) { p.tree(tree.CVs()) }, 0, ""},
		"older, in pieces":    {0, "70000-70009", func(p *peer) { p.tree(tree.CVs()[:32]); p.tree(tree.CVs()[32:]) }, 0, ""},
		"wrong value":         {0, "70000-70009", func(p *peer) { p.rangeProof(wrong) }, KindIntegrity, "hashes to"},
		"too long":            {0, "70000-70009", func(p *peer) { p.rangeProof(append(bytes.Clone(right), wrong[:32]...)) }, KindOther, "no sense"},
		"half a value":        {0, "70000-70009", func(p *peer) { p.rangeProof(right[:16]) }, KindOther, "no sense"},
		"empty":               {0, "70000-70009", func(p *peer) { p.rangeProof(nil) }, KindOther, "no sense"},
		"too short":           {0, "70000-70009", func(p *peer) { p.rangeProof(right[32:]); p.stream.Close() }, KindNetwork, ""},
		"another range":       {0, "70000-70009", func(p *peer) { p.rangeProof(prove(131_072, 131_073)) }, KindIntegrity, "hashes to"},
		"proof, then tree":    {0, "70000-70009", func(p *peer) { p.rangeProof(right[:32]); p.tree(tree.CVs()) }, KindOther, "no sense"},
		"tree, then proof":    {0, "70000-70009", func(p *peer) { p.tree(tree.CVs()[:32]); p.rangeProof(right) }, KindOther, "no sense"},
		"another size":        {shrunk, "-10", func(p *peer) { p.rangeProof(prove(tree.Size()-10, tree.Size())) }, KindIntegrity, "do not match"},
		"a range beyond":      {0, "99999999-", func(p *peer) {}, KindNotFound, "there are no bytes"},
		"a size of any range": {math.MaxInt64, "0-", func(p *peer) { p.rangeProof(right) }, KindOther, "no sense"},
	} {
		t.Run(name, func(t *testing.T) {
			onWire(t, func(w *wire) {
				w.hostile(openTheFile, func(p *peer) {
					if p.request.GetRange() == nil || p.request.GetHeadStart() != 0 {
						p.Errorf("the request is %v", p.request)
					}
					m, _ := honest()
					if x.size != 0 {
						m.Size = x.size
					}
					if m.GetSize() < math.MaxInt64 {
						p.offer(m, int64(m.GetSize()))
					}
					p.manifest(m)
					x.act(p)
				})
				r, err := ParseByteRange(x.text)
				if err != nil {
					w.t.Fatal(err)
				}
				got, _, err := w.get(func(o *GetOptions) { o.Range = &r })
				if succeeds := x.kind == 0 && x.says == ""; !succeeds {
					wantKind(w.t, err, x.kind, x.says)
					if len(got) > 0 {
						w.t.Errorf("%d bytes were passed on", len(got))
					}
					return
				}
				if err != nil || !bytes.Equal(got, theFile[70_000:70_010]) {
					w.t.Errorf("%d bytes, %v", len(got), err)
				}
			})
		})
	}
}
