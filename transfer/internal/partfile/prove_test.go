package partfile

import (
	"bytes"
	"kwikcp/transfer/disk"
	"kwikcp/transfer/internal/transfertest"
	"math/rand/v2"
	"path/filepath"
	"testing"
)

// TestProveAgain proves a part file against a second version. The bytes that both versions
// share still count.
func TestProveAgain(t *testing.T) {
	a := make([]byte, 6*65536+7)
	rand.NewChaCha8([32]byte{1}).Read(a)
	b := bytes.Clone(a[:5*65536-9]) // shorter, and with another group 2
	b[2*65536]++
	target := filepath.Join(t.TempDir(), "out")
	p, err := open(disk.OpenDir, target)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Leave()
	prove := func(content []byte, had, resumed int64) {
		t.Helper()
		if err := p.Prove(t.Context(), transfertest.TreeOf(content), nil, nil); err != nil {
			t.Fatal(err)
		}
		if x, y, _ := p.InPlace(); x != had || y != resumed {
			t.Errorf("%d in place, %d of them from before; want %d and %d", x, y, had, resumed)
		}
	}
	prove(a, 0, 0)
	p.WriteAt(a[:4*65536], 0)
	p.WriteAt(a[6*65536:], 6*65536)
	prove(a, 4*65536+7, 0)
	prove(b, 3*65536, 0)
	if info, err := p.file.Stat(); err != nil || info.Size() != int64(len(b)) {
		t.Errorf("%d bytes long, want %d, %v", info.Size(), len(b), err)
	}
	p.WriteAt(b[2*65536:3*65536], 2*65536)
	prove(b, 4*65536, 0)
	if p.Whole() {
		t.Error("whole with four groups of five")
	}
	if err := p.Commit(meta); err == nil {
		t.Error("a part was put in place")
	}
	p.WriteAt(b[4*65536:], 4*65536)
	if err := p.Commit(meta); err != nil {
		t.Error(err)
	}
	transfertest.WantContent(t, target, string(b))
}
