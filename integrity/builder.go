package integrity

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"sync/atomic"

	"golang.org/x/sync/errgroup"
)

// partBytes is the length of the part of a file for whose chaining values a Builder
// takes memory at once. It is a multiple of the blocks.
const partBytes = 64 << 20

// Builder builds the tree of one file in steps, between which other files may be
// hashed. Its memory grows with the bytes that are hashed, 32 bytes for each group,
// in steps of 64 MiB of the file. It must not be used by two goroutines at the same
// time.
type Builder struct {
	size  int64 // bytes
	g     GroupSize
	end   int64 // all bytes before it are hashed
	parts parts
	tree  *Tree // nil until the file is hashed
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
	return &Builder{size: size, g: g, parts: parts{size: size, g: g}}, nil
}

// Hashed returns how many bytes of the file are hashed, from its start.
func (b *Builder) Hashed() int64 { return b.end }

// Tree returns the tree, nil until the whole file is hashed.
func (b *Builder) Tree() *Tree { return b.tree }

// Run hashes the file from [Builder.Hashed] on, like [Build], and returns nil when it
// is hashed. If stop is not nil, all workers call it before each block. Once it has
// returned true, Run finishes the blocks in progress and returns nil. After an error
// or a stop, the bytes that are hashed without a gap remain hashed, and the next Run
// continues there.
//
// The calls of progress continue those of earlier runs, and end is the size of the
// file in the last call of the last run.
func (b *Builder) Run(ctx context.Context, r io.ReaderAt, progress Progress, stop func() bool) error {
	if b.tree != nil {
		return nil
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	if b.size == 0 {
		b.tree = &Tree{g: b.g, root: nodeRoot(subtreeNode(nil, 0))}
		return nil
	}
	run := &builderRun{size: b.size, r: r, stop: stop, parts: &b.parts, prefix: newPrefix(&b.parts, b.end, progress)}
	run.next.Store(b.end)
	err := run.start(ctx)
	b.end = run.prefix.end
	if err == nil && b.end == b.size {
		b.tree = b.parts.tree()
		b.parts = parts{}
	}
	return err
}

// builderRun distributes the blocks of a file to the workers of one Run.
type builderRun struct {
	size   int64 // of the file, in bytes
	r      io.ReaderAt
	stop   func() bool // may be nil
	parts  *parts
	prefix *prefix
	next   atomic.Int64 // offset of the first block that no worker has taken
}

// start hashes the blocks from next on. It starts the workers and waits for them.
func (b *builderRun) start(ctx context.Context) error {
	workers := min(int64(cores), (b.size-b.next.Load()-1)/blockBytes+1)
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
func (b *builderRun) work(ctx context.Context) error {
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
		if off >= b.size {
			return nil
		}
		p := buf[:min(blockBytes, b.size-off)]
		if err := b.read(p, off); err != nil {
			return err
		}
		b.parts.hash(p, off)
		b.prefix.add(off, off+int64(len(p)))
	}
}

func (b *builderRun) read(p []byte, off int64) error {
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

// parts holds the chaining values of a file that is being hashed. It is safe for
// concurrent use, but each group is hashed once.
type parts struct {
	size int64 // bytes
	g    GroupSize
	root Root // of a file of one group, which has no chaining values

	mu  sync.Mutex
	cvs [][]byte // of partBytes of the file each; guarded by mu, but not the values
}

// isOneGroup reports whether the file has no chaining values.
func (t *parts) isOneGroup() bool { return t.g.Groups(t.size) == 1 }

// at returns the chaining values from the group at offset off on, up to the end of
// its part. off is the start of a group.
func (t *parts) at(off int64) []byte {
	t.mu.Lock()
	defer t.mu.Unlock()
	i := off / partBytes
	for int64(len(t.cvs)) <= i {
		n := min(partBytes, t.size-int64(len(t.cvs))*partBytes)
		t.cvs = append(t.cvs, make([]byte, t.g.Groups(n)*hashSize))
	}
	return t.cvs[i][off%partBytes/t.g.Bytes()*hashSize:]
}

// hash sets the chaining values of the groups in p, the bytes of the file at off.
// For a file of one group it sets the root instead.
func (t *parts) hash(p []byte, off int64) {
	n := t.g.groupAt(off)
	if t.isOneGroup() {
		t.root = nodeRoot(subtreeNode(p, n.firstChunk(t.g)))
		return
	}
	cvs := t.at(off)
	for len(p) > 0 {
		group := p[:min(t.g.Bytes(), int64(len(p)))]
		cv := nodeCV(subtreeNode(group, n.firstChunk(t.g)))
		cvs = cvs[copy(cvs, cv[:]):]
		p = p[len(group):]
		n++
	}
}

// values returns the chaining values of the groups in the bytes [from, to) of the
// file, which are in one part.
func (t *parts) values(from, to int64) []byte {
	if t.isOneGroup() {
		return nil
	}
	n := t.g.Groups(to-from) * hashSize
	return t.at(from)[:n:n]
}

// tree returns the tree of the file. All groups must have been hashed.
func (t *parts) tree() *Tree {
	tree := &Tree{size: t.size, g: t.g, root: t.root}
	if t.isOneGroup() {
		return tree
	}
	if tree.cvs = t.cvs[0]; len(t.cvs) > 1 {
		tree.cvs = slices.Concat(t.cvs...)
	}
	tree.root = nodeRoot(parentNode(tree.cvs))
	return tree
}
