package integrity

import (
	"bytes"
	"context"
	"errors"
	"io"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
)

// diary records the calls of a Progress and checks each against its documentation.
type diary struct {
	t       *testing.T
	size    int64
	g       GroupSize
	running atomic.Int64
	ends    []int64
	cvs     []byte
}

func (d *diary) progress(end int64, cvs []byte) {
	if d.running.Add(1) != 1 {
		d.t.Error("progress is called twice at once")
	}
	defer d.running.Add(-1)
	last := int64(0)
	if len(d.ends) > 0 {
		last = d.ends[len(d.ends)-1]
	}
	want := (d.g.Groups(end) - d.g.Groups(last)) * hashSize
	if d.g.Groups(d.size) < 2 {
		want = 0
	}
	if end <= last || end > d.size {
		d.t.Errorf("size %d: progress to %d after %d", d.size, end, last)
	}
	if end != d.size && (end-last)%blockBytes != 0 {
		d.t.Errorf("size %d: progress from %d to %d within a block", d.size, last, end)
	}
	if int64(len(cvs)) != want {
		d.t.Errorf("size %d: %d bytes of chaining values for [%d,%d), want %d", d.size, len(cvs), last, end, want)
	}
	if cap(cvs) != len(cvs) {
		d.t.Error("an append to what progress is given would change the tree")
	}
	d.ends = append(d.ends, end)
	d.cvs = append(d.cvs, cvs...)
}

func TestProgressIsThePrefix(t *testing.T) {
	data := pattern(5<<20 + 7)
	for _, g := range []GroupSize{0, 6, 10} {
		unit := g.Bytes()
		sizes := []int64{0, 1, unit - 1, unit, unit + 1, 1<<20 - 1, 1 << 20, 1<<20 + 1, 5 << 20, 5<<20 + 7}
		for _, size := range sizes {
			d := diary{t: t, size: size, g: g}
			tree, err := Build(t.Context(), bytes.NewReader(data), size, g, d.progress)
			if err != nil {
				t.Fatal(err)
			}
			if size == 0 && len(d.ends) > 0 {
				t.Errorf("size 0: progress at %d", d.ends)
			}
			if size > 0 && d.ends[len(d.ends)-1] != size {
				t.Errorf("size %d: progress ends at %d", size, d.ends)
			}
			if !bytes.Equal(d.cvs, tree.CVs()) {
				t.Errorf("size %d, group size %d: progress had other chaining values than the tree", size, g)
			}
		}
	}
}

// manyWorkers makes Build use n workers on any machine.
func manyWorkers(t *testing.T, n int) {
	old := runtime.GOMAXPROCS(n)
	t.Cleanup(func() { runtime.GOMAXPROCS(old) })
}

// holdBack is a file whose first block is read last.
type holdBack struct {
	*bytes.Reader
	others sync.WaitGroup // reads of the other blocks
	first  atomic.Bool    // the first block is being read
}

func (h *holdBack) ReadAt(p []byte, off int64) (int, error) {
	if off == 0 {
		h.others.Wait()
		h.first.Store(true)
	} else {
		defer h.others.Done()
	}
	return h.Reader.ReadAt(p, off)
}

// Progress is not called before the first block is hashed, however many others are.
func TestProgressWaitsForTheFirstBlock(t *testing.T) {
	manyWorkers(t, 3)
	data := pattern(8 << 20)
	r := &holdBack{Reader: bytes.NewReader(data)}
	r.others.Add(7)
	d := diary{t: t, size: 8 << 20, g: 6}
	tree, err := Build(t.Context(), r, 8<<20, 6, func(end int64, cvs []byte) {
		if !r.first.Load() {
			t.Errorf("progress told %d before the first block was read", end)
		}
		d.progress(end, cvs)
	})
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(d.cvs, tree.CVs()) {
		t.Errorf("progress told %d", d.ends)
	}
}

// A slow call delays one worker. The next call reports all blocks that the others
// hashed in the meantime.
func TestProgressDoesNotStopTheOtherWorkers(t *testing.T) {
	manyWorkers(t, 2)
	data := pattern(8 << 20)
	told, allRead := make(chan struct{}), make(chan struct{})
	r := probe{Reader: bytes.NewReader(data), onRead: func(nth int64) error {
		if nth > 2 {
			<-told
		}
		if nth == 8 {
			close(allRead)
		}
		return nil
	}}
	d := diary{t: t, size: 8 << 20, g: 6}
	tree, err := Build(t.Context(), &r, 8<<20, 6, func(end int64, cvs []byte) {
		d.progress(end, cvs)
		if len(d.ends) == 1 {
			close(told)
		}
		<-allRead
	})
	if err != nil {
		t.Fatal(err)
	}
	if d.ends[0] > 2<<20 || d.ends[len(d.ends)-1] != 8<<20 || !bytes.Equal(d.cvs, tree.CVs()) {
		t.Errorf("progress told %d", d.ends)
	}
}

func TestProgressStopsAtABadBlock(t *testing.T) {
	manyWorkers(t, 2)
	broken := errors.New("disk on fire")
	file := failingAt{bytes.NewReader(pattern(8 << 20)), 3 << 20, broken}
	d := diary{t: t, size: 8 << 20, g: 6}
	if _, err := Build(t.Context(), file, 8<<20, 6, d.progress); !errors.Is(err, broken) {
		t.Fatal(err)
	}
	if slices.ContainsFunc(d.ends, func(end int64) bool { return end > 3<<20 }) {
		t.Errorf("progress went past a block that could not be read: %d", d.ends)
	}

	ctx, cancel := context.WithCancel(t.Context())
	r := probe{Reader: bytes.NewReader(pattern(8 << 20)), onRead: func(nth int64) error {
		if nth > 2 {
			<-ctx.Done()
		}
		return nil
	}}
	d = diary{t: t, size: 8 << 20, g: 6}
	_, err := Build(ctx, &r, 8<<20, 6, func(end int64, cvs []byte) {
		d.progress(end, cvs)
		cancel()
	})
	if !errors.Is(err, context.Canceled) || len(d.ends) == 0 {
		t.Errorf("cancelled by progress: %v after %d", err, d.ends)
	}
}

// failingAt is a file with a block that cannot be read.
type failingAt struct {
	io.ReaderAt
	bad int64 // offset of the block
	err error
}

func (f failingAt) ReadAt(p []byte, off int64) (int, error) {
	if off == f.bad {
		return 0, f.err
	}
	return f.ReaderAt.ReadAt(p, off)
}
