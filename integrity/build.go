package integrity

import (
	"context"
	"fmt"
	"io"
	"runtime"
	"sync"
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
	b, err := NewBuilder(size, g)
	if err != nil {
		return nil, err
	}
	if err := b.Run(ctx, r, progress, nil); err != nil {
		return nil, err
	}
	return b.Tree(), nil
}

// cores is the number of blocks that are hashed at once. It is read at the start of
// the process, because GOMAXPROCS may be lowered for a time later (internal/procs).
var cores = runtime.GOMAXPROCS(0)

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
