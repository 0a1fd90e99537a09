package transfer

import (
	"bytes"
	"context"
	"errors"
	"kwikcp/integrity"
	"kwikcp/internal/rangeset"
	"kwikcp/transfer/disk"
	"kwikcp/transfer/internal/partfile"
	"kwikcp/transfer/internal/transfertest"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"testing"
)

// compareWith surveys a local file as Compare does and says how it differs.
func compareWith(t *testing.T, local []byte, tree *integrity.Tree) []Difference {
	t.Helper()
	right, err := partfile.Survey(t.Context(), &wholly{File: openFile(t, local)}, min(int64(len(local)), tree.Size()),
		tree, nil)
	if err != nil {
		t.Fatal(err)
	}
	return differences(int64(len(local)), right, tree)
}

func TestDifferences(t *testing.T) {
	const g = 65536
	whole := make([]byte, 5*g+100)
	rand.NewChaCha8([32]byte{1}).Read(whole)
	flip := func(offs ...int) []byte {
		b := bytes.Clone(whole)
		for _, off := range offs {
			b[off]++
		}
		return b
	}
	end := int64(len(whole))
	for name, x := range map[string]struct {
		served, local []byte
		want          []Difference
	}{
		"same":                  {whole, whole, nil},
		"a byte":                {whole, flip(3 * g), []Difference{{3 * g, 4 * g, Differs}}},
		"neighbours become one": {whole, flip(g-1, g), []Difference{{0, 2 * g, Differs}}},
		"first and last": {whole, flip(0, int(end-1)),
			[]Difference{{0, g, Differs}, {5 * g, end, Differs}}},
		"all":                         {whole, make([]byte, end), []Difference{{0, end, Differs}}},
		"short by a byte":             {whole, whole[:end-1], []Difference{{5 * g, end, Missing}}},
		"short at a group":            {whole, whole[:2*g], []Difference{{2 * g, end, Missing}}},
		"short in a group, and wrong": {whole, flip(0)[:2*g+1], []Difference{{0, g, Differs}, {2 * g, end, Missing}}},
		"shorter than a group":        {whole, whole[:9], []Difference{{0, end, Missing}}},
		"empty":                       {whole, nil, []Difference{{0, end, Missing}}},
		"long by a byte":              {whole[:end-1], whole, []Difference{{end - 1, end, Extra}}},
		"long, and wrong":             {whole[:g], flip(7), []Difference{{0, g, Differs}, {g, end, Extra}}},
		"both empty":                  {nil, nil, nil},
		"should be empty":             {nil, whole[:1], []Difference{{0, 1, Extra}}},
		"a single short group":        {whole[:5], []byte("wrong"), []Difference{{0, 5, Differs}}},
	} {
		if got := compareWith(t, x.local, treeOf(x.served)); !slices.Equal(got, x.want) {
			t.Errorf("%s: %v, want %v", name, got, x.want)
		}
	}
}

// TestDifferencesOfAFileWithHoles checks that holes equal the zeros of the server's file.
func TestDifferencesOfAFileWithHoles(t *testing.T) {
	content := make([]byte, 3<<20)
	content[0] = 1
	f := openFile(t, content, rangeset.Range{Start: 1 << 20, End: 3 << 20})
	right, err := partfile.Survey(t.Context(), &wholly{File: f}, 3<<20, treeOf(content), nil)
	if err != nil || right.Total() != 3<<20 {
		t.Errorf("%v are right, %v", right.String(), err)
	}
}

func (w *testNet) compare(ctx context.Context, f disk.File) (Comparison, error) {
	o := CompareOptions{URL: serverFile, TLS: w.TLS(), File: f, Name: "local", KWIK: w.Client()}
	return Compare(ctx, o, nil)
}

func TestCompare(t *testing.T) {
	dir := t.TempDir()
	transfertest.Put(t, filepath.Join(dir, "file"), string(theFile))
	d, err := disk.OpenTree(dir, false)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	wrong := bytes.Clone(theFile)
	wrong[70000]++
	onWire(t, func(w *testNet) {
		w.serve(d)
		c, err := w.compare(w.Ctx, openFile(t, wrong))
		if err != nil || c.Size != int64(len(theFile)) || c.Manifest.Root != treeOf(theFile).Root() {
			t.Errorf("%+v, %v", c, err)
		}
		if want := []Difference{{65536, 131072, Differs}}; !slices.Equal(c.Differences, want) {
			t.Errorf("differences %v, want %v", c.Differences, want)
		}
		if sent := w.Sim.Stats().Packets; sent > 100 { // the file alone would be more than 140
			t.Errorf("%d packets went over the network", sent)
		}
	})
}

// TestCompareWithABrokenDisk checks that a read error is not reported as a difference.
func TestCompareWithABrokenDisk(t *testing.T) {
	onWire(t, func(w *testNet) {
		w.hostile(openTheFile, func(p *peer) {
			m, cvs := honest()
			p.offer(m, int64(len(theFile)))
			p.Manifest(m)
			p.Tree(cvs)
		})
		for op, fail := range map[string]int{"stat": 1, "read": 2} {
			x := &faults{fail: fail, with: syscall.EIO}
			_, err := w.compare(w.Ctx, faultyFile{openFile(t, theFile), x, "f"})
			wantKind(t, err, KindLocal, `verify "local": `)
			if !errors.Is(err, syscall.EIO) {
				t.Errorf("%s: %v", op, err)
			}
		}
	})
}

// TestCompareWithoutAnAnswer checks that errors of the server are the same as those of Get.
func TestCompareWithoutAnAnswer(t *testing.T) {
	onWire(t, func(w *testNet) {
		_, err := w.compare(w.Ctx, openFile(t, theFile))
		wantKind(t, err, KindNetwork, "no answer in time")
	})
	onWire(t, func(w *testNet) {
		w.hostile(openTheFile, func(p *peer) { m, cvs := honest(); cvs[0]++; p.Manifest(m); p.Tree(cvs) })
		_, err := w.compare(w.Ctx, openFile(t, theFile))
		wantKind(t, err, KindIntegrity, "")
	})
	reason := errors.New("enough")
	onWire(t, func(w *testNet) {
		ctx, cancel := context.WithCancelCause(w.Ctx)
		w.hostile(openTheFile, func(*peer) { cancel(reason) })
		if _, err := w.compare(ctx, openFile(t, theFile)); err != reason {
			t.Error(err)
		}
	})
}

func TestOpenFile(t *testing.T) {
	root, _ := transfertest.OpenTreeWithTraps(t)
	for name, want := range map[string]error{
		"file": nil, "inside": nil, "outside": nil, "absolute": nil, "updir/secret": nil,
		"fifo": disk.ErrNotAFile, "sub": disk.ErrNotAFile, "missing": os.ErrNotExist, "dangling": os.ErrNotExist,
		"loop": syscall.ELOOP,
	} {
		f, err := disk.OpenFile(filepath.Join(root, name))
		if !errors.Is(err, want) {
			t.Errorf("%s: %v", name, err)
		}
		if err == nil {
			f.Close()
		}
	}
}
