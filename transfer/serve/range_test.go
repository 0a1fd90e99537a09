package serve

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/zeebo/blake3"

	"kwikcp/integrity"
	"kwikcp/transfer/disk"
	"kwikcp/transfer/internal/transfertest"
	"kwikcp/transfer/internal/wire"
	transferpb "kwikcp/transfer/internal/wire/proto"
)

// rangeFile has 1,000 groups and a short one.
var rangeFile = bytes.Repeat([]byte("0123456789abcdef"), 1000*4096+3)

// A server answers a range with its proof, at most two values per level beside those of the groups.
func TestServerProvesRanges(t *testing.T) {
	root := t.TempDir()
	if err := os.WriteFile(filepath.Join(root, "file"), rangeFile, 0o600); err != nil {
		t.Fatal(err)
	}
	dir, err := disk.OpenDir(root)
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	const group = 65536
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
			var raw bytes.Buffer
			wire.WriteMessage(&raw, &transferpb.Request{Version: 1, Path: []byte("file"), HeadStart: group, Range: r.Message()})
			replies, err := w.Ask(c, raw.Bytes(), true)
			if err != nil {
				w.T.Fatal(err)
			}
			var proof []byte
			var m *transferpb.Manifest
			for _, reply := range replies {
				if reply.GetTree() != nil {
					w.T.Errorf("%s: a Tree frame", x.text)
				}
				if reply.GetManifest() != nil {
					m = reply.GetManifest()
				}
				proof = append(proof, reply.GetRangeProof().GetValues()...)
			}
			if most := 32 * (x.groups + 2*10); int64(len(proof)) > most {
				w.T.Errorf("%s: a proof of %d bytes, want at most %d", x.text, len(proof), most)
			}
			want := r.Of(size)
			if want.Empty() {
				if m == nil || len(proof) > 0 {
					w.T.Errorf("%s: manifest %v, proof of %d bytes", x.text, m, len(proof))
				}
				continue
			}
			if _, err := integrity.FromRangeProof(size, integrity.GroupSize(m.GetGroup()), want.Start, want.End, proof, hash); err != nil {
				w.T.Errorf("%s: %v", x.text, err)
			}
		}
		var raw bytes.Buffer
		wire.WriteMessage(&raw, &transferpb.Request{Version: 1, Path: []byte("file"), Range: &transferpb.ByteRange{Start: 2, End: 1}})
		replies, err := w.Ask(c, raw.Bytes(), true)
		if f := failure(w.T, replies, err); f.GetCode() != transferpb.Failure_BAD_REQUEST {
			w.T.Errorf("an impossible range: %v", f)
		}
	})
}
