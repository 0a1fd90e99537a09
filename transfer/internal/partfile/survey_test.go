package partfile

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"kwikcp/integrity"
	"kwikcp/internal/rangeset"
	"kwikcp/transfer/disk"
	"kwikcp/transfer/internal/transfertest"
	"kwikcp/transfer/internal/transfertest/disktest"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"sync/atomic"
	"testing"
)

// A badDisk is a file whose n-th read ends half way.
type badDisk struct {
	disk.File
	fail  int64
	reads atomic.Int64
}

func (f *badDisk) ReadAt(p []byte, off int64) (int, error) {
	if f.reads.Add(1) != f.fail {
		return f.File.ReadAt(p, off)
	}
	n, _ := f.File.ReadAt(p[:len(p)/2], off)
	return n, errors.New("bad sector")
}

// TestSurvey spoils files in many ways and expects exactly the groups that are right and there
// as a whole.
func TestSurvey(t *testing.T) {
	for seed := range uint64(60) {
		r := rand.New(rand.NewPCG(seed, 1))
		g := integrity.GroupSize([]uint8{0, 4, 6, 6, 10}[r.IntN(5)])
		unit := g.Bytes()
		size := r.Int64N(5 << 20)
		switch r.IntN(4) {
		case 0:
			size = max(0, unit*r.Int64N(5)+r.Int64N(3)-1)
		case 1:
			size -= size % unit
		}
		content := make([]byte, size)
		rand.NewChaCha8([32]byte{byte(seed)}).Read(content)
		tree, err := integrity.Build(t.Context(), bytes.NewReader(content), size, g, nil)
		if err != nil {
			t.Fatal(err)
		}
		have := bytes.Clone(content)
		if r.IntN(2) == 0 { // cut
			have = have[:r.Int64N(size+1)]
		}
		var want rangeset.Set
		for off := int64(0); off < size; off += unit {
			end := min(off+unit, size)
			if end > int64(len(have)) {
				break
			}
			switch r.IntN(4) {
			case 0:
				have[off+r.Int64N(end-off)] ^= 1 << r.IntN(8)
			case 1:
				clear(have[off+(end-off)/2 : end]) // torn
			default:
				want.Add(off, end)
			}
		}
		var hole rangeset.Range
		if len(have) > 0 {
			hole.Start = r.Int64N(int64(len(have)))
			hole.End = min(int64(len(have)), hole.Start+r.Int64N(2<<20))
			for off := hole.Start - hole.Start%unit; off < hole.End; off += unit {
				want.Sub(off, off+unit)
			}
		}
		f := &disktest.ReadCounter{File: disktest.OpenFile(t, have, hole)}
		got, err := Survey(t.Context(), f, int64(len(have)), tree, nil)
		if err != nil || !slices.Equal(got.Ranges(), want.Ranges()) {
			t.Errorf("seed %d: %d bytes of %d in groups of %d, hole %v: got %v, %v; want %v", seed, len(have), size,
				unit, hole, &got, err, &want)
		}
		if last, ok := f.Read.Last(); ok && last.End > int64(len(have)) {
			t.Errorf("seed %d: read up to %d of %d bytes", seed, last.End, len(have))
		}
	}
}

// TestSurveySkipsHoles checks that Survey does not read holes that the file system reports.
func TestSurveySkipsHoles(t *testing.T) {
	content := make([]byte, 64<<20)
	rand.NewChaCha8([32]byte{}).Read(content[60<<20:])
	file := disktest.OpenFile(t, content, rangeset.Range{Start: 0, End: 60 << 20})
	if start, _, _ := file.NextData(0); start == 0 {
		t.Skip("the file system does not know holes")
	}
	f := &disktest.ReadCounter{File: file}
	got, err := Survey(t.Context(), f, 64<<20, transfertest.TreeOf(content), nil)
	if err != nil || got.Total() != 4<<20 || f.Read.Total() > 5<<20 {
		t.Errorf("%d bytes proved, %d read, %v", got.Total(), f.Read.Total(), err)
	}
}

// TestSurveyOfADisk checks that an unreadable byte counts as not verified and causes no other
// error.
func TestSurveyOfADisk(t *testing.T) {
	content := make([]byte, 8<<20)
	rand.NewChaCha8([32]byte{}).Read(content)
	tree := transfertest.TreeOf(content)
	for fail := 1; fail <= 8; fail++ {
		f := &badDisk{File: disktest.OpenFile(t, content), fail: int64(fail)}
		got, err := Survey(t.Context(), f, 8<<20, tree, nil)
		if err != nil || got.Total() != 15<<19 { // the disk returned half a span
			t.Errorf("read %d failed: %d bytes proved, %v", fail, got.Total(), err)
		}
	}
}

func TestSurveyEnds(t *testing.T) {
	content := make([]byte, 8<<20)
	ctx, cancel := context.WithCancelCause(t.Context())
	enough := errors.New("enough")
	cancel(enough)
	if _, err := Survey(ctx, disktest.OpenFile(t, content), 8<<20, transfertest.TreeOf(content), nil); err != enough {
		t.Errorf("error %v", err)
	}
}

func BenchmarkSurvey(b *testing.B) {
	content := make([]byte, 256<<20)
	rand.NewChaCha8([32]byte{}).Read(content)
	name := filepath.Join(b.TempDir(), "f")
	if err := os.WriteFile(name, content, 0o600); err != nil {
		b.Fatal(err)
	}
	d, err := disk.OpenDir(filepath.Dir(name))
	if err != nil {
		b.Fatal(err)
	}
	defer d.Close()
	f, err := d.Open("f")
	if err != nil {
		b.Fatal(err)
	}
	defer f.Close()
	tree := transfertest.TreeOf(content)
	b.SetBytes(int64(len(content)))
	for b.Loop() {
		if got, err := Survey(b.Context(), f, int64(len(content)), tree, nil); err != nil ||
			got.Total() != int64(len(content)) {
			b.Fatal(fmt.Sprint(&got, err))
		}
	}
}
