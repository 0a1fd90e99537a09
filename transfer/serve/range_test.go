package serve

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/zeebo/blake3"

	"kwikcp/integrity"
	"kwikcp/transfer/disk"
	"kwikcp/transfer/internal/transfertest"
	"kwikcp/transfer/internal/wire"
	transferpb "kwikcp/transfer/internal/wire/proto"
)

// rangeFile has 1,000 groups and a short one.
var rangeFile = bytes.Repeat([]byte("0123456789abcdef"), 1000*4096+3)

// rangeRequest encodes a request for a range of "file".
func rangeRequest(r *transferpb.ByteRange) []byte {
	var raw bytes.Buffer
	request := &transferpb.Request{Version: 1, Path: []byte("file"), HeadStart: 65536, Range: r}
	wire.WriteMessage(&raw, request)
	return raw.Bytes()
}

// proofIn returns the manifest of an answer and the values of its range proof. It fails the test if
// the answer has a Tree or Root frame.
func proofIn(t *testing.T, replies []*transferpb.Reply) (m *transferpb.Manifest, proof []byte) {
	t.Helper()
	for _, reply := range replies {
		if reply.GetTree() != nil || reply.GetRoot() != nil {
			t.Errorf("the answer has %v", reply)
		}
		if reply.GetManifest() != nil {
			m = reply.GetManifest()
		}
		proof = append(proof, reply.GetRangeProof().GetValues()...)
	}
	if m == nil {
		t.Fatal("the answer has no manifest")
	}
	return m, proof
}

// TestServerProvesRangesAfterHashing checks that a server that still hashes the file answers a
// range when the tree is complete.
func TestServerProvesRangesAfterHashing(t *testing.T) {
	root := t.TempDir()
	content := make([]byte, 20<<20)
	transfertest.Put(t, filepath.Join(root, "file"), string(content))
	dir, err := disk.OpenTree(root, false)
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	transfertest.OnNet(t, func(w *transfertest.Net) {
		serveOn(w, transfertest.SlowDir{TreeDir: dir, Delay: 700 * time.Millisecond})
		c := w.Dial()
		defer c.CloseWithError(0, "")
		replies, err := w.Ask(c, rangeRequest(&transferpb.ByteRange{Suffix: 1}), true)
		if err != nil {
			w.T.Fatal(err)
		}
		if len(replies) == 0 || replies[0].GetHashing() == nil {
			w.T.Errorf("the first frame is not Hashing: %v", replies)
		}
		m, proof := proofIn(w.T, replies)
		size, hash := int64(len(content)), integrity.Root(blake3.Sum256(content))
		if !bytes.Equal(m.GetRoot(), hash[:]) {
			w.T.Errorf("the root is %x", m.GetRoot())
		}
		group := integrity.GroupSize(m.GetGroup())
		if _, err := integrity.FromRangeProof(size, group, size-1, size, proof, hash); err != nil {
			w.T.Error(err)
		}
	})
}

// TestServerProvesRanges checks that a server answers a range with its proof. The proof has at
// most two values per level beside those of the groups.
func TestServerProvesRanges(t *testing.T) {
	root := t.TempDir()
	if err := os.WriteFile(filepath.Join(root, "file"), rangeFile, 0o600); err != nil {
		t.Fatal(err)
	}
	dir, err := disk.OpenTree(root, false)
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	size := int64(len(rangeFile))
	hash := integrity.Root(blake3.Sum256(rangeFile))
	transfertest.OnNet(t, func(w *transfertest.Net) {
		serveOn(w, dir)
		c := w.Dial()
		defer c.CloseWithError(0, "")
		for _, x := range []struct {
			text   string
			groups int64
		}{
			{"0-0", 1}, {"65535-65536", 2}, {"32768000-33816575", 17}, {"-1", 1}, {"-65536", 2}, {"0-", 1001},
			{fmt.Sprint(size, "-"), 0},
		} {
			r, err := wire.ParseByteRange(x.text)
			if err != nil {
				w.T.Fatal(err)
			}
			replies, err := w.Ask(c, rangeRequest(r.Message()), true)
			if err != nil {
				w.T.Fatal(err)
			}
			m, proof := proofIn(w.T, replies)
			if most := 32 * (x.groups + 2*10); int64(len(proof)) > most {
				w.T.Errorf("%s: a proof of %d bytes, want at most %d", x.text, len(proof), most)
			}
			want := r.Of(size)
			if want.Empty() {
				if len(proof) > 0 {
					w.T.Errorf("%s: a proof of %d bytes", x.text, len(proof))
				}
				continue
			}
			group := integrity.GroupSize(m.GetGroup())
			if _, err := integrity.FromRangeProof(size, group, want.Start, want.End, proof, hash); err != nil {
				w.T.Errorf("%s: %v", x.text, err)
			}
		}
		replies, err := w.Ask(c, rangeRequest(&transferpb.ByteRange{Start: 2, End: 1}), true)
		if f := failure(w.T, replies, err); f.GetCode() != transferpb.Failure_BAD_REQUEST {
			w.T.Errorf("an impossible range: %v", f)
		}
	})
}
