package integrity

import (
	"context"
	"io"
	"sync"

	"lukechampine.com/blake3/guts"
)

// Sum returns the BLAKE3 hash of everything in r. It reads r once, in order, while
// all cores hash the blocks that were read. [Build] does the same for a file, which
// it reads at several offsets at once. Sum needs 2 MiB of memory for each core, and
// 32 bytes for each MiB read.
//
// It returns ctx's error within one block of 1 MiB after ctx is done, but does not
// interrupt a Read. An error of r is returned as it is. On return no goroutine is
// left and r is no longer used.
func Sum(ctx context.Context, r io.Reader) (Root, error) {
	s := summer{reader: r, busy: make(chan struct{}, 2*cores)}
	err := s.run(ctx)
	s.wg.Wait()
	if err != nil {
		return Root{}, err
	}
	return s.root(), nil
}

// summer hashes the blocks of a stream. One goroutine reads. Each block that was
// read is hashed by its own goroutine, which ends with the block.
type summer struct {
	reader io.Reader
	busy   chan struct{} // one element for each block in memory; its capacity bounds them
	wg     sync.WaitGroup

	first guts.Node        // of block 0, not compressed; valid after wg.Wait
	cvs   []*chainingValue // one for each block, in order; valid after wg.Wait
}

// run reads all blocks and starts to hash each of them.
func (s *summer) run(ctx context.Context) error {
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		s.busy <- struct{}{}
		block := blocks.Get().(*[blockBytes]byte)
		n, err := readBlock(s.reader, block)
		atEnd := err == io.EOF
		failed := err != nil && !atEnd
		if failed || n == 0 {
			s.free(block)
		} else {
			s.hash(block, n)
		}
		switch {
		case failed:
			return err
		case atEnd:
			return nil
		}
	}
}

// readBlock reads until the block is full or r returns an error, and returns that
// error. io.ReadFull would not tell the end of r from its io.ErrUnexpectedEOF.
func readBlock(r io.Reader, block *[blockBytes]byte) (n int, err error) {
	for n < len(block) && err == nil {
		var read int
		read, err = r.Read(block[n:])
		n += read
	}
	return n, err
}

// hash starts to hash the next block, which has n bytes, and frees it afterwards.
func (s *summer) hash(block *[blockBytes]byte, n int) {
	index := len(s.cvs)
	cv := new(chainingValue)
	s.cvs = append(s.cvs, cv)
	s.wg.Go(func() {
		node := subtreeNode(block[:n], groupNum(index).firstChunk(maxGroupSize))
		if index == 0 {
			s.first = node
		}
		*cv = nodeCV(node)
		s.free(block)
	})
}

func (s *summer) free(block *[blockBytes]byte) {
	blocks.Put(block)
	<-s.busy
}

// root merges the blocks. The node of an only block is the root node.
func (s *summer) root() Root {
	switch len(s.cvs) {
	case 0:
		return nodeRoot(subtreeNode(nil, 0))
	case 1:
		return nodeRoot(s.first)
	}
	cvs := make([]byte, 0, len(s.cvs)*hashSize)
	for _, cv := range s.cvs {
		cvs = append(cvs, cv[:]...)
	}
	return nodeRoot(parentNode(cvs))
}
