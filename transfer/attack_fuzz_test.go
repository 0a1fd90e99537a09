package transfer

import (
	"bufio"
	"bytes"
	"runtime"
	"testing"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"kwikcp/transfer/internal/wire"
	transferpb "kwikcp/transfer/internal/wire/proto"
)

// FuzzReplies reads a stream of replies as the client of one file does, without a network. The
// client must not panic, and hold no more chaining values than have arrived.
func FuzzReplies(f *testing.F) {
	m, cvs := honest()
	var seed bytes.Buffer
	for _, r := range []*transferpb.Reply{
		{Reply: &transferpb.Reply_Hashing{Hashing: &transferpb.Hashing{Bytes: 1, Total: 2}}},
		{Reply: &transferpb.Reply_Manifest{Manifest: m}},
		{Reply: &transferpb.Reply_Tree{Tree: &transferpb.Tree{ChainingValues: cvs}}},
		{Reply: &transferpb.Reply_Root{Root: &transferpb.Root{Root: m.Root}}},
	} {
		wire.WriteMessage(&seed, r)
	}
	f.Add(seed.Bytes())
	f.Fuzz(func(t *testing.T, raw []byte) {
		budget := &treeBudget{limit: 1 << 20}
		r := &request{answer: &exchange{}, progress: hashingLimit(), trees: treeShare{budget: budget},
			observer: newObserver(nil)}
		in := bufio.NewReader(bytes.NewReader(raw))
		for {
			reply := &transferpb.Reply{}
			if wire.ReadMessage(in, reply) != nil {
				break
			}
			var err error
			switch answer := reply.GetReply().(type) {
			case *transferpb.Reply_Manifest:
				err = r.readManifest(answer.Manifest)
			case *transferpb.Reply_Tree:
				if r.growing != nil {
					err = r.growTree(answer.Tree)
				}
			case *transferpb.Reply_Root:
				err = r.readRoot(answer.Root.GetRoot())
			case *transferpb.Reply_BatchFile:
				if m := answer.BatchFile.GetManifest(); validManifest(m) {
					manifestOf(m)
				}
			}
			if err != nil {
				break
			}
		}
		if budget.held > int64(len(raw)) {
			t.Errorf("%d bytes are held of %d", budget.held, len(raw))
		}
		if r.growing != nil {
			r.growing.Finish(r.manifest.Root)
		}
	})
}

// FuzzListing reads entries as the client of a listing does. Every entry that it takes has a
// relative path without "..".
func FuzzListing(f *testing.F) {
	raw, _ := proto.Marshal(&transferpb.Listing{
		Entries: []*transferpb.Entry{dirEntry("a"), fileEntry("a/b"), linkEntry("l", "a")},
	})
	f.Add(raw)
	f.Fuzz(func(t *testing.T, raw []byte) {
		listing := &transferpb.Listing{}
		if (proto.UnmarshalOptions{DiscardUnknown: true}).Unmarshal(raw, listing) != nil {
			return
		}
		var o treeOrder
		for _, x := range listing.GetEntries() {
			e, err := readEntry(x)
			if err != nil {
				return
			}
			if len(e.Problem) > maxProblem || len(e.Target) > wire.MaxLinkTarget || e.Mode&^0o777 != 0 {
				t.Errorf("%+v", e)
			}
			skip, err := o.next(e)
			if _, isBad := err.(badPath); err != nil && !isBad {
				return
			}
			isTaken := err == nil && !skip && e.Path != ""
			if isTaken && wire.CheckTreePath(e.Path) != nil {
				t.Errorf("%q is taken", e.Path)
			}
		}
	})
}

// TestAttackMessages checks what a message of the largest size can cost the client's decoder.
func TestAttackMessages(t *testing.T) {
	const size = 64<<10 - 10
	field := func(number protowire.Number, value []byte) []byte {
		return protowire.AppendBytes(protowire.AppendTag(nil, number, protowire.BytesType), value)
	}
	nested := []byte{}
	for range 4000 {
		nested = field(99, nested)
	}
	for name, message := range map[string][]byte{
		"empty entries":              field(16, bytes.Repeat([]byte{0x0a, 0}, size/2)),
		"unknown fields":             bytes.Repeat([]byte{0x98, 0x06, 1}, size/3),
		"nested messages":            nested,
		"nested groups":              bytes.Repeat(protowire.AppendTag(nil, 99, protowire.StartGroupType), size/2),
		"a manifest again and again": bytes.Repeat(field(2, []byte{8, 1}), size/4),
	} {
		raw := append(protowire.AppendVarint(nil, uint64(len(message))), message...)
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		err := wire.ReadMessage(bufio.NewReader(bytes.NewReader(raw)), &transferpb.Reply{})
		runtime.ReadMemStats(&after)
		took := after.TotalAlloc - before.TotalAlloc
		t.Logf("%s: %d KiB, %v", name, took>>10, err)
		if took > 8<<20 {
			t.Errorf("%s took %d bytes", name, took)
		}
	}
}
