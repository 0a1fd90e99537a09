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
	// blockBytes is the length of one read of Build and of Sum. It is the largest
	// group size, so a block holds a whole number of groups of any size.
	blockBytes = chunkSize << maxGroupSize

	// MaxGroups is the largest number of groups in a tree that [Build] makes. That
	// is 1 GiB of chaining values, or 32 TiB of file in groups of 1 MiB.
	MaxGroups = 1 << 25
)

// blocks keeps read buffers between builds, so that a directory of small files
// does not allocate 1 MiB for each.
var blocks = sync.Pool{New: func() any { return new([blockBytes]byte) }}

// Build reads size bytes from r and returns their tree. It uses all cores, and
// needs 1 MiB of memory for each besides the tree itself, which takes 32 bytes for
// each group. It does not read bytes of r beyond size.
//
// If progress is not nil, Build calls it as the file is hashed; see [Progress].
//
// Build returns ctx's error within one block of 1 MiB after ctx is done, but does
// not interrupt a ReadAt. It returns a [*ShortReadError] if r ends before size, and
// any other error of r wrapped with its offset. It returns an ordinary error for a
// negative size, an invalid g, or more than [MaxGroups]. On return no goroutine is
// left and neither r nor progress is used any more.
func Build(ctx context.Context, r io.ReaderAt, size int64, g GroupSize, progress Progress) (*Tree, error) {
	switch {
	case size < 0:
		return nil, fmt.Errorf("integrity: build: size is negative: %d", size)
	case !g.Valid():
		return nil, fmt.Errorf("integrity: build: group size 2^%d chunks, above 2^%d", g, maxGroupSize)
	case g.Groups(size) > MaxGroups:
		return nil, fmt.Errorf("integrity: build: %d bytes in groups of %d are more than %d groups",
			size, g.Bytes(), MaxGroups)
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

// builder distributes the blocks of one file to workers.
type builder struct {
	t      *Tree // each worker writes only the cvs of the blocks that it takes
	r      io.ReaderAt
	prefix *prefix      // nil without a Progress
	next   atomic.Int64 // index of the first block that no worker has taken
}

// cores is the number of blocks that are hashed at once. It is read at the start of
// the process, because GOMAXPROCS may be lowered for a time later (internal/procs).
var cores = runtime.GOMAXPROCS(0)

// run hashes all blocks. It starts the workers and waits for them.
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

// work hashes blocks until none is left or ctx is done.
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

// hash sets the chaining values of the groups in p, the bytes of the file at off.
// For a file of one group it sets the root instead.
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

// ShortReadError reports that a file ended before the size given to [Build], so it
// was truncated in the meantime. It unwraps to [io.ErrUnexpectedEOF].
type ShortReadError struct {
	Offset int64 // of the first missing byte, as one worker saw it
	Size   int64 // requested, in bytes
}

func (e *ShortReadError) Error() string {
	return fmt.Sprintf("integrity: file of %d bytes ended at %d", e.Size, e.Offset)
}

func (e *ShortReadError) Unwrap() error { return io.ErrUnexpectedEOF }
