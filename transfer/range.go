package transfer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"kwikcp/integrity"
	"kwikcp/internal/rangeset"
	"kwikcp/transfer/internal/partfile"
	"kwikcp/transfer/internal/wire"
	transferpb "kwikcp/transfer/internal/wire/proto"
)

// A ByteRange is a part of a file in the notation of HTTP and curl. FIRST-LAST includes both
// ends and counts from 0. FIRST- extends to the end of the file. -N means the last N bytes.
//
// First is -1 for the last N bytes, and Last is then N. Last is math.MaxInt64 for a range to
// the end of the file.
type ByteRange struct{ First, Last int64 }

// String returns the notation of the range, such as 0-99, 100- or -50.
func (r ByteRange) String() string { return wire.ByteRange(r).String() }

// ParseByteRange parses a ByteRange. The text of its errors is a short clause for
// the user, such as "it ends before it starts".
func ParseByteRange(text string) (ByteRange, error) {
	r, err := wire.ParseByteRange(text)
	return ByteRange(r), err
}

// A RangeError reports that a file has no byte of the requested range.
type RangeError struct {
	Range ByteRange
	Size  int64 // of the file, in bytes
}

func (e *RangeError) Error() string {
	return fmt.Sprintf("there are no bytes %v, the file has %d", e.Range, e.Size)
}

// setWindow finds out which bytes are wanted and prepares the part file for them.
func (g *get) setWindow(ctx context.Context) error {
	want, err := g.wanted()
	if err != nil {
		return err
	}
	cover, err := g.part.SetWindow(want, g.proved())
	if err != nil {
		return targetError(g.path, err)
	}
	if err := g.part.ProveHoles(ctx, g.observer.checking); err != nil {
		return targetErrorIn(ctx, g.path, err)
	}
	g.result.Offset = want.Start
	g.observer.outside(g.manifest.Size - cover.Len())
	return nil
}

// wanted returns the requested bytes of the file. It fails if the file has none of them. That is
// not proved: no chunk group is fetched that could prove it.
func (r *request) wanted() (rangeset.Range, error) {
	want := wire.ByteRange(*r.byteRange).Of(r.manifest.Size)
	if want.Empty() {
		notThere := &RangeError{*r.byteRange, r.manifest.Size}
		return want, &Error{Kind: KindNotFound, Op: fmt.Sprintf("fetch %q", r.url.Path), Err: notThere}
	}
	return want, nil
}

// proved returns the tree of the file, or of the requested range. One of them must be complete.
func (r *request) proved() partfile.Tree {
	if r.rangeTree != nil {
		return r.rangeTree
	}
	return r.tree
}

// readRangeProof reads the proof of the requested range and checks it against the root of the
// manifest. An older server ignores the range and sends the whole tree; readRangeProof then reads
// that.
//
// Manifest and range determine the length of the proof. Memory is allocated only for the values
// that have arrived.
func (r *request) readRangeProof(ctx context.Context) error {
	want, err := r.wanted()
	if err != nil {
		return err
	}
	size, group := r.growing.Size(), r.growing.GroupSize()
	length := integrity.RangeProofLen(size, group, want.Start, want.End)
	var proof []byte
	for int64(len(proof)) < length {
		reply, err := r.reply(ctx, time.Now().Add(r.answerTimeout()))
		if err != nil {
			return err
		}
		switch answer := reply.GetReply().(type) {
		case *transferpb.Reply_RangeProof:
			values := answer.RangeProof.GetValues()
			tooLong := int64(len(values)) > length-int64(len(proof))
			if len(values) == 0 || len(values)%wire.HashSize != 0 || tooLong {
				return r.answer.malformed(errors.New("a range proof that does not fit its manifest"))
			}
			if err := r.trees.take(int64(len(values))); err != nil {
				return err
			}
			proof = append(proof, values...)
			r.covered = int64(len(proof)) / wire.HashSize * group.Bytes()
		case *transferpb.Reply_Tree:
			if len(proof) > 0 {
				return r.answer.unexpected(reply)
			}
			if err := r.growTree(answer.Tree); err != nil {
				return err
			}
			return r.completeTree(ctx, nil)
		case *transferpb.Reply_Hashing, nil:
		default:
			return r.answer.unexpected(reply)
		}
	}
	tree, err := integrity.FromRangeProof(size, group, want.Start, want.End, proof, r.manifest.Root)
	if err != nil {
		return &Error{Kind: KindIntegrity, Op: r.answer.op, Err: err}
	}
	r.rangeTree = tree
	r.observer.manifest(r.manifest)
	return nil
}

// spool creates a place for a range that goes to the output. The groups arrive in any order and
// may not fit in memory. The caller removes the directory.
func spool() (target, dir string, err error) {
	if dir, err = os.MkdirTemp("", "kwikcp-"); err != nil {
		return "", "", LocalError("make a temporary file for the range", err)
	}
	return filepath.Join(dir, "range"), dir, nil
}

// copyOut copies the range from the part file to the output.
func (g *get) copyOut(ctx context.Context) error {
	if err := g.part.CheckUnchanged(); err != nil {
		return LocalError("read the temporary file of the range", err)
	}
	r := g.part.Content()
	buf := make([]byte, 256<<10)
	for ctx.Err() == nil {
		n, err := r.Read(buf)
		if n > 0 {
			if _, err := g.Output.Write(buf[:n]); err != nil {
				return LocalError("write the output", err)
			}
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return LocalError("read the temporary file of the range", err)
		}
	}
	return context.Cause(ctx)
}
