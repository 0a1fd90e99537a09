package integrity

import (
	"context"
	"errors"
	"io"

	"golang.org/x/sync/errgroup"
)

// Sum returns the hash of all that r holds, which it reads once, in order, while
// all cores hash what was read: for a pipe what [Build] is for a file. It takes
// 2 MiB of memory for each core, and 32 bytes for each MiB read.
//
// It returns ctx's error within one block of 1 MiB after ctx is done, but does
// not interrupt a Read; or r's own error, as it is. On return no goroutine is
// left and r is no longer used.
func Sum(ctx context.Context, r io.Reader) (Root, error) {
	s := summer{r: r, free: make(chan *[blockBytes]byte, 2*cores)}
	for range cap(s.free) {
		s.free <- nil // taken from blocks when it is needed
	}
	eg, ctx := errgroup.WithContext(ctx)
	s.eg = eg
	err := s.read(ctx)
	if failed := eg.Wait(); err == nil {
		err = failed
	}
	for range cap(s.free) {
		if b := <-s.free; b != nil {
			blocks.Put(b)
		}
	}
	switch {
	case err != nil:
		return Root{}, err
	case s.cvs == nil:
		return s.root, nil
	}
	cvs := make([]byte, 0, len(s.cvs)*hashSize)
	for _, cv := range s.cvs {
		cvs = append(cvs, cv[:]...)
	}
	return nodeRoot(parentNode(cvs)), nil
}

// A summer reads blocks, and has each hashed by a goroutine of eg.
type summer struct {
	r    io.Reader
	free chan *[blockBytes]byte // blocks that may be filled; bounds memory and goroutines
	eg   *errgroup.Group
	cvs  []*chainingValue // of whole groups of a block each; nil if one block is all
	root Root  // of that one
}

// read reads to the end. A block is hashed when it is known whether another follows: an only one is the root itself.
func (s *summer) read(ctx context.Context) error {
	var held *[blockBytes]byte
	heldBytes := 0
	for {
		b := <-s.free
		if b == nil {
			b = blocks.Get().(*[blockBytes]byte)
		}
		n, err := 0, ctx.Err()
		if err == nil {
			n, err = io.ReadFull(s.r, b[:])
		}
		ended := err == io.EOF || errors.Is(err, io.ErrUnexpectedEOF)
		if err != nil && !ended {
			s.free <- b
			if held != nil {
				s.free <- held
			}
			return err
		}
		switch {
		case n == 0 && held == nil:
			s.root = nodeRoot(subtreeNode(nil, 0))
		case n == 0 && s.cvs == nil:
			s.root = nodeRoot(subtreeNode(held[:heldBytes], 0))
		case n > 0 && held == nil && ended:
			s.root = nodeRoot(subtreeNode(b[:n], 0))
		default:
			if held != nil {
				s.hash(held, heldBytes)
				held = nil
			}
			if n > 0 && ended {
				s.hash(b, n)
				return nil
			}
		}
		if ended {
			s.free <- b
			if held != nil {
				s.free <- held
			}
			return nil
		}
		held, heldBytes = b, n
	}
}

// hash has the next block hashed, and gives its memory back then.
func (s *summer) hash(b *[blockBytes]byte, n int) {
	cv := new(chainingValue)
	first := groupNum(len(s.cvs)).firstChunk(maxGroupSize)
	s.cvs = append(s.cvs, cv)
	s.eg.Go(func() error {
		*cv = nodeCV(subtreeNode(b[:n], first))
		s.free <- b
		return nil
	})
}
