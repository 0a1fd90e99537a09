package integrity

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync/atomic"

	"golang.org/x/sync/errgroup"
)

// partBytes is the length of the part of a file for which a Builder takes memory at
// once. It is a multiple of the blocks.
const partBytes = 1 << 30

// Builder builds the tree of one file in steps, between which other files may be
// hashed. Its memory grows with the bytes that are hashed, 32 bytes for each group,
// in steps of 1 GiB of the file. It must not be used by two goroutines at the same
// time.
type Builder struct {
	size  int64 // bytes
	g     GroupSize
	end   int64    // all bytes before it are hashed
	parts [][]byte // chaining values, for partBytes of the file each
	tree  *Tree    // nil until the file is hashed
}

// NewBuilder returns a Builder of a file of size bytes. It returns an ordinary error
// for a negative size, an invalid g, or more than [MaxGroups].
func NewBuilder(size int64, g GroupSize) (*Builder, error) {
	switch {
	case size < 0:
		return nil, fmt.Errorf("integrity: build: size is negative: %d", size)
	case !g.Valid():
		return nil, fmt.Errorf("integrity: build: group size 2^%d chunks, above 2^%d", g, maxGroupSize)
	case g.Groups(size) > MaxGroups:
		return nil, fmt.Errorf("integrity: build: %d bytes in groups of %d are more than %d groups",
			size, g.Bytes(), MaxGroups)
	}
	return &Builder{size: size, g: g}, nil
}

// Hashed returns how many bytes of the file are hashed, from its start.
func (b *Builder) Hashed() int64 { return b.end }

// Tree returns the tree, nil until the whole file is hashed.
func (b *Builder) Tree() *Tree { return b.tree }

// Run hashes the file from [Builder.Hashed] on, like [Build], and returns nil when it
// is hashed. If stop is not nil, all workers call it before each block; once it has
// returned true, Run finishes the blocks in progress and returns nil. After an error
// or a stop, the bytes that are hashed without a gap remain hashed, and the next Run
// continues there.
//
// The calls of progress continue those of earlier runs, and end is the size of the
// file in the last call of the last run.
func (b *Builder) Run(ctx context.Context, r io.ReaderAt, progress Progress, stop func() bool) error {
	for b.tree == nil {
		if err := ctx.Err(); err != nil {
			return err
		}
		if b.size == 0 {
			b.tree = &Tree{g: b.g, root: nodeRoot(subtreeNode(nil, 0))}
			break
		}
		p := b.part(r, progress, stop)
		err := p.run(ctx)
		b.end = p.prefix.end
		switch {
		case err != nil:
			return err
		case b.end == b.size:
			b.finish(p)
		case b.end < p.end:
			return nil // stopped
		}
	}
	return nil
}

// part returns the builder of the part of the file in which the next bytes are.
func (b *Builder) part(r io.ReaderAt, progress Progress, stop func() bool) *partBuilder {
	n := int(b.end / partBytes)
	start := int64(n) * partBytes
	end := min(start+partBytes, b.size)
	isTree := b.g.Groups(b.size) > 1 // a single group has no chaining value
	if n == len(b.parts) && isTree {
		b.parts = append(b.parts, make([]byte, b.g.Groups(end-start)*hashSize))
	}
	p := &partBuilder{size: b.size, g: b.g, start: start, end: end, r: r, stop: stop}
	if isTree {
		p.cvs = b.parts[n]
	}
	p.next.Store(b.end)
	p.prefix = newPrefix(p, b.end, progress)
	return p
}

// finish makes the tree; p is the last part.
func (b *Builder) finish(p *partBuilder) {
	t := &Tree{size: b.size, g: b.g, root: p.root}
	switch len(b.parts) {
	case 0:
	case 1:
		t.cvs = b.parts[0]
	default:
		t.cvs = slices.Concat(b.parts...)
	}
	if t.cvs != nil {
		t.root = nodeRoot(parentNode(t.cvs))
	}
	b.tree, b.parts = t, nil
}

// partBuilder distributes the blocks of one part of a file to workers.
type partBuilder struct {
	size       int64 // of the file, in bytes
	g          GroupSize
	start, end int64 // of the part in the file
	r          io.ReaderAt
	stop       func() bool // may be nil
	prefix     *prefix
	next       atomic.Int64 // offset of the first block that no worker has taken

	cvs  []byte // of the part; each worker writes only those of the blocks that it takes; nil for a file of one group
	root Root   // of a file of one group
}

// run hashes the blocks of the part. It starts the workers and waits for them.
func (b *partBuilder) run(ctx context.Context) error {
	workers := min(int64(cores), (b.end-b.next.Load()-1)/blockBytes+1)
	if workers == 1 {
		return b.work(ctx)
	}
	eg, ctx := errgroup.WithContext(ctx)
	for range workers {
		eg.Go(func() error { return b.work(ctx) })
	}
	return eg.Wait()
}

// work hashes blocks until none is left, stop reports true or ctx is done.
func (b *partBuilder) work(ctx context.Context) error {
	buf := blocks.Get().(*[blockBytes]byte)
	defer blocks.Put(buf)
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		if b.stop != nil && b.stop() {
			return nil
		}
		off := b.next.Add(blockBytes) - blockBytes
		if off >= b.end {
			return nil
		}
		p := buf[:min(blockBytes, b.end-off)]
		if err := b.read(p, off); err != nil {
			return err
		}
		b.hash(p, off)
		b.prefix.add(off, off+int64(len(p)))
	}
}

func (b *partBuilder) read(p []byte, off int64) error {
	n, err := b.r.ReadAt(p, off)
	switch {
	case n == len(p): // io.ReaderAt may report io.EOF along with the last bytes
		return nil
	case err == nil, errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return &ShortReadError{Offset: off + int64(n), Size: b.size}
	default:
		return fmt.Errorf("integrity: build: read at byte %d: %w", off+int64(n), err)
	}
}

// hash sets the chaining values of the groups in p, the bytes of the file at off.
// For a file of one group it sets the root instead.
func (b *partBuilder) hash(p []byte, off int64) {
	n := b.g.groupAt(off)
	if b.cvs == nil {
		b.root = nodeRoot(subtreeNode(p, n.firstChunk(b.g)))
		return
	}
	at := int64(n-b.g.groupAt(b.start)) * hashSize
	for len(p) > 0 {
		group := p[:min(b.g.Bytes(), int64(len(p)))]
		cv := nodeCV(subtreeNode(group, n.firstChunk(b.g)))
		at += int64(copy(b.cvs[at:], cv[:]))
		p = p[len(group):]
		n++
	}
}

// values returns the chaining values of the groups in the bytes [from, to) of the
// file, which are in the part.
func (b *partBuilder) values(from, to int64) []byte {
	if b.cvs == nil {
		return nil
	}
	base := b.g.groupAt(b.start)
	first, end := int64(b.g.groupAt(from)-base)*hashSize, int64(b.g.groupAt(to-1)+1-base)*hashSize
	return b.cvs[first:end:end]
}
