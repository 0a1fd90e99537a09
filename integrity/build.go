package integrity

import (
	"context"
	"errors"
	"fmt"
	"io"
	"runtime"
	"sync"
	"sync/atomic"

	"golang.org/x/sync/errgroup"
)

const (
	// blockBytes is what a worker of Build reads at once. It holds a whole number
	// of groups of any size, since it is the largest of them.
	blockBytes = chunkSize << maxGroupSize

	// MaxGroups is the most groups that Build will cut a file into: 1 GiB of
	// chaining values, 32 TiB of file in groups of 1 MiB.
	MaxGroups = 1 << 25
)

// blocks keeps read buffers between builds, so that a directory of small files
// does not allocate 1 MiB for each.
var blocks = sync.Pool{New: func() any { return new([blockBytes]byte) }}

// Build reads size bytes from r and returns their tree. It uses all cores, with
// one block of 1 MiB in memory for each, besides the tree itself (32 bytes for
// each group).
//
// progress may be nil. Otherwise it is told how far the file is hashed without a
// gap, see [Progress].
//
// It returns ctx's error within one block after ctx is done, but does not
// interrupt a ReadAt; a [*ShortReadError] if r ends before size; r's own error,
// wrapped with its offset; or an ordinary error for a negative size, an invalid
// g, or more than [MaxGroups]. Bytes that r holds beyond size are not read. On
// return no goroutine is left and neither r nor progress is used any more.
func Build(ctx context.Context, r io.ReaderAt, size int64, g GroupSize, progress Progress) (*Tree, error) {
	switch {
	case size < 0:
		return nil, fmt.Errorf("integrity: build: size is negative: %d", size)
	case !g.Valid():
		return nil, fmt.Errorf("integrity: build: group size 2^%d chunks, above 2^%d", g, maxGroupSize)
	case g.Groups(size) > MaxGroups:
		return nil, fmt.Errorf("integrity: build: %d bytes in groups of %d are more than %d groups", size, g.Bytes(), MaxGroups)
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	t := &Tree{size: size, g: g}
	if size == 0 {
		t.root = nodeRoot(subtreeNode(nil, 0))
		return t, nil
	}
	if n := t.Groups(); n > 1 {
		t.cvs = make([]byte, n*hashSize)
	}
	b := builder{t: t, r: r}
	if progress != nil {
		b.prefix = &prefix{t: t, progress: progress}
	}
	if err := b.run(ctx); err != nil {
		return nil, err
	}
	if t.cvs != nil {
		t.root = nodeRoot(parentNode(t.cvs))
	}
	return t, nil
}

// builder shares the blocks of one file among workers.
type builder struct {
	t      *Tree // cvs: each worker writes those of its own blocks
	r      io.ReaderAt
	prefix *prefix      // nil if nobody wants to know
	next   atomic.Int64 // index of the next block that nobody has taken
}

// cores is how many blocks are hashed at once: as many as there were threads for Go code when the process began, for it may have fewer at times.
var cores = runtime.GOMAXPROCS(0)

// run hashes all blocks. It owns the workers and waits for them.
func (b *builder) run(ctx context.Context) error {
	workers := min(int64(cores), (b.t.size-1)/blockBytes+1)
	if workers == 1 {
		return b.work(ctx)
	}
	eg, ctx := errgroup.WithContext(ctx)
	for range workers {
		eg.Go(func() error { return b.work(ctx) })
	}
	return eg.Wait()
}

// work hashes one block after another until none is left or ctx is done.
func (b *builder) work(ctx context.Context) error {
	buf := blocks.Get().(*[blockBytes]byte)
	defer blocks.Put(buf)
	for {
		off := (b.next.Add(1) - 1) * blockBytes
		if off >= b.t.size {
			return nil
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		p := buf[:min(blockBytes, b.t.size-off)]
		if err := b.read(p, off); err != nil {
			return err
		}
		b.hash(p, off)
		if b.prefix != nil {
			b.prefix.add(off, off+int64(len(p)))
		}
	}
}

func (b *builder) read(p []byte, off int64) error {
	n, err := b.r.ReadAt(p, off)
	switch {
	case n == len(p): // io.ReaderAt may report io.EOF along with the last bytes
		return nil
	case err == nil, errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return &ShortReadError{Offset: off + int64(n), Size: b.t.size}
	default:
		return fmt.Errorf("integrity: build: read at byte %d: %w", off+int64(n), err)
	}
}

// hash sets the chaining values of the groups in p, the bytes of the file at
// off; for a file of one group it sets the root instead.
func (b *builder) hash(p []byte, off int64) {
	g := b.t.g
	n := g.groupAt(off)
	if b.t.cvs == nil {
		b.t.root = nodeRoot(subtreeNode(p, n.firstChunk(g)))
		return
	}
	for len(p) > 0 {
		group := p[:min(g.Bytes(), int64(len(p)))]
		cv := nodeCV(subtreeNode(group, n.firstChunk(g)))
		copy(b.t.cvs[int64(n)*hashSize:], cv[:])
		p = p[len(group):]
		n++
	}
}

// ShortReadError reports that a file ended before the size that [Build] was
// given: it has shrunk since its size was taken. It unwraps to
// [io.ErrUnexpectedEOF].
type ShortReadError struct {
	Offset int64 // of the first byte that is missing, as one worker saw it
	Size   int64 // that was asked for, in bytes
}

func (e *ShortReadError) Error() string {
	return fmt.Sprintf("integrity: file of %d bytes ended at %d", e.Size, e.Offset)
}

func (e *ShortReadError) Unwrap() error { return io.ErrUnexpectedEOF }
