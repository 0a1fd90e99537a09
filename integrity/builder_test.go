package integrity

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"sync/atomic"
	"testing"
)

// A failingReader fails at an offset, unless it is negative.
type failingReader struct {
	io.ReaderAt
	at int64
}

var errRead = errors.New("the disk fails")

func (r failingReader) ReadAt(p []byte, off int64) (int, error) {
	if r.at >= off && r.at < off+int64(len(p)) {
		return 0, errRead
	}
	return r.ReaderAt.ReadAt(p, off)
}

// TestBuilderInSteps builds trees in random steps that end by a stop, a cancelled context or a
// read error. The tree, and the values that progress reported, are those of Build.
func TestBuilderInSteps(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	for _, size := range []int64{0, 1, 65536, 65537, 1 << 20, 5<<20 + 7, 37 << 20} {
		data := make([]byte, size)
		rand.NewChaCha8([32]byte{3}).Read(data)
		want, err := Build(t.Context(), bytes.NewReader(data), size, DefaultGroupSize, nil)
		if err != nil {
			t.Fatal(err)
		}
		b, err := NewBuilder(size, DefaultGroupSize)
		if err != nil {
			t.Fatal(err)
		}
		var cvs []byte
		end, steps := int64(0), 0
		progress := func(to int64, more []byte) {
			if to <= end {
				t.Errorf("progress of %d after %d", to, end)
			}
			end, cvs = to, append(cvs, more...)
		}
		for ; b.Tree() == nil; steps++ {
			before := b.Hashed()
			ctx, cancel := context.WithCancel(t.Context())
			var calls atomic.Int64
			limit := 1 + random.Int64N(8)
			kind := random.IntN(3)
			r := failingReader{bytes.NewReader(data), -1}
			if kind == 2 && steps < 1000 {
				r.at = before + random.Int64N(8<<20)
			}
			err := b.Run(ctx, r, progress, func() bool {
				isLast := calls.Add(1) > limit
				if isLast && kind == 1 {
					cancel()
				}
				return isLast && kind == 0
			})
			cancel()
			if want := []error{nil, context.Canceled, errRead}[kind]; err != nil && !errors.Is(err, want) {
				t.Fatal(err)
			}
			if b.Hashed() < before || b.Hashed() != end {
				t.Fatalf("%d bytes: step from %d to %d, %d reported, %v", size, before, b.Hashed(), end, err)
			}
		}
		if b.Tree().Root() != want.Root() || !bytes.Equal(b.Tree().CVs(), want.CVs()) || !bytes.Equal(cvs, want.CVs()) {
			t.Errorf("%d bytes in %d steps have another tree", size, steps)
		}
		if size > 20<<20 && steps < 3 {
			t.Errorf("%d bytes in %d steps", size, steps)
		}
		if err := b.Run(t.Context(), nil, nil, nil); err != nil {
			t.Errorf("a run after the last: %v", err)
		}
	}
}

// TestBuilderOfManyParts builds the tree of a file of more than one part, whose values are in
// several pieces until the end.
func TestBuilderOfManyParts(t *testing.T) {
	const size = 5*partBytes + 3<<20 + 1
	b, err := NewBuilder(size, DefaultGroupSize)
	if err != nil {
		t.Fatal(err)
	}
	var cvs []byte
	var end atomic.Int64
	progress := func(to int64, more []byte) {
		end.Store(to)
		cvs = append(cvs, more...)
	}
	for _, at := range []int64{partBytes - 5<<20, partBytes, 2*partBytes + blockBytes, size} {
		if err := b.Run(t.Context(), zeros{}, progress, func() bool { return end.Load() >= at }); err != nil {
			t.Fatal(err)
		}
	}
	tree := b.Tree()
	if tree == nil {
		t.Fatal("the file is not hashed")
	}
	if _, err := FromCVs(size, DefaultGroupSize, cvs, tree.Root()); err != nil || !bytes.Equal(cvs, tree.CVs()) {
		t.Errorf("progress reported other values: %v", err)
	}
}

// zeros is a file of zeros.
type zeros struct{}

func (zeros) ReadAt(p []byte, _ int64) (int, error) {
	clear(p)
	return len(p), nil
}

func TestAppendCVs(t *testing.T) {
	data := make([]byte, 5*65536)
	tree, err := Build(t.Context(), bytes.NewReader(data), int64(len(data)), DefaultGroupSize, nil)
	if err != nil {
		t.Fatal(err)
	}
	cvs := tree.CVs()
	for off := range len(cvs) + 40 {
		for _, n := range []int{0, 1, 31, 32, 64, len(cvs), 2 * len(cvs)} {
			want := cvs[min(off, len(cvs)):min(off+n, len(cvs))]
			if got := tree.AppendCVs([]byte("x"), off, n); string(got) != "x"+string(want) {
				t.Fatalf("%d bytes from %d on: %d bytes", n, off, len(got)-1)
			}
		}
	}
}
