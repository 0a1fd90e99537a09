package transfer

import (
	"bytes"
	"context"
	"math"
	"slices"
	"testing"

	"kwikcp/kwik"
	transferpb "kwikcp/transfer/internal/wire/proto"
)

func (p *peer) rangeProof(values []byte) {
	p.Reply(&transferpb.Reply{Reply: &transferpb.Reply_RangeProof{RangeProof: &transferpb.RangeProof{Values: values}}})
}

// proveTheFile returns the proof of a range of theFile.
func proveTheFile(t *testing.T, start, end int64) []byte {
	t.Helper()
	proof, err := treeOf(theFile).ProveRange(start, end)
	if err != nil {
		t.Fatal(err)
	}
	return proof
}

// A rangeScript is a server's answer to a range of theFile, and what the client makes of it.
type rangeScript struct {
	text   string // the range; empty for bytes 70000 to 70009, which are in the second group
	change func(m *transferpb.Manifest)
	act    func(p *peer)
	kind   Kind // of the error
	says   string
	want   []byte // nil for an error
}

func (x rangeScript) run(t *testing.T) {
	if x.text == "" {
		x.text = "70000-70009"
	}
	r, err := ParseByteRange(x.text)
	if err != nil {
		t.Fatal(err)
	}
	m, _ := honest()
	if x.change != nil {
		x.change(m)
	}
	size := int64(m.GetSize())
	onWire(t, func(w *testNet) {
		w.hostile(func(context.Context, kwik.ContentRequest) (kwik.Content, error) {
			// As much content as the manifest claims, so that a proof has to fail and not a read.
			content := append(bytes.Clone(theFile), make([]byte, max(0, size-int64(len(theFile))))...)
			return bytesContent{bytes.NewReader(content[:size])}, nil
		}, func(p *peer) {
			if p.Request.GetRange() == nil || p.Request.GetHeadStart() != 0 {
				p.Errorf("the request is %v", p.Request)
			}
			if hasStream := size > 0 && size < math.MaxInt64; hasStream {
				p.offer(m, size)
			}
			p.Manifest(m)
			x.act(p)
		})
		got, _, err := w.get(func(o *GetOptions) { o.Range = &r })
		if x.want == nil {
			wantKind(w.T, err, x.kind, x.says)
		} else if err != nil {
			w.T.Error(err)
		}
		if !bytes.Equal(got, x.want) {
			w.T.Errorf("%d bytes were written, want %d", len(got), len(x.want))
		}
	})
}

// TestGetRangeProofs checks that the client accepts only the proof of its range or the whole
// tree.
func TestGetRangeProofs(t *testing.T) {
	right := proveTheFile(t, 70_000, 70_010)
	wrong := bytes.Clone(right)
	wrong[3]++
	tooLong := slices.Concat(right, right[:32])
	swapped := slices.Concat(right[32:64], right[:32], right[64:])
	cvs := treeOf(theFile).CVs()
	want := theFile[70_000:70_010]
	noRoot := func(m *transferpb.Manifest) { m.Root = nil }
	for name, x := range map[string]rangeScript{
		"proof":     {act: func(p *peer) { p.rangeProof(right) }, want: want},
		"in pieces": {act: func(p *peer) { p.rangeProof(right[:32]); p.rangeProof(right[32:]) }, want: want},
		"hashing between": {act: func(p *peer) { p.rangeProof(right[:32]); p.hashing(1); p.rangeProof(right[32:]) },
			want: want},
		"older server":     {act: func(p *peer) { p.Tree(cvs) }, want: want},
		"older, in pieces": {act: func(p *peer) { p.Tree(cvs[:32]); p.Tree(cvs[32:]) }, want: want},
		// The client stops reading after the last value that it needs.
		"a proof twice":    {act: func(p *peer) { p.rangeProof(right); p.rangeProof(right) }, want: want},
		"proof after tree": {act: func(p *peer) { p.Tree(cvs); p.rangeProof(right) }, want: want},

		"a proof twice in one": {act: func(p *peer) { p.rangeProof(slices.Concat(right, right)) }, kind: KindOther,
			says: "no sense"},
		"one value too many": {act: func(p *peer) { p.rangeProof(tooLong) }, kind: KindOther, says: "no sense"},
		"too many, in pieces": {act: func(p *peer) { p.rangeProof(right[:64]); p.rangeProof(right[:64]) },
			kind: KindOther, says: "no sense"},
		"wrong value":   {act: func(p *peer) { p.rangeProof(wrong) }, kind: KindIntegrity, says: "hashes to"},
		"another order": {act: func(p *peer) { p.rangeProof(swapped) }, kind: KindIntegrity, says: "hashes to"},
		"half a value":  {act: func(p *peer) { p.rangeProof(right[:16]) }, kind: KindOther, says: "no sense"},
		"empty":         {act: func(p *peer) { p.rangeProof(nil) }, kind: KindOther, says: "no sense"},
		"truncated":     {act: func(p *peer) { p.rangeProof(right[:64]); p.Stream.Close() }, kind: KindNetwork},
		"none":          {act: func(p *peer) { p.Stream.Close() }, kind: KindNetwork},
		"silence":       {act: func(p *peer) { p.rangeProof(right[:64]) }, kind: KindNetwork},
		"another range": {act: func(p *peer) { p.rangeProof(proveTheFile(t, 131_072, 131_073)) },
			kind: KindIntegrity, says: "hashes to"},
		"the wrong neighbour": {act: func(p *peer) {
			p.rangeProof(proveTheFile(t, 65_000, 65_001)[32:])
			p.Stream.Close()
		}, kind: KindNetwork},
		"part, then the tree": {act: func(p *peer) { p.rangeProof(right[:32]); p.Tree(cvs) }, kind: KindOther,
			says: "no sense"},
		"tree, then a proof": {act: func(p *peer) { p.Tree(cvs[:32]); p.rangeProof(right) }, kind: KindOther,
			says: "no sense"},
		"a second manifest": {act: func(p *peer) { p.Manifest(&transferpb.Manifest{}) }, kind: KindOther,
			says: "no sense"},
		"a root after the root": {act: func(p *peer) { p.root(make([]byte, 32)) }, kind: KindOther, says: "no sense"},
		"another root": {change: func(m *transferpb.Manifest) { m.Root[0]++ },
			act: func(p *peer) { p.rangeProof(right) }, kind: KindIntegrity, says: "hashes to"},
		"it changed": {act: func(p *peer) { p.Failure(transferpb.Failure_CHANGED) }, kind: KindChanged},

		"older and hashing": {change: noRoot, act: func(p *peer) { p.Tree(cvs); m, _ := honest(); p.root(m.Root) },
			want: want},
		"no root": {change: noRoot, act: func(p *peer) { p.rangeProof(right) }, kind: KindOther,
			says: "no sense"},
		"no root at all": {change: noRoot, act: func(p *peer) { p.Tree(cvs); p.Stream.Close() }, kind: KindNetwork},
	} {
		t.Run(name, x.run)
	}
}

// TestGetRangeOfAnotherSize checks that a wrong size never makes other bytes pass for those of
// the range.
func TestGetRangeOfAnotherSize(t *testing.T) {
	const group = 65536
	n := int64(len(theFile))
	claim := func(size int64) func(*transferpb.Manifest) {
		return func(m *transferpb.Manifest) { m.Size = uint64(size) }
	}
	proof := func(start, end int64) func(*peer) {
		values := proveTheFile(t, start, end)
		return func(p *peer) { p.rangeProof(values) }
	}
	// The root's children as the two groups of a smaller file.
	children := func(p *peer) {
		p.rangeProof(slices.Concat(proveTheFile(t, 2*group, n)[:32], proveTheFile(t, 0, 2*group)[64:]))
	}
	for name, x := range map[string]rangeScript{
		"the last bytes": {text: "-10", act: proof(n-10, n), want: theFile[n-10:]},
		"to the end":     {text: "196608-", act: proof(3*group, n), want: theFile[3*group:]},
		"all":            {text: "0-", act: proof(0, n), want: theFile},
		"last bytes, a byte less": {text: "-10", change: claim(n - 1), act: proof(n-10, n), kind: KindIntegrity,
			says: "do not match"},
		"last bytes, a byte more": {text: "-10", change: claim(n + 1), act: proof(n-10, n), kind: KindIntegrity,
			says: "do not match"},
		"to the end, a byte less": {text: "70000-", change: claim(n - 1), act: proof(group, n),
			kind: KindIntegrity, says: "do not match"},
		"to the end, a byte more": {text: "70000-", change: claim(n + 1), act: proof(group, n),
			kind: KindIntegrity, says: "do not match"},
		"a byte beyond the end": {text: "0-197841", change: claim(n - 1), act: proof(0, n), kind: KindIntegrity,
			says: "do not match"},
		"before the end, a byte more": {change: claim(n + 1), act: proof(70_000, 70_010),
			want: theFile[70_000:70_010]},
		"before the end, a byte less": {change: claim(n - 1), act: proof(70_000, 70_010),
			want: theFile[70_000:70_010]},
		"a group more": {change: claim(n + group),
			act: func(p *peer) { proof(70_000, 70_010)(p); p.Stream.Close() }, kind: KindNetwork},
		"inner nodes as groups": {text: "-10", change: claim(2 * group), act: children, kind: KindIntegrity,
			says: "do not match"},
		"inner nodes, not to the end": {text: "5-9", change: claim(2 * group), act: children, kind: KindIntegrity,
			says: "do not match"},
		"one group": {text: "0-", change: claim(group), act: func(*peer) {}, kind: KindIntegrity,
			says: "do not match"},
		"one group, and a proof": {text: "0-", change: claim(group), act: proof(0, 1), kind: KindIntegrity,
			says: "do not match"},
		"empty": {text: "0-", change: claim(0), act: func(*peer) {}, kind: KindNotFound,
			says: "there are no bytes"},
		"empty, and a proof": {text: "-1", change: claim(0), act: proof(0, 1), kind: KindNotFound,
			says: "there are no bytes"},
		"beyond the end": {text: "99999999-", act: func(*peer) {}, kind: KindNotFound,
			says: "there are no bytes"},
		"the largest, the whole of it": {text: "0-", change: claim(math.MaxInt64), act: proof(0, 1), kind: KindOther,
			says: "no sense"},
		"the largest, its last byte": {text: "-1", change: claim(math.MaxInt64), act: proof(0, 1), kind: KindOther,
			says: "no sense"},
		"a long proof that ends early": {text: "0-",
			change: func(m *transferpb.Manifest) { m.Size, m.Group = 1<<40, 10 },
			act:    func(p *peer) { proof(0, 1)(p); p.Stream.Close() }, kind: KindNetwork},
		"larger than a file can be": {change: func(m *transferpb.Manifest) { m.Size = math.MaxInt64 + 1 },
			act: proof(0, 1), kind: KindOther, says: "no sense"},
		"another group size": {change: func(m *transferpb.Manifest) { m.Group-- },
			act: proof(70_000, 70_010), kind: KindOther, says: "no sense"},
		"a group size that no tree has": {change: func(m *transferpb.Manifest) { m.Group = 11 },
			act: proof(70_000, 70_010), kind: KindOther, says: "no sense"},
	} {
		t.Run(name, x.run)
	}
}
